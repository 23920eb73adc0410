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
_BETWEEN = 0.25  # of the mean of log-values, 0, and the logarithm of their mean, 1
_PRIOR = 10.0  # prefixes, as many as what is known beforehand counts


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
    label = np.broadcast_to(rollouts.label[:, None], rollouts.log_prefix.shape)
    seen, succeeded = _sums(reader, rollouts, label, weight, automata, number)
    overall = np.average(rollouts.label, weights=weight)
    of_class = (succeeded.sum(0) + overall) / (seen.sum(0) + 1)
    log_rates = np.log(_means(seen, succeeded, of_class))
    return _with_ends(log_rates)


def log_values_by_state(
    reader: StateReader,
    rollouts: Rollouts,
    log_label: np.ndarray,
    before: np.ndarray,
    automata: Conjunction,
    number: np.ndarray,
) -> np.ndarray:
    """What texts achieve from each number of tokens left and class: float32
    [max_new_tokens + 1, Z] nats.

    With d what drew them, G = log C - log (d / p) of what follows a prefix. The mean of G is the
    value of d where the reward is log C and the cost KL to the base, and log E[e^G] is log R. What
    lies between, log E[e^(bG)] / b for b = 1/4, tells what d can hardly finish, and is not ruled by
    the few texts that cost most.

    Args:
      reader: of the control.
      rollouts: N samples of d.
      log_label: float [N] nats, log C, bounded from below.
      before: float32 [max_new_tokens + 1, Z] nats, of which `_PRIOR` prefixes have that value
        beside those that were seen.
      automata: of P prompts.
      number: int [N], which of them are each row's.
    """
    cost = (rollouts.log_proposal - rollouts.log_base)[:, None] + rollouts.log_prefix
    achieved = np.exp(_BETWEEN * (log_label[:, None] - cost))
    seen, total = _sums(reader, rollouts, achieved, np.ones(len(rollouts)), automata, number)
    means = _means(seen, total, np.exp(_BETWEEN * before))
    return _with_ends(np.minimum(np.log(means) / _BETWEEN, 0.0))


def _sums(
    reader: StateReader,
    rollouts: Rollouts,
    values: np.ndarray,
    weight: np.ndarray,
    automata: Conjunction,
    number: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """By tokens left and class, the weight of all prefixes, and the sum of weight times a value
    [N, T-1] of each prefix.
    """
    shape = reader.max_new_tokens + 1, progress.COUNT
    seen, total = np.zeros(shape), np.zeros(shape)
    for start in range(0, len(rollouts), _ROWS):
        rows = np.resize(np.arange(start, min(start + _ROWS, len(rollouts))), _ROWS)
        condition = {AUTOMATA: rows_of(automata, number[rows])}
        batch = dataclasses.replace(take(rollouts, rows), condition=condition)
        left, classes, inside = map(np.asarray, _prefixes(reader, batch))
        once = np.arange(_ROWS) < len(rollouts) - start
        mass = inside * (weight[rows] * once)[:, None]
        np.add.at(seen, (left, classes), mass)
        np.add.at(total, (left, classes), mass * values[rows, : left.shape[1]])
    return seen, total


def _means(seen: np.ndarray, total: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Means by tokens left and class, [N + 1, Z]: prefixes with nearly as many tokens left count in
    part, and a prior as `_PRIOR` of them.
    """
    left = np.arange(len(seen))
    around = np.maximum(1 - np.abs(left[:, None] - left) / _REACH, 0)
    return (around @ total + _PRIOR * prior) / (around @ seen + _PRIOR)


def _with_ends(log_rates: np.ndarray) -> np.ndarray:
    """With what is known where a text ends or is cut."""
    log_rates[:, progress.ENDS] = 0.0
    log_rates[0, progress.SATISFIED] = 0.0
    return log_rates.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _prefixes(reader: StateReader, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[N, T-1]: tokens left and class of each prefix, and 1 where it has a new token that did not
    end it.
    """
    at = reader.along(batch)
    return at.left, at.now, target_mask(batch)
