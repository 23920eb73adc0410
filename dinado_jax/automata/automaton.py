"""Deterministic automata over symbols, built from a step function. Host side.

S states, A symbols.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import TypeVar

import numpy as np

MOST_STATES = 2**12
MOST_TRANSITIONS = 2**24
State = TypeVar("State", bound=Hashable)


class TooLarge(Exception):
    """An automaton would be larger than a limit, which its text names."""


def _itself(text: str) -> str:
    return text


@dataclasses.dataclass(frozen=True, eq=False)
class Automaton:
    """A minimal deterministic automaton; state 0 is the start."""

    symbols: str  # A of them; the last one stands for every symbol that it does not name
    table: np.ndarray  # int32 [S, A], the state after each symbol
    accepting: np.ndarray  # bool [S]
    read: Callable[[str], str] = _itself  # the symbols of a text, of one character after another
    name: str = "its constraint"  # in messages

    def run(self, symbols: str) -> int:
        """The state after some symbols."""
        rows, number = self._rows, self._number
        state, last = 0, len(number) - 1
        for symbol in symbols:
            state = rows[state][number.get(symbol, last)]
        return state

    def accepts(self, symbols: str) -> bool:
        """Whether it accepts some symbols."""
        return bool(self.accepting[self.run(symbols)])

    def satisfied_by(self, text: str) -> bool:
        """Whether it accepts the symbols of a text."""
        return self.accepts(self.read(text))

    @functools.cached_property
    def _rows(self) -> list[list[int]]:
        return self.table.tolist()

    @functools.cached_property
    def _number(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @property
    def settled(self) -> np.ndarray:
        """bool [S]: accepting, whatever follows. In a minimal automaton that is one state."""
        stays = self.table == np.arange(len(self.table))[:, None]
        return self.accepting & stays.all(1)


def explore(
    start: State,
    step: Callable[[State, str], State],
    accepts: Callable[[State], bool],
    symbols: str,
) -> Automaton:
    """Builds the minimal automaton of all states that can be reached.

    Args:
      start: the state before any symbol.
      step: (state, symbol) -> the next state.
      accepts: whether a text may end in a state.
      symbols: each of them once.

    Raises:
      TooLarge: for more than `MOST_STATES` states before they are joined.
    """
    number, states, rows = {start: 0}, [start], []
    for state in states:  # grows as states are found
        row = []
        for symbol in symbols:
            following = step(state, symbol)
            if following not in number:
                number[following] = len(states)
                states.append(following)
                if len(states) > MOST_STATES:
                    raise TooLarge(f"it needs more than {MOST_STATES:,} states")
            row.append(number[following])
        rows.append(row)
    accepting = np.array([accepts(state) for state in states])
    return minimal(Automaton(symbols, np.array(rows, np.int32), accepting))


def minimal(automaton: Automaton) -> Automaton:
    """Joins states that no continuation tells apart (Moore's algorithm), in the order found."""
    table, label = automaton.table, automaton.accepting.astype(np.int32)
    while True:
        split = _numbered(np.column_stack([label, label[table]]))
        if split.max() == label.max():
            break
        label = split
    _, first = np.unique(split, return_index=True)
    accepting = automaton.accepting[first]
    return dataclasses.replace(automaton, table=split[table[first]], accepting=accepting)


def _numbered(rows: np.ndarray) -> np.ndarray:
    """The number of each row among the different ones, in the order of their first occurrence."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]
