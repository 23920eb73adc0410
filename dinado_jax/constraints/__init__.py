"""Constraints on texts: oracles that automata decide, so that a mask can guarantee them."""

from dinado_jax.constraints.constraint import AllOf, Constraint
from dinado_jax.constraints.counting import at_least_words, at_most_words
from dinado_jax.constraints.pattern import pattern
from dinado_jax.constraints.words import any_of_words, contains, in_order, without

__all__ = [
    "AllOf",
    "Constraint",
    "any_of_words",
    "at_least_words",
    "at_most_words",
    "contains",
    "in_order",
    "pattern",
    "without",
]
