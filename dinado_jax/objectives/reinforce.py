"""KL-regularised reward maximisation by policy gradient, as a baseline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.draws import log_proposal
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import sum_per_prompt

_CAP = 3.0  # nats


@struct.dataclass(kw_only=True)
class RewardBatch(Batch):
    """Samples of any proposal d."""

    level: Array  # float32 [B], margin C + log p - baseline, nats: the advantage plus log q
    log_proposal: Array  # float32 [B], log d of the row, nats


@dataclasses.dataclass(frozen=True)
class Reinforce:
    """`train.objective = "reinforce"`: policy gradient (nats per row) of the reward less its KL,

        E_q[margin C - log (q / p)],  by  -E_d[ min(q / d, e^3) (margin C - log (q / p) - b) log q ]

    where ratio and advantage are constants of the gradient, log (q / p) is the sum of the per-token
    KL rewards of a row, and the baseline b is the mean of margin C - log (d / p) over the samples
    of its prompt (Ziegler et al., arXiv 1909.08593, with a fixed coefficient 1 / margin of the KL
    and importance weights in place of the clipped ratio).

    It does not converge to q*, but to q proportional to p e^(margin C), beta = 1 / margin being the
    coefficient: of a prompt with C in {0, 1}

        success rate = R0 e^margin / (R0 e^margin + 1 - R0)

    which is q* in the limit of a large margin; graded C enter as e^(margin C), not as C. Where
    q / d exceeds e^3 a row counts for less than it should: old rollouts bias the optimum too.
    """

    margin: float  # nats
    weighted = False
    least_samples = 2  # it compares the samples of a prompt
    settings = frozenset({"margin"})

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        sampled = ~rollouts.reference
        draws = Draws(sampled, seed)
        proposal = log_proposal(rollouts)
        reward = self.margin * rollouts.label + rollouts.log_base
        net = np.where(sampled, reward - proposal, 0.0)
        samples = np.maximum(sum_per_prompt(sampled, rollouts.prompt_id), 1)
        baseline = sum_per_prompt(net, rollouts.prompt_id) / samples
        level = (reward - baseline).astype(np.float32)

        def at(step: int, count: int) -> RewardBatch:
            index = draws.at(step, count)
            rows = take(rollouts, index)
            return RewardBatch(**vars(rows), level=level[index], log_proposal=proposal[index])

        return at

    def term(self, control: Control, params: dict, base_params: dict, batch: RewardBatch) -> Term:
        log_q = log_row(control.log_policy(base_params, params, batch), batch)
        constant = jax.lax.stop_gradient(log_q)
        ratio = jnp.exp(jnp.minimum(constant - batch.log_proposal, _CAP))
        advantage = batch.level - constant
        return Term(-(ratio * advantage * log_q).sum(), jnp.ones_like(log_q).sum())
