"""Automata that accept the texts in which the lexical oracle finds a concept.

An automaton reads the symbols of a text (symbols.py) and follows all ways in which a form of the
concept may have begun: as words in sequence, or as one word written with hyphens. What it accepts
the oracle accepts; not the other way round. The oracle finds a concept, and the automaton does not,
where the only occurrence of a form

- touches an `UNKNOWN` character, or an accent that no letter carries;
- is several words that occur only in several hyphenated compounds ("ho-t do-g" for "hot-dog");
- is a negation written apart ("ca n't" for "can't");
- stands before what could be the rest of a negation that the oracle, looking further, takes for
  words ("could n't-x", "won'ts", "_could n't"), or is a compound whose end could be negated;
- begins with the word "t" after an apostrophe that follows a word in n ("a man 't shirt'");
- is a compound right after a hyphen that belongs to no other compound ("- -hot-dog").
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

from dinado_jax.automata.automaton import Automaton, explore
from dinado_jax.errors import quote
from dinado_jax.tasks.keyword.lexical import NEGATED, patterns
from dinado_jax.tasks.keyword.symbols import (
    APOSTROPHE,
    HYPHEN,
    LETTER,
    MARK,
    OTHER,
    SPACE,
    UNKNOWN,
    is_letter,
    symbols_of,
)

# What may follow a verb, and a word such as "won", so that the oracle takes both for a negation.
_AFTER_VERB = (" n't", " n 't", " n' t", " n ' t")
_AFTER_N = ("'t", " 't", "' t", " ' t")

Pattern = tuple[str, ...]


class _Before(NamedTuple):
    """What the oracle needs to know of the text before a word."""

    letter: bool = False  # whether the last character is one
    hyphen: bool = False  # whether it is one
    n: str = ""  # the end of a word in n, and the spaces and the apostrophe after it


class _Way(NamedTuple):
    """A way in which a pattern may have begun."""

    pattern: Pattern
    word: int  # the number of the newest word
    letters: int  # of it that have been read; 0: the text is between two words
    joins: bool = False  # whether hyphens may stand in it
    hyphens: bool = False  # whether one does
    after: str = ""  # what has been read since its newest letter, as far as it matters

    @property
    def complete(self) -> bool:
        """Whether the text so far has all of the pattern."""
        last = self.word == len(self.pattern) - 1
        return last and self.letters == len(self.pattern[-1])


_State = tuple[_Before, frozenset[_Way]]
_FOUND = _Way((), 0, 0)  # the way of a pattern that is there, whatever follows
_FOUND_STATE = _Before(), frozenset([_FOUND])


@functools.cache
def concept_automaton(concept: str) -> Automaton:
    """Compiles the automaton of a concept.

    Raises:
      InputError: for a concept without letters or digits.
    """
    wanted = frozenset(tuple(pattern.split()) for pattern in patterns(concept))
    return dataclasses.replace(words_automaton(wanted), name=quote(concept))


@functools.cache
def words_automaton(wanted: frozenset[Pattern]) -> Automaton:
    """Compiles the automaton of texts that have any of several sequences of words.

    Args:
      wanted: words as the oracle writes them, lower case and without accents.
    """
    letters = {letter for pattern in wanted for word in pattern for letter in word}
    named = "".join(sorted((letters | {"n", "t"}) - {APOSTROPHE}))

    def step(state: _State, symbol: str) -> _State:
        before, ways = state
        new = frozenset(filter(None, (_advanced(way, symbol) for way in ways)))
        if _FOUND in new:
            return _FOUND_STATE
        return _later(before, symbol), new | frozenset(_begun(wanted, before, symbol))

    start: _State = _Before(), frozenset()
    automaton = explore(
        start,
        step,
        lambda state: any(way == _FOUND or way.complete for way in state[1]),
        named + SPACE + APOSTROPHE + HYPHEN + MARK + UNKNOWN + OTHER + LETTER,
    )
    return dataclasses.replace(automaton, read=symbols_of)


def _later(before: _Before, symbol: str) -> _Before:
    """What has been before the next symbol."""
    if symbol == MARK:
        return before if before.letter else _Before(letter=True, n="n")
    if is_letter(symbol):
        return _Before(letter=True, n="n" if symbol in ("n", UNKNOWN) else "")
    goes_on = before.n + symbol in ("n ", "n'", "n '", "n' ", "n ' ")
    return _Before(hyphen=symbol == HYPHEN, n=before.n + symbol if goes_on else "")


def _begun(wanted: frozenset[Pattern], before: _Before, symbol: str) -> Iterator[_Way]:
    """Yields the ways that begin with a symbol."""
    if before.letter:
        return
    for pattern in wanted:
        negated = pattern[0] == "t" and APOSTROPHE in before.n
        if pattern[0][0] == symbol and not negated:
            joins = len(pattern) == 1 and APOSTROPHE not in pattern[0] and not before.hyphen
            yield _Way(pattern, 0, 1, joins)


def _advanced(way: _Way, symbol: str) -> _Way | None:
    """The way after one more symbol; None where it ends."""
    if way == _FOUND:
        return way
    word = way.pattern[way.word]
    if way.letters == len(word):
        return _after_word(way, symbol)
    if symbol == word[way.letters]:
        return way._replace(letters=way.letters + 1, after="")
    if way.letters == 0:
        return None if is_letter(symbol) or symbol == MARK else way
    if way.after or word[way.letters - 1] == APOSTROPHE:
        return None
    if symbol == HYPHEN and way.joins:
        return way._replace(hyphens=True, after=HYPHEN)
    return way if symbol == MARK else None


def _after_word(way: _Way, symbol: str) -> _Way | None:
    """The way after a symbol that follows a whole word."""
    read = way.after + symbol
    if symbol == MARK and not way.after:
        return way
    tails = _tails(way.pattern[way.word], way.hyphens)
    longer_compound = way.after == HYPHEN and is_letter(symbol)
    longer_word = not way.after and is_letter(symbol)
    if read in tails or symbol in (MARK, UNKNOWN) or longer_compound or longer_word:
        return None
    if any(tail.startswith(read) for tail in tails) or (way.hyphens and read == HYPHEN):
        return way._replace(after=read)
    if way.complete:
        return _FOUND
    following = _Way(way.pattern, way.word + 1, 0)
    for each in read:
        following = following and _advanced(following, each)
    return following


@functools.cache
def _tails(word: str, hyphens: bool) -> tuple[str, ...]:
    """What may follow a word to make it a negation; of a compound, its last part."""
    ends = [word[i:] for i in range(len(word))] if hyphens else [word]
    tails = _AFTER_VERB if any(end in NEGATED for end in ends) else ()
    if any(end == "n" or (end[-1] == "n" and end[:-1] in NEGATED) for end in ends):
        return tails + _AFTER_N
    return tails + _AFTER_N[:1] if word[-1] == "n" else tails
