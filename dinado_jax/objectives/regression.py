"""Regression of log q of whole rows on what it is at the optimum."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.draws import sampling_weights
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import success_rate_per_prompt

_HUBER = 1.5  # nats: errors beyond it pull with constant force


@struct.dataclass(kw_only=True)
class TargetBatch(Batch):
    """Rows of any proposal, successes and failures."""

    label: Array  # float32 [B] in [0, 1]
    target: Array  # float32 [B], log q of the row at the optimum, nats


@dataclasses.dataclass(frozen=True)
class RowRegression:
    """Huber loss (nats) of a row's log-probability under q against what it is at the optimum:

        log q(y) = log p(y) + log C(y) - log R0(prompt),   C > 0

    which holds for every success, whatever drew it: once q is right no draw is noise any more, as
    it is for a likelihood. Failures, rows of C <= e^-margin, which counts as their C, are pushed
    down to their target, and may lie below it. The projection of a projected R is inactive at the
    optimum, so the loss uses the unprojected q for every form. (The recursion of R taken at its end
    alone: the path consistency of Nachum et al., arXiv 1702.08892, and trajectory balance, Malkin
    et al., arXiv 2201.13259.)
    """

    margin: float  # nats
    weighted = False
    least_samples = 1
    settings = frozenset({"margin"})

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        draws = Draws(sampling_weights(rollouts, weight), rollouts.length, seed)
        least = np.exp(-self.margin)
        rate = success_rate_per_prompt(rollouts) * (1 - least) + least
        target = rollouts.log_base + np.log(np.maximum(rollouts.label, least) / rate)
        target = target.astype(np.float32)

        def at(step: int, count: int) -> TargetBatch:
            index = draws.at(step, count)
            rows = take(rollouts, index)
            return TargetBatch(**vars(rows), label=rollouts.label[index], target=target[index])

        return at

    def term(self, control: Control, params: dict, base_params: dict, batch: TargetBatch) -> Term:
        log_direction = control.log_direction(base_params, params, batch)
        error = log_row(log_direction, batch) - batch.target
        success = batch.label > math.exp(-self.margin)
        error = jnp.where(success, error, jnp.maximum(error, 0.0))
        loss = optax.losses.huber_loss(error, delta=_HUBER)
        return Term(loss.sum(), jnp.ones_like(error).sum())
