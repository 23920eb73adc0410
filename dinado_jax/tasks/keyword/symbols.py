"""The characters of a text as symbols: what the lexical oracle makes of each, whatever stands
beside it.

Letters and digits are themselves, in lower case and without accents; invisible characters are
nothing. A character whose part in a word depends on its neighbours (marks of other scripts, jamo of
Hangul), and one that is not there in full (part of its bytes), is `UNKNOWN`.
"""

import functools
import unicodedata

from dinado_jax.tasks.keyword.lexical import plain, without_accents

SPACE, APOSTROPHE, HYPHEN = " ", "'", "-"
MARK = "\u0300"  # an accent of its own
UNKNOWN = "\ufffd"
OTHER = "."  # no part of a word: punctuation, new lines, signs
LETTER = "*"  # a letter or digit that a concept does not have
_JAMO = (range(0x1100, 0x1200), range(0xA960, 0xA980), range(0xD7B0, 0xD800), range(0xFFA0, 0xFFDD))


def symbols_of(text: str) -> str:
    """Replaces every character of a text by its symbols."""
    return text.translate(_SYMBOLS)


def is_letter(symbol: str) -> bool:
    """Whether a symbol may be part of a word."""
    return symbol.isalnum() or symbol in (LETTER, UNKNOWN)


class _Symbols(dict):
    """The symbols of characters by code point, as `str.translate` reads them."""

    def __missing__(self, code: int) -> str:
        self[code] = _symbols(chr(code))
        return self[code]


_SYMBOLS = _Symbols()


def _symbols(character: str) -> str:
    normal = plain(character)
    folded = without_accents(normal)
    if not folded:
        return MARK if normal else ""
    first = unicodedata.normalize("NFKD", character)[0]
    joins = unicodedata.category(first)[0] == "M" or any(ord(first) in jamo for jamo in _JAMO)
    if joins or plain(folded) != folded:
        return UNKNOWN
    return "".join(map(_symbol, folded))


@functools.cache
def _symbol(character: str) -> str:
    if character in (SPACE, APOSTROPHE, UNKNOWN) or character.isalnum():
        return character
    if character in (HYPHEN, "\u2010"):
        return HYPHEN
    return UNKNOWN if unicodedata.category(character)[0] == "M" else OTHER
