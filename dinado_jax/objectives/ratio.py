"""Generalised KL to q* over all rollouts of prompts with a success: failures count too."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.draws import log_proposal
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.residual import mass
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import optimal_ratio, sum_per_prompt


@struct.dataclass(kw_only=True)
class RatioBatch(Batch):
    """Rows of any proposal d."""

    optimal_ratio: Array  # float32 [B], q* / d
    log_proposal: Array  # float32 [B], log d in nats; inf for references, which have no proposal


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Generalised KL (nats per row) between q* and q over rows of any proposal d, up to a constant:

        E_d[ q / d - (q* / d) log q ]

    Over all rows its expected gradient is that of the likelihood of q*, but failures contribute: a
    row is pushed by q* / d - q / d, which vanishes where q is right, and with it the noise of
    fitting single samples. Beyond e^3 the ratio q / d continues as its tangent.

    It is GDC++ (Korbak et al., arXiv 2206.00761), DPG with the baseline Z q / d, divided by Z =
    R0(prompt). Z is the mean of p C / d over the rows of a prompt (self-normalised, biased by O(1 /
    rows)) instead of a moving average over all samples, all rounds serve with their own d instead
    of the proposal of the lowest KL to q*, and q / d has the tangent above. From samples of q,
    bias and variance of both are compared in `benchmarks/gradient_noise.py`.

    Rows of prompts without a success are left out, which biases against hard prompts: if the n rows
    of a prompt succeed at rate r, its failures are drawn 1 - (1-r)^(n-1) times as often, relative
    to its successes, as they should be. Including them removes the bias, but raised the KL more
    than the success rate (docs/results.md).
    """

    weighted = True
    least_samples = 2  # it compares the samples of a prompt
    settings = frozenset({"particles"})

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        success = weight * rollouts.label
        share = optimal_ratio(success, rollouts.prompt_id, ~rollouts.reference)
        known = sum_per_prompt(success, rollouts.prompt_id) > 0
        draws = Draws(known & (weight > 0), seed)
        proposal = log_proposal(rollouts)

        def at(step: int, count: int) -> RatioBatch:
            index = draws.at(step, count)
            return RatioBatch(
                **vars(take(rollouts, index)),
                optimal_ratio=share[index],
                log_proposal=proposal[index],
            )

        return at

    def term(self, control: Control, params: dict, base_params: dict, batch: RatioBatch) -> Term:
        log_q = log_row(control.log_policy(base_params, params, batch), batch)
        ratio = mass(log_q - batch.log_proposal)
        return Term((ratio - batch.optimal_ratio * log_q).sum(), jnp.ones_like(log_q).sum())
