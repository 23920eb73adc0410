"""Regression of log q of whole rows on what it is at the optimum, anchored by a likelihood."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.draws import sampling_weights
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.residual import is_success, penalty
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import optimal_ratio, success_rate_per_prompt


@struct.dataclass(kw_only=True)
class TargetBatch(Batch):
    """Rows of any proposal, successes and failures."""

    label: Array  # float32 [B] in [0, 1]
    target: Array  # float32 [B], log q of the row at the optimum, nats
    optimal_ratio: Array  # float32 [B], q* / proposal of the row


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

    Targets hold for rows that were drawn, and for those alone: what failures lose may go to texts
    that nobody has drawn. The likelihood of successes, -(q* / d) log q(y) times `anchor`, keeps it
    on them: its gradient lowers whatever is not drawn. It is 0 in expectation at the optimum.
    """

    margin: float  # nats
    anchor: float  # coefficient of the likelihood
    least_samples = 1
    settings = frozenset({"margin", "anchor"})

    @property
    def weighted(self) -> bool:
        return self.anchor > 0

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        drawn = sampling_weights(rollouts, weight)
        draws = Draws(drawn, seed)
        ratio = optimal_ratio(weight * rollouts.label, rollouts.prompt_id, ~rollouts.reference)
        # References are drawn by their weight, which is then counted once.
        ratio = (ratio / np.where(drawn > 0, drawn, 1.0)).astype(np.float32)
        least = np.exp(-self.margin)
        rate = success_rate_per_prompt(rollouts) * (1 - least) + least
        target = rollouts.log_base + np.log(np.maximum(rollouts.label, least) / rate)
        target = target.astype(np.float32)

        def at(step: int, count: int) -> TargetBatch:
            index = draws.at(step, count)
            return TargetBatch(
                **vars(take(rollouts, index)),
                label=rollouts.label[index],
                target=target[index],
                optimal_ratio=ratio[index],
            )

        return at

    def term(self, control: Control, params: dict, base_params: dict, batch: TargetBatch) -> Term:
        log_direction = control.log_direction(base_params, params, batch)
        loss = self.losses(log_row(log_direction, batch), batch)
        return Term(loss.sum(), jnp.ones_like(loss).sum())

    def losses(self, log_q: jax.Array, batch: TargetBatch) -> jax.Array:
        """Computes the loss of every row, [B] nats, from its log q."""
        miss = penalty(log_q - batch.target, is_success(batch.label, self.margin))
        return miss - self.anchor * batch.optimal_ratio * log_q
