"""Automata over tokens: two tokens that take every state to the same state are one class.

V tokens, S states, C classes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dinado_jax.automata.automaton import MOST_TRANSITIONS, Automaton, TooLarge

NEVER = 2**12  # as a number of tokens: no tokens lead there


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The texts of V tokens, in arrays that many automata read."""

    characters: str  # each character that occurs, once
    order: np.ndarray  # int64 [V], the tokens from the longest to the shortest
    # Of position i: the number of character i in the texts that are longer than i, in that order.
    columns: tuple[np.ndarray, ...]  # int32 [n_i]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Vocabulary":
        """From the text of each token, over the symbols that automata read."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        order = np.argsort(-lengths, kind="stable")
        joined = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        known, code = np.unique(joined, return_inverse=True)
        starts = (np.cumsum(lengths) - lengths)[order]
        columns = []
        for position in range(max(lengths, default=0)):
            longer = starts[: int((lengths > position).sum())] + position
            columns.append(code.reshape(-1)[longer].astype(np.int32))
        return cls("".join(map(chr, known)), order, tuple(columns))


@dataclasses.dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """An automaton over tokens; state 0 is the start."""

    class_of: np.ndarray  # int16 [V], the class of each token
    table: np.ndarray  # int32 [S, C], the state after a token of each class
    accepting: np.ndarray  # bool [S]
    # The least numbers of tokens from each state, `NEVER` if there are none:
    to_settled: np.ndarray  # int32 [S], until it accepts whatever follows
    to_accepting: np.ndarray  # int32 [S], until it accepts
    # The most that these are in a state that tokens reach:
    worst_settled: int
    worst_accepting: int


def token_automaton(automaton: Automaton, vocabulary: Vocabulary) -> TokenAutomaton:
    """Reads every token as the symbols of its text.

    Args:
      automaton: over characters; the last of its symbols stands for all that it does not name.
      vocabulary: of the tokens.

    Raises:
      TooLarge: for a table of more than `MOST_TRANSITIONS` entries.
    """
    symbol = {each: number for number, each in enumerate(automaton.symbols)}
    A = len(symbol)
    symbols = np.array([symbol.get(each, A - 1) for each in vocabulary.characters], np.int64)
    # A text's effect is a map of states, [S]; texts with the same effect share a number.
    S = len(automaton.table)
    effects = np.arange(S, dtype=np.int32)[None]  # that of no text
    number = {effects[0].tobytes(): 0}
    after = np.full((1, A), -1)  # the number of an effect followed by a symbol; -1: not needed yet
    current = np.zeros(len(vocabulary.order), np.int64)
    for column in vocabulary.columns:
        code = current[: len(column)] * A + symbols[column]
        used = np.flatnonzero(np.bincount(code, minlength=after.size))
        used = used[after.flat[used] < 0]
        which, added = used // A, used % A
        new = automaton.table[effects[which], added[:, None]]
        fresh = []
        for place, effect in zip(used, new):
            key = effect.tobytes()
            if key not in number:
                number[key] = len(number)
                fresh.append(effect)
            after.flat[place] = number[key]
        if len(number) > min(MOST_TRANSITIONS // S, 2**15):  # the number of a class is an int16
            raise TooLarge("the tokens of the model have too many different effects on it")
        if fresh:
            effects = np.concatenate([effects, fresh])
            after = np.concatenate([after, np.full((len(fresh), A), -1)])
        current[: len(column)] = after.flat[code]
    seen, classes = np.unique(current, return_inverse=True)
    class_of = np.empty(len(current), np.int16)
    class_of[vocabulary.order] = classes.reshape(-1)
    table = np.ascontiguousarray(effects[seen].T)
    return with_distances(class_of, table, automaton.accepting, automaton.settled)


def containing_token(token: int, vocab_size: int) -> TokenAutomaton:
    """An automaton that accepts once it has read a token."""
    found, table = np.array([False, True]), np.array([[0, 1], [1, 1]])
    return with_distances(np.eye(1, vocab_size, token, np.int16)[0], table, found, found)


def with_distances(
    class_of: np.ndarray,
    table: np.ndarray,
    accepting: np.ndarray,
    settled: np.ndarray,
    counted: np.ndarray | bool = True,
) -> TokenAutomaton:
    """Adds the least numbers of tokens to an automaton.

    Args:
      class_of: int [V].
      table: int32 [S, C].
      accepting: bool [S].
      settled: bool [S].
      counted: bool [S], the states in which these numbers must not be large.
    """
    to_settled, to_accepting = least_steps(table, settled), least_steps(table, accepting)
    reached = np.zeros(len(table), bool)
    front = np.array([0])
    while len(front):
        reached[front] = True
        front = np.setdiff1d(table[front], np.flatnonzero(reached))
    reached &= counted
    return TokenAutomaton(
        class_of=class_of,
        table=table,
        accepting=accepting,
        to_settled=to_settled,
        to_accepting=to_accepting,
        worst_settled=int(to_settled[reached].max(initial=0)),
        worst_accepting=int(to_accepting[reached].max(initial=0)),
    )


def least_steps(table: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The least number of steps by a table [S, C] from each state to a goal: int32 [S], `NEVER` if
    there are none.
    """
    steps = np.where(goal, 0, NEVER).astype(np.int32)
    while True:
        shorter = np.minimum(steps, 1 + steps[table].min(1))
        if (shorter == steps).all():
            return steps
        steps = shorter
