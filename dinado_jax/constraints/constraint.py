"""Constraints on texts, each an oracle that automata decide, combined by `&`, `|` and `~`."""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from dinado_jax.automata.automaton import Automaton, TooLarge
from dinado_jax.automata.compiled import AutomataOracle
from dinado_jax.automata.logic import complement, disjoint, union
from dinado_jax.errors import InputError
from dinado_jax.tasks.protocol import WantedIn
from dinado_jax.tasks.wanted import all_wanted, any_wanted, wanted_by

Part = TypeVar("Part")

MOST_CLAUSES = 64  # of which every two are compared


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Constraint:
    """What a text must satisfy: every clause, by any automaton of it.

    It is an oracle, `constraint(prompts, texts)`, which reads the texts alone: what its automata
    accept, exactly. Of a character that is not there in full (U+FFFD, part of its bytes) it takes
    any to be possible: a text satisfies neither a constraint nor its negation where it matters.

    Raises:
      InputError: where it is certain that no text satisfies it, where an automaton is larger than
        its limit, and where `|` or `~` makes more clauses than `MOST_CLAUSES`.
    """

    name: str  # as it is written in Python
    clauses: tuple[tuple[Automaton, ...], ...]
    wanted: WantedIn | None = None  # what it wants of a text; None if it does not say

    def __post_init__(self):
        parts = self.automata("")
        for one, other in itertools.combinations_with_replacement(parts, 2):
            if disjoint(one, other):
                raise InputError(f"{self}, no text satisfies it: correct it")

    def __repr__(self) -> str:
        return self.name

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """Whether each text satisfies it."""
        return [
            all(any(each.satisfied_by(text) for each in clause) for clause in self.clauses)
            for text in texts
        ]

    def automata(self, prompt: str) -> tuple[Automaton, ...]:
        """One per clause, whatever the prompt: a text that all accept satisfies it."""
        return self._automata

    @functools.cached_property
    def _automata(self) -> tuple[Automaton, ...]:
        with limits(self.name):
            return tuple(map(union, self.clauses))

    def __and__(self, other: "Constraint") -> "Constraint":
        """Satisfied where both are."""
        clauses = _distinct(self.clauses + other.clauses)
        wanted = all_wanted([self.wanted, other.wanted])
        return Constraint(f"({self} & {other})", clauses, wanted)

    def __or__(self, other: "Constraint") -> "Constraint":
        """Satisfied where one is, or both are."""
        name = f"({self} | {other})"
        with limits(name):
            pairs = _choices([self.clauses, other.clauses])
        clauses = (tuple(dict.fromkeys(one + another)) for one, another in pairs)
        return Constraint(name, _distinct(clauses), any_wanted([self.wanted, other.wanted]))

    def __invert__(self) -> "Constraint":
        """Satisfied where it is not."""
        with limits(f"~{self}"):
            choices = _choices(self.clauses)
            clauses = (tuple(dict.fromkeys(map(complement, choice))) for choice in choices)
            return Constraint(f"~{self}", _distinct(clauses))


class AllOf:
    """Satisfied where all of some oracles are: `AllOf(LEXICAL, at_most_words(12))`.

    They may read the prompt. Constraints, which do not, are better joined by `&`: it finds
    contradictions early.
    """

    def __init__(self, *oracles: AutomataOracle):
        self._oracles = oracles
        self.wanted = all_wanted(list(map(wanted_by, oracles)))

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """The least label of each text."""
        labels = [oracle(list(prompts), list(texts)) for oracle in self._oracles]
        return [float(min(each)) for each in zip(*labels, strict=True)]

    def automata(self, prompt: str) -> tuple[Automaton, ...]:
        """Those of every oracle."""
        return tuple(each for oracle in self._oracles for each in oracle.automata(prompt))


class AnyOf:
    """Satisfied where one of some oracles is, or several; as `AllOf`, they may read the prompt."""

    def __init__(self, *oracles: AutomataOracle):
        self._oracles = oracles
        self.wanted = any_wanted(list(map(wanted_by, oracles)))

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """The greatest label of each text."""
        labels = [oracle(list(prompts), list(texts)) for oracle in self._oracles]
        return [float(max(each)) for each in zip(*labels, strict=True)]

    def automata(self, prompt: str) -> tuple[Automaton, ...]:
        """Of one automaton of each oracle what any of them accepts, for all such choices.

        Raises:
          InputError: where one is larger than its limit, or they are too many.
        """
        with limits("any of several oracles"):
            choices = _choices([oracle.automata(prompt) for oracle in self._oracles])
            return tuple(union(tuple(dict.fromkeys(each))) for each in choices)


@contextlib.contextmanager
def limits(name: str) -> Iterator[None]:
    """Within it an automaton that grows too large is an InputError of a constraint of that name."""
    try:
        yield
    except TooLarge as error:
        raise InputError(f"{name}, {error}: write a simpler constraint") from None


def _choices(of: Sequence[Sequence[Part]]) -> Iterator[tuple[Part, ...]]:
    """One part of each, in every way. TooLarge for more than `MOST_CLAUSES`."""
    count = math.prod(map(len, of))
    if count > MOST_CLAUSES:
        raise TooLarge(f"it has {count:,} clauses, and {MOST_CLAUSES} are the most")
    return itertools.product(*of)


def _distinct(clauses: Iterable[tuple[Automaton, ...]]) -> tuple[tuple[Automaton, ...], ...]:
    return tuple(dict.fromkeys(clauses))
