"""Automata over tokens as one, which knows exactly how many tokens all of them need.

An automaton can be settled from wherever tokens lead, or not: one that forbids something never
accepts whatever follows. `maskable` makes of any automata some for which a plan to settle one after
another is sound.

V tokens, K automata, J joint classes of tokens, S joint states.
"""

from collections.abc import Sequence

import numpy as np

from dinado_jax.automata.automaton import TooLarge
from dinado_jax.automata.product import product_table
from dinado_jax.automata.tokens import NEVER, TokenAutomaton, with_distances


def maskable(automata: Sequence[TokenAutomaton]) -> list[TokenAutomaton]:
    """Automata that all accept where the given ones do, for the mask (guides/constraint.py).

    Those that can always be settled stay as they are. The others become one, a guard, and each of
    the former is joined with it: then it counts as settled while the guard can still be satisfied,
    so that a plan to settle it never leaves the guard behind. Where such a plan is not always there
    (a limited number of words), or nothing can be settled, all are one.

    Raises:
      TooLarge: see `product_table`.
    """
    guards = [each for each in automata if each.worst_settled >= NEVER]
    if not guards or len(automata) == 1:
        return list(automata)
    if len(guards) == len(automata):
        return [product(automata)]
    guard = product(guards)
    guarded = [_guarded(each, guard) for each in automata if each.worst_settled < NEVER]
    lost = len(guarded) > 1 and any(each.worst_settled >= NEVER for each in guarded)
    return [product(automata)] if lost else guarded


def joint_classes(automata: Sequence[TokenAutomaton]) -> np.ndarray:
    """int64 [V]: numbers that two tokens share where all automata take them for the same."""
    joint = np.zeros(len(automata[0].class_of), np.int64)
    for automaton in automata:
        code = joint * automaton.table.shape[1] + automaton.class_of
        used = np.bincount(code) > 0
        joint = (np.cumsum(used) - 1)[code]
    return joint


def classes_of_joint(automata: Sequence[TokenAutomaton], joint: np.ndarray) -> np.ndarray:
    """int [K, J]: the class of each joint one, by its last token, for each automaton."""
    some_token = np.zeros(1 + joint.max(), np.int64)
    some_token[joint] = np.arange(len(joint))
    return np.stack([each.class_of[some_token] for each in automata])


def product(automata: Sequence[TokenAutomaton]) -> TokenAutomaton:
    """All as one, which accepts where all of them do.

    Raises:
      TooLarge: see `product_table`.
    """
    joint, states, table = _joined(automata)
    of_each = list(zip(automata, states.T))
    accepting = np.all([each.accepting[at] for each, at in of_each], axis=0)
    settled = np.all([each.to_settled[at] == 0 for each, at in of_each], axis=0)
    return with_distances(joint, table, accepting, settled)


def _guarded(automaton: TokenAutomaton, guard: TokenAutomaton) -> TokenAutomaton:
    """Both as one, settled where the automaton is and the guard can still be satisfied."""
    joint, states, table = _joined([automaton, guard])
    own, guarding = states.T
    accepting = automaton.accepting[own] & guard.accepting[guarding]
    possible = guard.to_accepting[guarding] < NEVER
    settled = (automaton.to_settled[own] == 0) & possible
    return with_distances(joint, table, accepting, settled, possible)


def _joined(automata: Sequence[TokenAutomaton]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The joint class of each token [V], the states of each in every joint state [S, K] and the
    joint state after each joint class [S, J].
    """
    joint = joint_classes(automata)
    classes = classes_of_joint(automata, joint)
    if classes.shape[1] >= 2**15:  # the number of a class is an int16
        raise TooLarge("the tokens of the model have too many different effects on them")
    states, table = product_table([each.table[:, own] for each, own in zip(automata, classes)])
    return joint, states, table
