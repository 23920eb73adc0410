"""Constraints on the words of a text: whole words, in any case, accents and punctuation aside.

A word written with hyphens is its parts, and also all of them joined: "hotdog" and "hot dog" are in
"a hot-dog". See tasks/keyword/automaton.py for the rare texts in which a word is not found.
"""

import dataclasses
import functools
from collections.abc import Sequence

from dinado_jax.automata.automaton import Automaton
from dinado_jax.automata.logic import complement
from dinado_jax.constraints.constraint import Constraint, limits
from dinado_jax.constraints.order import followed_by
from dinado_jax.errors import InputError, quote
from dinado_jax.tasks.keyword.automaton import Pattern, words_automaton
from dinado_jax.tasks.keyword.lexical import patterns, plain, without_accents, words
from dinado_jax.tasks.protocol import Wanted, WantedIn
from dinado_jax.tasks.wanted import all_wanted, any_wanted, shortest_runs


def contains(*texts: str, inflected: bool = False) -> Constraint:
    """Satisfied by texts that have every one of some words, or words in sequence.

    Args:
      texts: such as "dog", "hot dog".
      inflected: whether any inflection of a word will do, as for the lexical oracle.

    Raises:
      InputError: without words, and for one without letters or digits.
    """
    name = _written("contains", texts, inflected)
    found = [_found(frozenset([text]), inflected) for text in texts]
    wanted = all_wanted([_wanted(text, inflected) for text in texts])
    return Constraint(name, tuple((each,) for each in found), wanted)


def any_of_words(*texts: str, inflected: bool = False) -> Constraint:
    """Satisfied by texts that have at least one of some words; otherwise as `contains`."""
    name = _written("any_of_words", texts, inflected)
    wanted = any_wanted([_wanted(text, inflected) for text in texts])
    return Constraint(name, ((_found(frozenset(texts), inflected),),), wanted)


def without(*texts: str, inflected: bool = False) -> Constraint:
    """Satisfied by texts that have none of some words; otherwise as `contains`."""
    name = _written("without", texts, inflected)
    with limits(name):
        return Constraint(name, ((complement(_found(frozenset(texts), inflected)),),))


def in_order(*texts: str, inflected: bool = False) -> Constraint:
    """Satisfied by texts that have every one of some words, each after the one before it.

    Anything may stand between two of them; at least a space, a hyphen or punctuation does.
    Otherwise as `contains`.
    """
    name = _written("in_order", texts, inflected)
    wanted = all_wanted([_wanted(text, inflected) for text in texts])
    return Constraint(name, ((_ordered(texts, inflected),),), wanted)


@functools.cache
def _ordered(texts: tuple[str, ...], inflected: bool) -> Automaton:
    """Accepts where each of some words is, one after another."""
    name = _written("in_order", texts, inflected)
    *earlier, last = [_found(frozenset([text]), inflected) for text in texts]
    with limits(name):
        for first in reversed(earlier):
            last = followed_by(first, last)
    return dataclasses.replace(last, name=name)


@functools.cache
def _found(texts: frozenset[str], inflected: bool) -> Automaton:
    """Accepts where any of some words is."""
    wanted = frozenset().union(*(_patterns(text, inflected) for text in texts))
    name = _written("any_of_words" if len(texts) > 1 else "contains", sorted(texts), inflected)
    with limits(name):
        return dataclasses.replace(words_automaton(wanted), name=name)


def _wanted(word: str, inflected: bool) -> WantedIn:
    """Where a text has a word."""
    automaton = _found(frozenset([word]), inflected)
    longest = max(map(len, _patterns(word, inflected)))
    holds = functools.lru_cache(2**14)(automaton.satisfied_by)  # texts share most of their words

    def wanted(prompt: str, text: str) -> list[Wanted]:
        found = automaton.satisfied_by(text)
        return [Wanted(word, found, shortest_runs(holds, longest, text) if found else ())]

    return wanted


def _patterns(text: str, inflected: bool) -> set[Pattern]:
    if inflected:
        return {tuple(pattern.split()) for pattern in patterns(text)}
    return {tuple(words(without_accents(plain(text))))}


def _written(function: str, texts: Sequence[str], inflected: bool) -> str:
    """How a constraint is written, of words that can be."""
    given = [*map(repr, texts), *(["inflected=True"] if inflected else [])]
    name = f"{function}({', '.join(given)})"
    if not texts:
        raise InputError(f"{name}, no words: give at least one")
    for text in texts:
        if not words(text):
            raise InputError(f"{name}, {quote(text)}: give a word, not punctuation")
    return name
