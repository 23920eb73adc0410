"""KL-regularised reward maximisation by PPO with an adaptive coefficient, as a baseline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.ops.masks import target_mask
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import (
    log_weight_through,
    success_rate_per_prompt,
    sum_per_prompt,
)

_CLIP = 0.2  # of the ratio q / d of a token
_MOST_ERROR = 0.2  # of the KL relative to its target
_CAP = 10.0  # nats: larger ratios would overflow


@struct.dataclass(kw_only=True)
class PolicyBatch(Batch):
    """Samples of d, q as it was when the newest round began."""

    log_ratio: Array  # float32 [B, T-1], log d / p of each target token, nats
    advantage: Array  # float32 [B], nats


@dataclasses.dataclass(frozen=True)
class Ppo:
    """`train.objective = "ppo"`: the clipped surrogate of PPO (Schulman et al., arXiv 1707.06347)
    on the KL-regularised reward of Ziegler et al. (arXiv 1909.08593), nats per row:

        -E_d[ sum_t min(rho_t a, clip(rho_t, 0.8, 1.2) a) ],   rho_t = q(y_t | s_t) / d(y_t | s_t)
        a = C / beta - sum_t log(d / p)(y_t | s_t) - baseline

    The baseline is the mean of a prompt's samples. Every token has the return of its whole row:
    rewards before a token do not depend on it, and at the optimum all rows of a prompt have the
    same return, so that their advantage, and with it the noise, is 0. (The return from the token
    on would need the value of every prefix under q for that.) d is q at the beginning of the
    newest round: rows of earlier rounds and references are not used, and clipping bounds what a
    round can change, so it needs more rounds than the other objectives.

    The coefficient beta starts at 1 / margin. After each round r of samples of q it follows

        beta <- beta (1 + clip(KL_r / target_r - 1, -0.2, 0.2))

    KL_r being the mean of log(d / p), and the target the mean of -log R0(prompt), the KL of q*. (A
    gain of 1, theirs is 0.1: our rounds are few and large.)

    Converges to q proportional to p e^(C / beta). For C in {0, 1} its success rate is R0 e^(1/beta)
    / (R0 e^(1/beta) + 1 - R0) and its KL is below -log R0 for every beta > 0, so that beta falls
    from round to round, by at most 20%: q* is the limit of beta to 0. A q whose KL exceeds that of
    q* raises beta. Graded C enter as e^(C / beta), not as C.
    """

    margin: float  # nats, 1 / beta in the first rounds
    weighted = False
    least_samples = 2  # it compares the samples of a prompt
    settings = frozenset({"margin"})

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        newest = ~rollouts.reference & (rollouts.round == rollouts.round.max())
        draws = Draws(newest, seed)
        log_weight = rollouts.log_base - rollouts.log_proposal
        net = np.where(newest, rollouts.label / self.beta(rollouts) + log_weight, 0.0)
        samples = np.maximum(sum_per_prompt(newest, rollouts.prompt_id), 1)
        baseline = sum_per_prompt(net, rollouts.prompt_id) / samples
        advantage = (net - baseline).astype(np.float32)
        log_ratio = rollouts.log_prefix - log_weight_through(rollouts)

        def at(step: int, count: int) -> PolicyBatch:
            index = draws.at(step, count)
            rows = take(rollouts, index)
            columns = rows.tokens.shape[1] - 1
            return PolicyBatch(
                **vars(rows), log_ratio=log_ratio[index, :columns], advantage=advantage[index]
            )

        return at

    def beta(self, rollouts: Rollouts) -> float:
        """Computes the coefficient of the KL after the rounds of these rollouts."""
        beta, sampled = 1 / self.margin, ~rollouts.reference
        kl = rollouts.log_proposal - rollouts.log_base
        target = -np.log(success_rate_per_prompt(rollouts))
        for number in np.unique(rollouts.round[sampled]):
            rows = sampled & (rollouts.round == number)
            if number > 0:  # those of round 0 are the base's
                error = kl[rows].mean(dtype=np.float64) / target[rows].mean() - 1
                beta *= 1 + float(np.clip(error, -_MOST_ERROR, _MOST_ERROR))
        return beta

    def term(self, control: Control, params: dict, base_params: dict, batch: PolicyBatch) -> Term:
        log_ratio = control.values(base_params, params, batch).log_ratio
        mask = target_mask(batch)
        with jax.named_scope("surrogate"):
            # Columns outside the mask have no meaning, and must not overflow.
            change = jnp.where(mask > 0, log_ratio - batch.log_ratio, 0.0)
            ratio = jnp.exp(jnp.minimum(change, _CAP))
            advantage = batch.advantage[:, None]
            clipped = jnp.clip(ratio, 1 - _CLIP, 1 + _CLIP)
            gain = mask * jnp.minimum(ratio * advantage, clipped * advantage)
        return Term(-gain.sum(), jnp.ones_like(batch.advantage).sum())
