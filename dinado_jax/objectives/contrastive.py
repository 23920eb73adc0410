"""Contrastive twist learning: R of prefixes from q* against R of other prefixes of the prompt."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import GroupDraws, take
from dinado_jax.errors import InputError
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import (
    log_weight_through,
    normalize_per_prompt,
    sum_per_prompt,
)

GROUP = 8  # rows of one prompt, consecutive in a batch


@struct.dataclass(kw_only=True)
class ContrastBatch(Batch):
    """Samples in groups of one prompt: the first of each is distributed as q*, the others as drawn.

    A micro-batch holds whole groups.
    """

    log_weight: Array  # float32 [B, T-1], log p / d of the prefix that ends with each target, nats


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """`train.objective = "contrastive"`: contrastive twist learning (CTL; Zhao et al., arXiv
    2404.17546) with R as the twist.

    R of a split form is a free function of the prefix s_t of t new tokens, beta e^(A - M), and q is
    proportional to p R, the proposal that such a twist induces. CTL minimises the sum over t of
    KL(q*(s_t) || pi_t), pi_t proportional to p(s_t) R(s_t), by the gradient

        E_{q*}[grad log R(s_t)] - E_{pi_t}[grad log R(s_t)]

    Both expectations are taken over the K = 8 rows of a group: y_1 from q*, the others from
    proposals d of the same prompt, with the second one's importance weights normalised over all K.
    That is the gradient of (nats, summed over t)

        -log[ w_1 R_1 / sum_j w_j R_j ],   w = p(s_t) / d(s_t)

    A row that has ended stays as it is at every later t.

    Converges to q*: given a set of K rows, and that one of them is from q* and the others from d,
    it is row j with probability proportional to q*(s_t) / d(s_t), hence to w_j R*(s_t). For R
    = c R*, whatever c(prompt, t), the softmax above is that probability, so that the expected
    gradient of every set is 0 and the expected loss, a cross entropy of it, least; for any K (the
    ranking form of noise contrastive estimation, Ma & Collins, arXiv 1809.01812), while normalising
    over rows of d alone would be biased by 1 / K. The factor c cancels in q. The norm's losses on
    labels, which have the same optimum, set it to 1.

    With `train.detach` those do not move the direction, but this loss moves the norm. It trains the
    split forms, nado, soft and merge. In the recursive forms R(s_t) is R0 q(s_t) / p(s_t), and no
    twist of its own: pi_t = q(s_t), the second expectation is 0, and what is left is the likelihood
    of `matching` with earlier tokens counted more often.
    """

    group: int = GROUP
    weighted = True
    least_samples = 2  # it compares the samples of a prompt
    settings = frozenset()

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        prompt, sampled = rollouts.prompt_id, ~rollouts.reference
        success = np.where(sampled, weight * rollouts.label, 0.0)
        others = sampled & (sum_per_prompt(success, prompt) > 0)
        first = normalize_per_prompt(success, prompt)
        draws = GroupDraws(first, prompt, seed, self.group, others)
        log_weight = log_weight_through(rollouts)

        def at(step: int, count: int) -> ContrastBatch:
            index = draws.at(step, count)
            rows = take(rollouts, index)
            columns = rows.tokens.shape[1] - 1
            return ContrastBatch(**vars(rows), log_weight=log_weight[index, :columns])

        return at

    def term(self, control: Control, params: dict, base_params: dict, batch: ContrastBatch) -> Term:
        """Computes the loss of every group, as `DirectionLoss.term`.

        Raises:
          InputError: the form is recursive (hard).
        """
        if control.recursive:
            raise InputError(
                "train.objective = contrastive learns R of every prefix, which control.kind=hard "
                "derives from q: choose another kind, or matching"
            )
        values = control.values(base_params, params, batch)
        with jax.named_scope("contrast"):
            column = jax.lax.broadcasted_iota(jnp.int32, values.log_after.shape, 1)
            ended = column >= batch.length[:, None] - 1
            log_r = jnp.where(ended, values.log_terminal[:, None], values.log_after)
            score = (batch.log_weight + log_r).reshape(-1, self.group, column.shape[1])
            # All rows of a group have one prompt. Columns count until its longest row ends.
            inside = (column >= batch.prompt_length[:, None] - 1) & ~ended
            inside = inside.reshape(score.shape).any(axis=1)
            loss = inside * (jax.nn.logsumexp(score, axis=1) - score[:, 0])
        return Term(loss.sum(), jnp.ones_like(loss[:, 0]).sum())
