"""The lexical oracle: does a text use every keyword of its prompt, in any inflection?"""

import re
from collections.abc import Sequence
from functools import cache

from dinado_jax.errors import InputError
from dinado_jax.tasks.keywords import concepts_of

# Negations stay whole, or "won't" would hold "won", a form of "win".
_WORD = re.compile(r"[^\W_]+n['\u2019]t(?![^\W_])|[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case word tokens: runs of letters and digits, so "dog's" -> dog, s and
    "hot-dogs" -> hot, dogs; only negations keep their apostrophe ("won't")."""
    return _WORD.findall(text.lower())


@cache
def forms(concept: str) -> frozenset[str]:
    """The concept in lower case and all its inflections, as any part of speech, that the
    dictionary of lemminflect knows; a word unknown to it is inflected by rule, as noun and verb.

    Raises InputError for a concept without letters or digits, which no text could hold.
    """
    import lemminflect

    concept = concept.lower()
    if not words(concept):
        raise InputError(f"concept {concept!r}, lexical oracle: give a word, not punctuation")
    inflected = lemminflect.getAllInflections(concept) or (
        lemminflect.getAllInflectionsOOV(concept, "NOUN")
        | lemminflect.getAllInflectionsOOV(concept, "VERB")
    )
    return frozenset([concept, *(form.lower() for tagged in inflected.values() for form in tagged)])


def _spaced(text: str) -> str:
    return f" {' '.join(words(text))} "


@cache
def _patterns(concept: str) -> tuple[str, ...]:
    return tuple(_spaced(form) for form in forms(concept))


def present(concepts: Sequence[str], text: str) -> list[bool]:
    """For each concept, whether the text holds one of its forms as whole words.

    A hyphenated concept matches its parts in a row: "hot-dog" is in "a hot-dog" and in
    "a hot dog"; "cat" is in "cat-like" but not in "category".
    """
    spaced = _spaced(text)
    return [any(pattern in spaced for pattern in _patterns(concept)) for concept in concepts]


def coverage(prompt: str, text: str) -> float:
    """The share, in [0, 1], of the prompt's concepts present in the text."""
    found = present(concepts_of(prompt), text)
    return sum(found) / len(found)


def lexical(prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """The oracle: per sample, is every concept of the prompt present in the text?

    Raises InputError if a prompt is not in the keyword format.
    """
    return [
        all(present(concepts_of(prompt), text)) for prompt, text in zip(prompts, texts, strict=True)
    ]
