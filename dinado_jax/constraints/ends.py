"""Constraints on how a text begins and ends: characters, as for `str.startswith`."""

import dataclasses
import functools
import re

from dinado_jax.constraints.constraint import Constraint
from dinado_jax.constraints.pattern import pattern
from dinado_jax.errors import InputError, quote


def starts_with(*texts: str) -> Constraint:
    """Satisfied by texts that begin with one of some texts, white space aside.

    Args:
      texts: such as "The ", "A "; case counts, and "The" also begins "There".

    Raises:
      InputError: without texts, for an empty one, and for white space at the begin of one.
    """
    name = _written("starts_with", texts)
    for text in texts:
        if text != text.lstrip():
            raise InputError(f"{name}, {quote(text)}: leave out the white space at its begin")
    return _matching(f"(?s:(?:{_any(texts)}).*)", name)


def ends_with(*texts: str) -> Constraint:
    """Satisfied by texts that end with one of some texts, white space aside.

    Args:
      texts: such as ".", "?"; case counts.

    Raises:
      InputError: without texts, for an empty one, and for white space at the end of one.
    """
    name = _written("ends_with", texts)
    for text in texts:
        if text != text.rstrip():
            raise InputError(f"{name}, {quote(text)}: leave out the white space at its end")
    return _matching(f"(?s:.*(?:{_any(texts)}))", name)


@functools.cache
def _matching(expression: str, name: str) -> Constraint:
    ((automaton,),) = pattern(expression).clauses
    return Constraint(name, ((dataclasses.replace(automaton, name=name),),))


def _any(texts: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, texts))


def _written(function: str, texts: tuple[str, ...]) -> str:
    name = f"{function}({', '.join(map(repr, texts))})"
    if not texts or "" in texts:
        raise InputError(f"{name}, nothing to look for: give at least one character")
    return name
