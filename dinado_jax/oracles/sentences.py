"""Oracles on plain English, which read the continuation alone: what any text may have or lack."""

from collections.abc import Sequence

from dinado_jax.tasks.keyword.lexical import words

COLOURS = frozenset(
    (
        "amber", "beige", "black", "blue", "brown", "crimson", "cyan", "gold", "golden", "gray",
        "green", "grey", "indigo", "lavender", "lilac", "magenta", "maroon", "mauve", "orange",
        "pink", "purple", "red", "scarlet", "silver", "turquoise", "violet", "white", "yellow",
    )
)  # fmt: skip
MOST_WORDS = 12


def mentions_colour(prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """Whether each text has the name of a colour among its words."""
    return [not COLOURS.isdisjoint(words(text)) for text in texts]


def ends_with_question(prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """Whether each text ends with a question mark, quotation marks after it aside."""
    return [text.rstrip(" \n\"'\u201d\u2019").endswith("?") for text in texts]


def at_most_12_words(prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """Whether each text has at most 12 words."""
    return [len(words(text)) <= MOST_WORDS for text in texts]
