"""Several automata at once, each with a state of its own: a text must satisfy all of them.

Their classes are joined: two tokens that are alike for all automata of a prompt share a joint
class. Joint class 0 holds the tokens that end a text.

P prompts, K automata of each, S states, C classes of one automaton, J joint classes, V tokens.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dinado_jax.automata.joint import classes_of_joint, joint_classes
from dinado_jax.automata.product import product_table
from dinado_jax.automata.tokens import TokenAutomaton
from dinado_jax.data.batch import Array

_MOST_OF_A_PAIR = 2**20  # transitions of two automata that are looked at together


class Conjunction(NamedTuple):
    """The automata of a prompt, or of P prompts with the prompt as leading axis of every array.

    Prompts of fewer automata than K have some that accept everything. Entries that no token leads
    to repeat others.
    """

    joint_of: Array  # uint8 (int32 for very many classes) [V], the joint class of each token
    class_of: Array  # int16 [K, J], its class for each automaton
    table: Array  # int16 [K, S, C], the state after a token of a class
    accepting: Array  # bool [K, S]
    # See `TokenAutomaton`:
    to_settled: Array  # int16 [K, S]
    to_accepting: Array  # int16 [K, S]
    worst_settled: Array  # int16 [K]
    worst_accepting: Array  # int16 [K]
    # int16 [K], the number of automata, this one included, that a token can bring nearer to
    # accepting at the same time as this one.
    together: Array
    closed: Array  # bool [K, S], whether a sentence has just ended (sentence_end.py)


def conjunction(
    automata: Sequence[TokenAutomaton],
    stop_ids: Sequence[int],
    sentence_end: TokenAutomaton | None = None,
) -> Conjunction:
    """Joins the automata of one prompt.

    Args:
      automata: at least one, over the same vocabulary.
      stop_ids: the tokens that end a text.
      sentence_end: `SENTENCE_END`, whose states are then known, too.
    """
    asking = len(automata)
    automata = [*automata, *([sentence_end] if sentence_end else [])]
    joint = 1 + joint_classes(automata)
    joint[list(stop_ids)] = 0
    J = 1 + int(joint.max())
    class_of = classes_of_joint(automata, joint)
    closed = np.zeros((len(automata), max(len(each.table) for each in automata)), bool)
    closed[asking:, 1] = True
    return Conjunction(
        joint_of=joint.astype(np.uint8 if J <= 2**8 else np.int32),
        class_of=class_of.astype(np.int16),
        table=_stacked([each.table for each in automata]),
        accepting=_stacked([each.accepting for each in automata]).astype(bool),
        to_settled=_stacked([each.to_settled for each in automata]),
        to_accepting=_stacked([each.to_accepting for each in automata]),
        worst_settled=np.array([each.worst_settled for each in automata], np.int16),
        worst_accepting=np.array([each.worst_accepting for each in automata], np.int16),
        together=_together(automata, class_of[:, 1:]).astype(np.int16),
        closed=closed,
    )


def stack(prompts: Sequence[Conjunction]) -> Conjunction:
    """Puts the conjunctions of P prompts into arrays of common shapes."""
    most = max(len(each.table) for each in prompts)
    prompts = [_with_automata(each, most) for each in prompts]
    columns = []
    for arrays in zip(*prompts):
        shape = np.max([each.shape for each in arrays], axis=0)
        columns.append(np.stack([_padded(each, shape) for each in arrays]))
    return Conjunction(*columns)


def _together(automata: Sequence[TokenAutomaton], class_of: np.ndarray) -> np.ndarray:
    """See `Conjunction.together`; an upper bound, from all pairs in the states that both reach."""
    tables = [each.table[:, own] for each, own in zip(automata, class_of)]
    nearer = [
        each.to_accepting[:, None] > each.to_accepting[table]
        for each, table in zip(automata, tables)
    ]
    count = np.ones(len(automata), int)
    for a, b in itertools.combinations(range(len(automata)), 2):
        pair = True
        if len(tables[a]) * tables[b].size <= _MOST_OF_A_PAIR:
            states, _ = product_table([tables[a], tables[b]])
            pair = bool((nearer[a][states[:, 0]] & nearer[b][states[:, 1]]).any())
        count[[a, b]] += pair
    return count


def _with_automata(own: Conjunction, count: int) -> Conjunction:
    """The same with automata of one state that accepts everything, `count` in all."""
    missing = count - len(own.table)

    def extended(array: Array) -> np.ndarray:
        fill = array is own.accepting  # arrays of zeros besides are such an automaton
        added = np.full((missing, *array.shape[1:]), fill, array.dtype)
        return np.concatenate([array, added])

    return Conjunction(own.joint_of, *map(extended, own[1:]))


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    shape = np.max([each.shape for each in arrays], axis=0)
    return np.stack([_padded(each, shape) for each in arrays]).astype(np.int16)


def _padded(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Repeats the last entries of each axis up to a shape."""
    if array.shape == tuple(shape):
        return array
    return np.pad(array, [(0, n - m) for n, m in zip(shape, array.shape)], mode="edge")
