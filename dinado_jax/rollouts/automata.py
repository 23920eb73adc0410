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


def log_rates_by_class(
    reader: StateReader,
    rollouts: Rollouts,
    weight: np.ndarray,
    automata: Conjunction,
    number: np.ndarray,
) -> np.ndarray:
    """Counts how often texts succeed whose prefix is in a class: float32 [Z] nats, log R of it.

    Classes that few prefixes reach are drawn towards the rate of all rows.

    Args:
      reader: of the control.
      rollouts: N samples of the base.
      weight: float [N], their importance weights.
      automata: of P prompts.
      number: int [N], which of them are each row's.
    """
    rate = np.average(rollouts.label, weights=weight)
    seen, succeeded = np.ones(progress.COUNT), np.full(progress.COUNT, rate)
    for start in range(0, len(rollouts), _ROWS):
        rows = np.resize(np.arange(start, min(start + _ROWS, len(rollouts))), _ROWS)
        condition = {AUTOMATA: rows_of(automata, number[rows])}
        batch = dataclasses.replace(take(rollouts, rows), condition=condition)
        classes, inside = map(np.asarray, _classes_of_prefixes(reader, batch))
        once = np.arange(_ROWS) < len(rollouts) - start
        mass = inside * (weight[rows] * once)[:, None]
        np.add.at(seen, classes, mass)
        np.add.at(succeeded, classes, mass * rollouts.label[rows][:, None])
    log_rates = np.log(succeeded / seen)
    log_rates[progress.ENDS] = 0.0
    return log_rates.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _classes_of_prefixes(reader: StateReader, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """[N, T-1]: the class of each prefix, and 1 where it has a new token that did not end it."""
    return reader.along(batch).now, target_mask(batch)
