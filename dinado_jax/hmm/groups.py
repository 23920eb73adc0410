"""Tokens in groups that all prompts' automata treat equally, with the exceptions of each prompt.

Most tokens have nothing to do with most constraints: what they do to any automaton only depends on
a few things, such as whether they begin a word. So the vocabulary is divided once for all prompts,
and for each prompt there is a list of the tokens that do something else to its own automaton. A
decoding step is then one product with the tokens of each group, and some more for the exceptions.

P prompts, G groups, X exceptions of a prompt, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_MOST = 8  # groups
_FEWEST = 128  # tokens of a group: fewer are exceptions


class Groups(NamedTuple):
    """The division of the vocabulary."""

    of_token: np.ndarray  # int64 [V], the group of each token
    classes: np.ndarray  # int32 [P, G], the class of a group's tokens for the automaton of a prompt
    exceptions: np.ndarray  # int32 [P, X], tokens of other classes; short lists repeat some
    exception_classes: np.ndarray  # int32 [P, X]


def divide(class_of: Sequence[np.ndarray], stop_ids: Sequence[int]) -> Groups:
    """Divides a vocabulary.

    Args:
      class_of: int [V], the classes of all tokens for the automaton of each prompt.
      stop_ids: tokens that end a text, in whatever group.
    """
    table = np.stack(class_of)
    known, number, count = np.unique(table, axis=1, return_inverse=True, return_counts=True)
    order = np.argsort(-count, kind="stable")
    chosen = [each for each in order[:_MOST] if each == order[0] or count[each] >= _FEWEST]
    # Each kind of token joins the group from which it differs for the fewest prompts.
    differs = np.stack([(known != known[:, [each]]).sum(0) for each in chosen])
    of_token = differs.argmin(0)[number.reshape(-1)]
    classes = known[:, chosen]
    other = table != classes[:, of_token]
    other[:, list(stop_ids)] = False
    lists = [np.flatnonzero(row) for row in other]
    most = max(1, *map(len, lists))
    exceptions = np.stack([np.resize(each if len(each) else [0], most) for each in lists])
    of_each = np.take_along_axis(table, exceptions, 1)
    return Groups(*(x.astype(np.int32) for x in (of_token, classes, exceptions, of_each)))


def columns(groups: Groups, equal_rows: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Selects the tokens that a product of each group has a column for.

    Args:
      groups: of V tokens.
      equal_rows: bool [V], tokens of equal probabilities, of which each group needs one only.

    Returns:
      Of each group, int64 [columns], their tokens; and int32 [V], the column of each token among
      those of all groups, one group after the other.
    """
    place, kept, begin = np.zeros(len(equal_rows), np.int32), [], 0
    for group in range(groups.classes.shape[1]):
        tokens = np.flatnonzero(groups.of_token == group)
        own, shared = tokens[~equal_rows[tokens]], tokens[equal_rows[tokens]]
        place[own], place[shared] = begin + np.arange(len(own)), begin + len(own)
        kept.append(np.concatenate([own, shared[:1]]))
        begin += len(kept[-1])
    return tuple(kept), place
