"""Constraints on texts: oracles that automata decide, so that a mask can guarantee them."""

from dinado_jax.constraints.constraint import AllOf, AnyOf, Constraint
from dinado_jax.constraints.counting import at_least_words, at_most_words
from dinado_jax.constraints.ends import ends_with, starts_with
from dinado_jax.constraints.pattern import pattern
from dinado_jax.constraints.words import any_of_words, contains, in_order, without

__all__ = [
    "AllOf",
    "AnyOf",
    "Constraint",
    "any_of_words",
    "at_least_words",
    "at_most_words",
    "contains",
    "ends_with",
    "in_order",
    "pattern",
    "starts_with",
    "without",
]
