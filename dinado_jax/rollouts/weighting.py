"""Importance weights of rollouts and statistics of their prompts."""

import math

import chex
import numpy as np

from dinado_jax.data.sequences import Sequences
from dinado_jax.rollouts.arrays import Rollouts


def align_to_targets(rows: Sequences, log_probs: np.ndarray) -> np.ndarray:
    """Moves what a sampler returns to the columns that `score` uses.

    For a row of prompt length 3 whose second new token ends it (T = 7, 4 new tokens at most):

        log_probs     l_0   l_1   0     0
        out           0     0     l_0   l_1   0     0       column t belongs to token t + 1

    Args:
      rows: N rows of at most T tokens.
      log_probs: float32 [N, new] nats of their new tokens, 0 after a row's end.

    Returns:
      float32 [N, T-1].
    """
    chex.assert_rank([rows.tokens, log_probs], 2)
    out = np.zeros((len(rows), rows.tokens.shape[1] - 1), np.float32)
    column = rows.prompt_length[:, None] - 1 + np.arange(log_probs.shape[1])
    inside = column < rows.length[:, None] - 1
    out[np.nonzero(inside)[0], column[inside]] = log_probs[inside]
    return out


def exclusive_cumsum(log_ratio: np.ndarray) -> np.ndarray:
    """Sums the columns before each: from tokens [N, T-1] to the prefixes they follow [N, T-1]."""
    return np.cumsum(log_ratio, axis=1) - log_ratio


def log_mixture_weight(log_ratio: np.ndarray, alpha: float) -> np.ndarray:
    """Computes log p / d of the mixture d = alpha p + (1 - alpha) q.

    Args:
      log_ratio: log q / p in nats, any shape.
      alpha: share of p, in (0, 1].

    Returns:
      float32 of that shape, nats, at most log 1 / alpha.
    """
    ratio = np.exp(np.clip(np.asarray(log_ratio, np.float64), -700, 700))
    return -np.log(alpha + (1 - alpha) * ratio).astype(np.float32)


def log_weight_through(rollouts: Rollouts) -> np.ndarray:
    """Computes log p / proposal of the prefixes that end with each target.

    Returns:
      float32 [N, T-1] nats, column t for token t + 1; after a row's end that of the whole row, and
      nan for the last target of a reference.
    """
    whole = (rollouts.log_base - rollouts.log_proposal)[:, None]
    column = np.arange(rollouts.log_prefix.shape[1])
    following = np.roll(rollouts.log_prefix, -1, axis=1)
    return np.where(column < rollouts.length[:, None] - 2, following, whole).astype(np.float32)


def success_rate(rollouts: Rollouts) -> float:
    """Estimates R0: the mean label of samples (references excluded), weighted by p / proposal."""
    drawn = ~rollouts.reference
    weight = np.exp(np.minimum(rollouts.log_base[drawn] - rollouts.log_proposal[drawn], 20.0))
    return float((weight * rollouts.label[drawn]).sum() / weight.sum())


def log_prob_per_token(rollouts: Rollouts) -> float:
    """Log-probability of all targets under the base in nats per token; nan without rows."""
    tokens = int((rollouts.length - rollouts.prompt_length).sum())
    return float(rollouts.log_base.sum(dtype=np.float64)) / tokens if tokens else math.nan


def importance_weights(
    rollouts: Rollouts, mode: str, clip: float, reference_weight: float
) -> np.ndarray:
    """Weighs each row as a draw from p.

    Args:
      rollouts: N rows.
      mode: "importance": p / proposal; "none": 1 for every sample.
      clip: quantile of the ratios above which they are cut.
      reference_weight: of each reference.

    Returns:
      float32 [N].
    """
    weight = np.full(len(rollouts), reference_weight, np.float64)
    drawn = ~rollouts.reference
    weight[drawn] = 1.0
    if mode == "importance":
        ratio = np.exp(np.clip(rollouts.log_base[drawn] - rollouts.log_proposal[drawn], -50, 50))
        weight[drawn] = np.minimum(ratio, np.quantile(ratio, clip))
    return weight.astype(np.float32)


