"""Constraints on the number of words: runs of letters and digits.

"n't" belongs to the word that it follows. Otherwise "dog's" and "hot-dog" are two words, as for the
oracle `at_most_12_words`, which differs in one thing: it takes a negation written apart ("ca n't")
for one word.
"""

import dataclasses
import functools

from dinado_jax.automata.automaton import Automaton, explore
from dinado_jax.automata.logic import complement, with_partial
from dinado_jax.constraints.constraint import Constraint, limits
from dinado_jax.errors import InputError
from dinado_jax.tasks.keyword.symbols import (
    APOSTROPHE,
    HYPHEN,
    LETTER,
    MARK,
    OTHER,
    SPACE,
    is_letter,
    symbols_of,
)

# What a text ends with: nothing of a word; one; one in n after another letter, and what may follow.
_GAP, _WORD, _N, _N_APOSTROPHE, _NOT = "", "word", "n", "n'", "n't"
_State = tuple[int, str]  # the number of words, and one of these


MOST_WORDS = 150  # counts up to this one have automata within their limit of states


def count_words(text: str) -> int:
    """The number of words that these constraints count."""
    state = 0, _GAP
    for symbol in symbols_of(text):
        state = _after(state, symbol)
    return state[0]


def at_least_words(count: int) -> Constraint:
    """Satisfied by texts of at least so many words. InputError for less than 1, and too many."""
    name = f"at_least_words({count})"
    if count < 1:
        raise InputError(f"{name}, every text has so many: give 1 or more")
    return Constraint(name, ((_at_least(count),),))


def at_most_words(count: int) -> Constraint:
    """Satisfied by texts of at most so many words. InputError for less than 0, and too many."""
    name = f"at_most_words({count})"
    if count < 0:
        raise InputError(f"{name}, no text has so few: give 0 or more")
    return Constraint(name, ((_at_most(count),),))


@functools.cache
def _at_least(count: int) -> Automaton:
    def step(state: _State, symbol: str) -> _State:
        words, end = _after(state, symbol)
        return (words, end) if words < count else (count, _GAP)

    name = f"at_least_words({count})"
    with limits(name):
        automaton = explore(
            (0, _GAP),
            step,
            lambda state: state[0] >= count,
            "nt" + SPACE + APOSTROPHE + HYPHEN + MARK + OTHER + LETTER,
        )
        return with_partial(dataclasses.replace(automaton, read=symbols_of, name=name))


@functools.cache
def _at_most(count: int) -> Automaton:
    name = f"at_most_words({count})"
    more = _at_least(count + 1)
    with limits(name):
        return dataclasses.replace(complement(more), name=name)


def _after(state: _State, symbol: str) -> _State:
    words, end = state
    in_word = end in (_WORD, _N)
    if symbol == MARK:
        return words, _WORD if in_word else _GAP
    if symbol == APOSTROPHE and end == _N:
        return words, _N_APOSTROPHE
    if symbol == "t" and end == _N_APOSTROPHE:
        return words, _NOT
    if not is_letter(symbol):
        return words, _GAP
    # After "n't" a letter goes on with the word that the t begins.
    goes_on = _N if symbol == "n" and (in_word or end == _NOT) else _WORD
    return words if in_word else words + 1, goes_on
