"""The lexical oracle: whether a text uses every keyword of its prompt, in any inflection.

Both are normalised before they are compared: lower case, composed letters, one kind of apostrophe,
no zero-width characters (soft hyphens, byte-order marks).
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from dinado_jax.errors import InputError, quote
from dinado_jax.tasks.keyword.format import concepts_of
from dinado_jax.tasks.keyword.inflection import inflections

_APOSTROPHES = (
    "\u2018\u2019\u201b\u02b9\u02bb\u02bc\u02bd\u02c8\u0060\u00b4\u2032\u2035\uff07\ua78c"
)
_REPLACED = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys("\u00a9\u00ae\u2117\u2120\u2122", " ")
)
# Signs that are not part of the adjacent word; NFKC would attach them to it.
_SMALL = re.compile("[\u00aa\u00b2\u00b3\u00b9\u00ba\u2070-\u209c\u2460-\u24ff]")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_LETTER = r"(?:[^\W_][\u0300-\u036f]*)"
# Negations stay whole, or "won't" would hold "won", a form of "win"; treebanks write "wo n't".
# fmt: off
NEGATED = (
    "ai", "are", "ca", "could", "dare", "did", "does", "do", "had", "has", "have", "is", "may",
    "might", "must", "need", "ought", "sha", "should", "was", "were", "wo", "would",
)
# fmt: on
_NEGATION = re.compile(rf"\b({'|'.join(NEGATED)})(?: ?n ?' ?t| n't)(?![\w'-])")
_WORD = re.compile(rf"{_LETTER}+n't(?!{_LETTER})|{_LETTER}+")
_HYPHEN = "[-\u2010]"  # all hyphens that remain after NFKC
# Begun only where a word begins, else a long word takes a time quadratic in its length.
_HYPHENATED = re.compile(rf"(?<![^\W_]){_LETTER}+(?:{_HYPHEN}{_LETTER}+)+")
_ACCENTS = re.compile("[\u0300-\u036f]")


def plain(text: str) -> str:
    """Normalises a text; accents stay."""
    text = _SMALL.sub(" ", _INVISIBLE.sub("", text.translate(_REPLACED)))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # Turkish letters: the dotted capital becomes i with a dot above, the dotless one is an i, too.
    text = text.replace("i\u0307", "i").replace("\u0131", "i")
    return _NEGATION.sub(r"\1n't", text)


def words(text: str) -> list[str]:
    """Splits a text into lower-case words: runs of letters and digits, so "dog's" -> dog, s and
    "hot-dogs" -> hot, dogs. Only negations keep their apostrophe, always as "'": "won\u2019t",
    "wo n't" and "won 't" all become "won't".
    """
    return _WORD.findall(plain(text))


@cache
def forms(concept: str) -> frozenset[str]:
    """Returns the concept, normalised as by `words`, and its inflections as any part of speech.

    A compound is also joined: hot-dogs, hotdogs.

    The concept is taken as a lemma: "left" is a form of "leave", but "leave" is none of "left".
    Raises InputError for a concept without letters or digits, which no text could contain.
    """
    parts = words(concept)
    if not parts:
        raise InputError(f"concept {quote(concept)}, lexical oracle: give a word, not punctuation")
    inflected = inflections("-".join(parts))
    return frozenset(inflected | {form.replace("-", "") for form in inflected})


def without_accents(text: str) -> str:
    """English writes café and cafe, encyclopædia and encyclopaedia."""
    text = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    return text.replace("\u00e6", "ae").replace("\u0153", "oe")


def _spaced(text: str) -> str:
    return f" {' '.join(words(without_accents(plain(text))))} "


@cache
def patterns(concept: str) -> tuple[str, ...]:
    """Returns the forms of a concept as texts contain them: words with a space around each."""
    return tuple({_spaced(form) for form in forms(concept)})


def present(concepts: Sequence[str], text: str) -> list[bool]:
    """Returns for each concept whether the text contains one of its forms as whole words.

    A hyphenated concept matches its parts in sequence, or joined: "hot-dog" is in "a hot-dog", in
    "a hot dog" and in "a hotdog"; "hotdog" is in "a hot-dog", but not in "a hot dog", or "notable"
    would be in "not able". "cat" is in "cat-like" but not in "category".
    """
    joined = [re.sub(_HYPHEN, "", compound) for compound in _HYPHENATED.findall(plain(text))]
    spaced = f"{_spaced(text)}|{_spaced(' '.join(joined))}"
    return [any(pattern in spaced for pattern in patterns(concept)) for concept in concepts]


def coverage(prompt: str, text: str) -> float:
    """Returns the share, in [0, 1], of the prompt's concepts present in the text."""
    found = present(concepts_of(prompt), text)
    return sum(found) / len(found)


def lexical(prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """The oracle: whether every concept of the prompt is present in the text, per sample.

    Raises InputError if a prompt is not in the keyword format.
    """
    return [
        all(present(concepts_of(prompt), text)) for prompt, text in zip(prompts, texts, strict=True)
    ]