def suffix_importance_weights(rollouts: Rollouts, mode: str) -> np.ndarray:
    """Weighs what follows each prefix as a draw from p given the prefix.

    A loss of one prefix needs only the distribution of the rest of the row: the prefix's own weight
    cancels in expectation and would add variance. Nothing is cut: once q mostly succeeds, the large
    weights are those of its few failures, and with them cut the loss would take q's success rate
    for the base's.

    Args:
      rollouts: N rows of at most T tokens.
      mode: as for `importance_weights`.

    Returns:
      float32 [N, T-1]; 1 for references and particles, and with mode "none".
    """
    weight = np.ones(rollouts.log_prefix.shape, np.float32)
    drawn = ~rollouts.reference & ~rollouts.particle
    if mode == "importance" and drawn.any():
        whole = rollouts.log_base[drawn] - rollouts.log_proposal[drawn]
        weight[drawn] = np.exp(np.clip(whole[:, None] - rollouts.log_prefix[drawn], -50, 50))
    return weight


def duplicate_share(rollouts: Rollouts) -> float:
    """Computes the share of rows that repeat an earlier one of their prompt.

    Training keeps them: without repetitions, frequent rows would count no more than rare ones.
    """
    rows = np.column_stack([rollouts.prompt_id, rollouts.length, rollouts.tokens])
    return 1 - len(np.unique(rows, axis=0)) / len(rows)


def normalize_per_prompt(weight: np.ndarray, prompt_id: np.ndarray) -> np.ndarray:
    """Scales weights to sum to 1 for every prompt that has any: float64 [N].

    Self-normalised importance sampling: with weight = (p / proposal) C, one prompt's rows then
    follow its q*, and every prompt counts equally, whatever its success rate and its proposal.

    Args:
      weight: float [N], not negative.
      prompt_id: int [N].
    """
    chex.assert_equal_shape([weight, prompt_id])
    total = sum_per_prompt(weight, prompt_id)
    return np.divide(weight, total, out=np.zeros(len(weight)), where=total > 0)


def sum_per_prompt(values: np.ndarray, prompt_id: np.ndarray) -> np.ndarray:
    """Sums values [N] over the rows of each row's prompt: float64 [N]."""
    _, group = np.unique(prompt_id, return_inverse=True)
    return np.bincount(group, values)[group]


def success_rate_per_prompt(rollouts: Rollouts, shrinkage: int = 8) -> np.ndarray:
    """Estimates R0 of each row's prompt: float64 [N] in (0, 1).

    The mean of (p / proposal) C over the prompt's samples. Under q* every such value is R0: the
    closer the proposal to it, the lower the variance. Not self-normalised: samples of q contain too
    few of p's failures, which would bias the rate upwards.

    Args:
      rollouts: N rows.
      shrinkage: towards the mean over all samples, as if by so many more of each prompt. It keeps
        the logarithm of a rate of few samples near that of the true one. A loss that is linear in
        the rate needs none, and would learn rates too close to each other. Nor do prompts with
        particles, which find even rare successes.
    """
    drawn = ~rollouts.reference
    ratio = np.zeros(len(rollouts))
    ratio[drawn] = np.exp(np.clip(rollouts.log_base - rollouts.log_proposal, -50, 50)[drawn])
    pooled = (ratio * rollouts.label).sum() / drawn.sum()
    good = sum_per_prompt(ratio * rollouts.label, rollouts.prompt_id)
    samples = sum_per_prompt(drawn, rollouts.prompt_id)
    known = sum_per_prompt(rollouts.particle, rollouts.prompt_id) > 0
    added = np.where(known, 0, shrinkage)
    rate = (good + added * pooled) / np.maximum(samples + added, 1)
    rate = np.where(samples > 0, rate, pooled)  # a prompt may have references alone
    return np.clip(rate, 1e-6, 1 - 1e-6)


def optimal_ratio(success: np.ndarray, prompt_id: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """Estimates q* / proposal of each row.

    Args:
      success: float [N], (p / proposal) C.
      prompt_id: int [N].
      sampled: bool [N], false for references.

    Returns:
      float32 [N]: they sum to the number of a prompt's samples if any row of it succeeds, else they
      are 0.
    """
    chex.assert_equal_shape([success, prompt_id, sampled])
    samples = sum_per_prompt(sampled, prompt_id)
    return (normalize_per_prompt(success, prompt_id) * samples).astype(np.float32)


def effective_sample_size(weight: np.ndarray) -> float:
    """Computes (sum w)^2 / sum w^2: how many unweighted samples the weighted ones are worth."""
    return float(weight.sum() ** 2 / np.maximum((weight**2).sum(), 1e-30))
