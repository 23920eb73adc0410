"""Or, and, not: automata of what others accept, and of what they do not.

A character that is not there in full (part of its bytes) reads as `PARTIAL`. Whatever it may be,
what an automaton accepts must hold: neither an automaton nor its complement may accept where that
would depend on it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from dinado_jax.automata.automaton import Automaton, TooLarge, explore, minimal
from dinado_jax.automata.product import product_table
from dinado_jax.automata.token_texts import PARTIAL
from dinado_jax.automata.tokens import NEVER, least_steps

_TAGS = 0xF0000  # code points for private use, enough for the symbols of several readings


@functools.cache
def complement(automaton: Automaton) -> Automaton:
    """Accepts the texts that an automaton rejects, of texts without `PARTIAL`.

    Raises:
      TooLarge: see `explore`.
    """
    known = [symbol != PARTIAL for symbol in automaton.symbols]
    whole = Automaton(
        symbols=automaton.symbols.replace(PARTIAL, ""),
        table=automaton.table[:, known],
        accepting=~automaton.accepting,
        read=automaton.read,
        name=f"~{automaton.name}",
    )
    return with_partial(whole)


def with_partial(automaton: Automaton) -> Automaton:
    """Adds the symbol `PARTIAL`, in place of any characters: it accepts what it would for all.

    Args:
      automaton: that lacks it.

    Raises:
      TooLarge: see `explore`.
    """
    table, accepting = automaton.table, automaton.accepting
    hopeless = least_steps(table, accepting) == NEVER
    may_become_hopeless = least_steps(table, hopeless) < NEVER
    reachable = _reachable(table)
    dead = frozenset({-1})
    number = {symbol: i for i, symbol in enumerate(automaton.symbols)}

    def step(states: frozenset[int], symbol: str) -> frozenset[int]:
        if states == dead:
            return dead
        at = list(states)
        if symbol == PARTIAL:
            if may_become_hopeless[at].any():
                return dead
            return frozenset(np.flatnonzero(reachable[at].any(0)).tolist())
        following = table[at, number[symbol]]
        return dead if hopeless[following].any() else frozenset(following.tolist())

    added = explore(
        dead if hopeless[0] else frozenset({0}),
        step,
        lambda states: states != dead and bool(accepting[list(states)].all()),
        PARTIAL + automaton.symbols,
    )
    return dataclasses.replace(added, read=automaton.read, name=automaton.name)


def _reachable(table: np.ndarray) -> np.ndarray:
    """Whether any symbols, or none, lead from one state to another: bool [S, S]."""
    found, known = np.eye(len(table), dtype=bool), 0
    while (count := np.count_nonzero(found)) > known:
        known = count
        # From the last on, because most transitions lead to states that were found later.
        for state in reversed(range(len(table))):
            found[state] |= found[table[state]].any(0)
    return found


@functools.cache
def union(automata: tuple[Automaton, ...]) -> Automaton:
    """Accepts what any of them does.

    Raises:
      TooLarge: see `product_table`.
    """
    if len(automata) == 1:
        return automata[0]
    symbols, read, tables = _aligned(automata)
    states, table = product_table(tables)
    accepting = np.any([each.accepting[at] for each, at in zip(automata, states.T)], axis=0)
    name = " | ".join(each.name for each in automata)
    return minimal(Automaton(symbols, table, accepting, read, name))


@functools.cache
def disjoint(one: Automaton, other: Automaton) -> bool:
    """Whether it is certain that no text satisfies both."""
    try:
        states, _ = product_table(_aligned([one, other])[2])
    except TooLarge:
        return False
    return not (one.accepting[states[:, 0]] & other.accepting[states[:, 1]]).any()


@functools.cache
def accepts_all(automaton: Automaton) -> bool:
    """Whether it is certain that it accepts every text without `PARTIAL`."""
    try:
        return not complement(automaton).accepting.any()
    except TooLarge:
        return False


def _aligned(
    automata: Sequence[Automaton],
) -> tuple[str, Callable[[str], str], list[np.ndarray]]:
    """Symbols that all of them share, how they are read, and each table over them.

    Where a character reads differently to some, its symbols for one come after those for another,
    and each automaton stays where it is at the symbols of others.
    """
    named: dict[Callable[[str], str], str] = {}
    for each in automata:
        # The last stands for all the others, and stays the last.
        joined = dict.fromkeys(named.get(each.read, "")[:-1] + each.symbols[:-1])
        joined.pop(each.symbols[-1], None)
        named[each.read] = "".join(joined) + each.symbols[-1]
    columns = [(read, symbol) for read, symbols in named.items() for symbol in symbols]
    tables = []
    for each in automata:
        number = {symbol: i for i, symbol in enumerate(each.symbols)}
        stay, last = np.arange(len(each.table)), len(number) - 1
        tables.append(
            np.stack(
                [
                    each.table[:, number.get(symbol, last)] if read == each.read else stay
                    for read, symbol in columns
                ],
                axis=1,
            )
        )
    if len(named) == 1:
        ((read, symbols),) = named.items()
        return symbols, read, tables
    interleaved = _Interleaved(named)
    return interleaved.symbols, interleaved, tables


class _Interleaved(dict):
    """Several ways to read a text at once; a table of code points for `str.translate`."""

    def __init__(self, named: dict[Callable[[str], str], str]):
        start, self._tags = _TAGS, []
        for read, symbols in named.items():
            tags = {symbol: chr(start + i) for i, symbol in enumerate(symbols)}
            self._tags.append((read, tags, tags[symbols[-1]]))
            start += len(symbols)
        self.symbols = "".join(map(chr, range(_TAGS, start)))

    def __hash__(self) -> int:  # it is itself, whatever it holds already
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self, text: str) -> str:
        return text.translate(self)

    def __missing__(self, code: int) -> str:
        self[code] = "".join(
            tags.get(symbol, last) for read, tags, last in self._tags for symbol in read(chr(code))
        )
        return self[code]
