"""Generalised KL to q* over all rollouts of prompts with a success: failures count too."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import optimal_ratio, sum_per_prompt

_CAP = 3.0  # nats


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
    fitting single samples (the baseline of distributional policy gradients, arXiv 2206.00761,
    off-policy). Beyond e^3 the ratio q / d continues as its tangent.

    Rows of prompts without a success are left out, which biases against hard prompts: if the n rows
    of a prompt succeed at rate r, its failures are drawn 1 - (1-r)^(n-1) times as often, relative
    to its successes, as they should be. Including them removes the bias, but raised the KL more
    than the success rate (docs/results.md).
    """

    weighted = True
    least_samples = 2  # it compares the samples of a prompt
    settings = frozenset()

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        success = weight * rollouts.label
        share = optimal_ratio(success, rollouts.prompt_id, ~rollouts.reference)
        known = sum_per_prompt(success, rollouts.prompt_id) > 0
        draws = Draws(known & (weight > 0), seed)
        log_proposal = np.where(rollouts.reference, np.inf, rollouts.log_proposal)
        log_proposal = log_proposal.astype(np.float32)

        def at(step: int, count: int) -> RatioBatch:
            index = draws.at(step, count)
            return RatioBatch(
                **vars(take(rollouts, index)),
                optimal_ratio=share[index],
                log_proposal=log_proposal[index],
            )

        return at

    def term(self, control: Control, params: dict, base_params: dict, batch: RatioBatch) -> Term:
        log_q = log_row(control.log_policy(base_params, params, batch), batch)
        log_ratio = log_q - batch.log_proposal
        capped = jnp.minimum(log_ratio, _CAP)
        # For log d = inf the first summand is 0, and stays so in gradients.
        ratio = jnp.exp(capped) * (1 + jnp.where(log_ratio > _CAP, log_ratio - _CAP, 0.0))
        return Term((ratio - batch.optimal_ratio * log_q).sum(), jnp.ones_like(log_q).sum())
