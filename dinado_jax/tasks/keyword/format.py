"""The "keywords = sentence" format shared by every keyword task: a base is tuned on the line
f"{prompt} {reference}", and a prompt alone is what it continues."""

from collections.abc import Sequence
from dataclasses import dataclass

from dinado_jax.errors import InputError, quote

END = " ="


@dataclass(frozen=True)
class Example:
    """A prompt such as "dog chase =" and the sentences people wrote for it (may be none)."""

    prompt: str
    references: tuple[str, ...]


def format_prompt(concepts: Sequence[str]) -> str:
    """("dog", "chase") -> "dog chase =".

    Raises InputError without concepts, or if a concept is empty or holds white space (the prompt
    could not be read back).
    """
    for concept in concepts:
        if concept.split() != [concept]:
            raise InputError(
                f"concept {quote(concept)}, keyword prompt: a concept is one word, join words by "
                "hyphens"
            )
    if not concepts:
        raise InputError("no concepts, keyword prompt: give at least one")
    return " ".join(concepts) + END


def concepts_of(prompt: str) -> tuple[str, ...]:
    """ "dog chase =" -> ("dog", "chase"), the inverse of `format_prompt`.

    Raises InputError if the prompt does not end in " =" or has no concepts before it.
    """
    concepts = tuple(prompt.removesuffix(END).split())
    if not prompt.endswith(END) or not concepts:
        raise InputError(f'prompt {quote(prompt)}, keyword task: write it as "dog chase ="')
    return concepts
