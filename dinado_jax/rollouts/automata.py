"""What the automata of prompts say of rollouts. N rows, T tokens, Z classes of `progress`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dinado_jax.automata import progress
from dinado_jax.automata.conjunction import Conjunction
from dinado_jax.controls.state import AUTOMATA, StateReader
from dinado_jax.data.batch import Batch, map_batches, rows_of
from dinado_jax.data.batching import take
from dinado_jax.ops.masks import target_mask
from dinado_jax.rollouts.arrays import Rollouts

_ROWS = 256  # at a time
_REACH = 3  # tokens, within which prefixes count in part
_PRIOR = 10.0  # prefixes, which the rate of a class is worth


def with_automata(
    batch_at: Callable[[int], Any], automata: Conjunction, number: np.ndarray
) -> Callable[[int], Any]:
    """Batches whose rows carry the automata that decide their label, as a condition.

    Args:
      batch_at: the batch of a step: a pytree of `Batch`es, or one.
      automata: of P prompts.
      number: int [N], of all rows that batches are drawn from, which automata are theirs.
    """

    def filled(batch: Batch) -> Batch:
        own = rows_of(automata, number[np.asarray(batch.row)])
        return dataclasses.replace(batch, condition={AUTOMATA: own})

    return lambda step: map_batches(filled, batch_at(step))


def log_rates_by_state(
    reader: StateReader,
    rollouts: Rollouts,
    weight: np.ndarray,
    automata: Conjunction,
    number: np.ndarray,
) -> np.ndarray:
    """Counts how often texts succeed from each number of tokens left and class: float32
    [max_new_tokens + 1, Z] nats, log R.

    Prefixes with nearly as many tokens left count in part, and where there are few of them the rate
    is drawn towards that of the class, which is drawn towards that of all rows.

    Args:
      reader: of the control.
      rollouts: N samples of the base.
      weight: float [N], their importance weights.
      automata: of P prompts.
      number: int [N], which of them are each row's.
    """
    shape = reader.max_new_tokens + 1, progress.COUNT
    seen, succeeded = np.zeros(shape), np.zeros(shape)
    for start in range(0, len(rollouts), _ROWS):
        rows = np.resize(np.arange(start, min(start + _ROWS, len(rollouts))), _ROWS)
        condition = {AUTOMATA: rows_of(automata, number[rows])}
        batch = dataclasses.replace(take(rollouts, rows), condition=condition)
        left, classes, inside = map(np.asarray, _prefixes(reader, batch))
        once = np.arange(_ROWS) < len(rollouts) - start
        mass = inside * (weight[rows] * once)[:, None]
        np.add.at(seen, (left, classes), mass)
        np.add.at(succeeded, (left, classes), mass * rollouts.label[rows][:, None])
    overall = np.average(rollouts.label, weights=weight)
    of_class = (succeeded.sum(0) + overall) / (seen.sum(0) + 1)
    left = np.arange(len(seen))
    around = np.maximum(1 - np.abs(left[:, None] - left) / _REACH, 0)
    rates = (around @ succeeded + _PRIOR * of_class) / (around @ seen + _PRIOR)
    rates[:, progress.ENDS] = 1.0
    rates[0, progress.SATISFIED] = 1.0  # cut there
    return np.log(rates).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _prefixes(reader: StateReader, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[N, T-1]: tokens left and class of each prefix, and 1 where it has a new token that did not
    end it.
    """
    at = reader.along(batch)
    return at.left, at.now, target_mask(batch)
