"""Regression of log q up to a constant per prompt: rows of one prompt are compared in pairs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import GroupDraws, take
from dinado_jax.objectives.draws import sampling_weights
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.residual import is_success, penalty
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import normalize_per_prompt, sum_per_prompt

GROUP = 4  # rows of one prompt, consecutive in a batch


@struct.dataclass(kw_only=True)
class GroupBatch(Batch):
    """Rows of any proposal, in groups of one prompt; a micro-batch holds whole groups."""

    label: Array  # float32 [B] in [0, 1]
    target: Array  # float32 [B], log p of the row + log max(C, e^-margin), nats


@dataclasses.dataclass(frozen=True)
class Variance:
    """`train.objective = "variance"`: for the K rows of a prompt in a batch, with errors

        e_i = log q(y_i) - log p(y_i) - log max(C_i, e^-margin)

    which all equal -log R0(prompt) at the optimum,

        sum over pairs i < j of Huber(e_i - e_j) / (K - 1)      nats

    Near the optimum that is K / 2 times their sample variance, as the squared deviation from the
    mean is; R0 need not be known. Failures are one-sided: one is pushed
    below the successes of its group, and two failures are not compared. (The log-variance loss of
    Richter et al., arXiv 2010.10436; trajectory balance, Malkin et al., arXiv 2201.13259, without
    its constant.)

    Converges to q*, except that failures may keep what the margin grants them: up to p e^-margin /
    R0 each, together (1 - R0) e^-margin for R0 of successes.

    Successes and failures of a prompt are drawn equally often, from prompts with a success: at the
    optimum no pair pushes, whatever drew it.
    """

    margin: float  # nats
    weighted = False
    least_samples = 2  # it compares the samples of a prompt
    settings = frozenset({"margin", "particles"})

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        label, prompt = rollouts.label, rollouts.prompt_id
        known = sampling_weights(rollouts, weight)
        succeeds = sum_per_prompt(known * label, prompt) > 0
        share = normalize_per_prompt(known * label, prompt)
        share += normalize_per_prompt(known * (1 - label) * succeeds, prompt)
        draws = GroupDraws(share, prompt, seed, GROUP)
        target = rollouts.log_base + np.log(np.maximum(label, np.exp(-self.margin)))
        target = target.astype(np.float32)

        def at(step: int, count: int) -> GroupBatch:
            index = draws.at(step, count)
            rows = take(rollouts, index)
            return GroupBatch(**vars(rows), label=label[index], target=target[index])

        return at

    def term(self, control: Control, params: dict, base_params: dict, batch: GroupBatch) -> Term:
        log_direction = control.log_direction(base_params, params, batch)
        error = (log_row(log_direction, batch) - batch.target).reshape(-1, GROUP)
        success = is_success(batch.label, self.margin).reshape(-1, GROUP)
        # [group, i, j]: how far row j is above success i. A pair of successes comes twice.
        above = error[:, None, :] - error[:, :, None]
        j_succeeds = jnp.broadcast_to(success[:, None, :], above.shape)
        count = jnp.where(j_succeeds, 0.5, 1.0) * success[:, :, None]
        loss = count * penalty(above, j_succeeds) / (GROUP - 1)
        return Term(loss.sum(), jnp.ones_like(error).sum())
