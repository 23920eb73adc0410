"""Rollouts left out of training, to see when it learns the others by heart. N rows."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dinado_jax.data.batch import Batch, map_batches
from dinado_jax.rollouts.arrays import Rollouts, select


def held_out_rows(rollouts: Rollouts, share: float) -> np.ndarray:
    """Chooses the rows of a share of the distinct prompts: bool [N].

    Of ten prompts in the order of their numbers it is the tenth for a share of 0.1, and so on. A
    prompt that comes again, in a later round too, is treated as at first.
    """
    _, first, number = np.unique(rollouts.prompt_id, return_index=True, return_inverse=True)
    place: dict[bytes, int] = {}
    chosen = []
    for tokens, length in zip(rollouts.tokens[first], rollouts.prompt_length[first]):
        before = place.setdefault(tokens[:length].tobytes(), len(place))
        chosen.append(_whole(share * (before + 1)) > _whole(share * before))
    return np.array(chosen)[number]


def _whole(number: float) -> int:
    return math.floor(number + 1e-6)  # ten times 0.1, whatever it is rounded to


def of_rows(
    batches: Callable[[Rollouts, np.ndarray, int], Callable[[int], Any]],
    rollouts: Rollouts,
    weight: np.ndarray,
    seed: int,
    rows: np.ndarray,
) -> Callable[[int], Any]:
    """The batches of an objective, of some of the rows alone; these keep their numbers.

    Args:
      batches: as `Objective.batches`.
      rollouts, weight, seed: its arguments, for all N rows.
      rows: numbers of those to draw from.
    """
    batch_at = batches(select(rollouts, rows), weight[rows], seed)

    def numbered(batch: Batch) -> Batch:
        return dataclasses.replace(batch, row=rows[np.asarray(batch.row)].astype(np.int32))

    return lambda step: map_batches(numbered, batch_at(step))
