"""Draws the rollouts of each step, as pure functions of the step.

N rollouts; batches of B rows of T tokens.
"""

import numpy as np
from flax import struct

from dinado_jax.config.schema import Train
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.terms import RowsAt
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import (
    normalize_per_prompt,
    success_rate_per_prompt,
    suffix_importance_weights,
)


@struct.dataclass(kw_only=True)
class LabeledBatch(Batch):
    """Rows for a likelihood."""

    label: Array  # float32 [B] in [0, 1], each row's weight


@struct.dataclass(kw_only=True)
class NormBatch(Batch):
    """Rows from which the norm learns."""

    label: Array  # float32 [B] in [0, 1]
    shift: Array  # float32 [B], log-odds that drawing by label added
    suffix: Array  # float32 [B, T-1], p / proposal of what follows each prefix
    rate: Array  # float32 [B], estimated success rate of the row's prompt
    bellman: Array  # float32 [B], lambda of this step


def successes(rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
    """Draws successes only; those of each prompt are distributed as its q*."""
    share = normalize_per_prompt(weight * rollouts.label, rollouts.prompt_id)
    draws = Draws(share, seed)

    def at(step: int, count: int) -> LabeledBatch:
        rows = take(rollouts, draws.at(step, count))
        return LabeledBatch(**vars(rows), label=np.ones(count, np.float32))

    return at


def sampling_weights(rollouts: Rollouts, weight: np.ndarray) -> np.ndarray:
    """Returns float64 [N]: 1 for a sample, the importance weight for a reference."""
    return np.where(rollouts.reference, weight, 1.0)


def log_proposal(rollouts: Rollouts) -> np.ndarray:
    """Returns log d of each row, float32 [N] nats; inf for references, which have no proposal."""
    return np.where(rollouts.reference, np.inf, rollouts.log_proposal).astype(np.float32)


def norm_rows(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> RowsAt:
    """Draws rows for the norm; with `train.balance` as many successes as failures.

    A prefix may come from any proposal; only its continuation is weighted: suffix = p / proposal of
    the rest of the row. Drawing by label multiplies the odds of every prefix by one factor,
    e^shift. Without balance references are left out, because most of them are successes. So are
    particles always: resampling has chosen their prefixes by what follows them.
    """
    label = rollouts.label
    suffix = suffix_importance_weights(rollouts, train.weights)
    rate = success_rate_per_prompt(rollouts, shrinkage=0).astype(np.float32)
    sampled = ~rollouts.reference & ~rollouts.particle
    known = sampling_weights(rollouts, weight) * ~rollouts.particle
    groups = [known * label, known * (1 - label)] if train.balance else [sampled]
    # Separate seeds: rows of either label, and of the direction, are drawn independently.
    draws = [Draws(group, seed + 1 + i) for i, group in enumerate(groups)]
    shift = np.log(groups[1][sampled].sum() / groups[0][sampled].sum()) if train.balance else 0.0

    def at(step: int, count: int) -> NormBatch:
        index = np.concatenate([each.at(step, count // len(draws)) for each in draws])
        rows = take(rollouts, index)
        balanced = np.repeat(np.array([1, 0], np.float32), count // 2)
        return NormBatch(
            **vars(rows),
            label=balanced if train.balance else label[index],
            shift=np.full(count, shift, np.float32),
            suffix=suffix[index, : rows.tokens.shape[1] - 1],
            rate=rate[index],
            bellman=bellman_at(train, step, count),
        )

    return at


def bellman_at(train: Train, step: int, count: int) -> np.ndarray:
    """Returns lambda of a step for every row, float32 [count]: as an array it causes no
    recompilation when it changes.
    """
    return np.full(count, train.bellman if step >= train.bellman_start else 0.0, np.float32)
