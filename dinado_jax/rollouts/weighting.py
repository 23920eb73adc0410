"""Importance weights of rollouts and statistics of their prompts."""

import numpy as np

from dinado_jax.data.sequences import Sequences
from dinado_jax.rollouts.arrays import Rollouts


def align_to_targets(rows: Sequences, log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities of new tokens [N, new], 0 after a row's end, in the columns `score` has
    for them: float32 [N, T-1].
    """
    out = np.zeros((len(rows), rows.tokens.shape[1] - 1), np.float32)
    column = rows.prompt_length[:, None] - 1 + np.arange(log_probs.shape[1])
    inside = column < rows.length[:, None] - 1
    out[np.nonzero(inside)[0], column[inside]] = log_probs[inside]
    return out


def exclusive_cumsum(log_ratio: np.ndarray) -> np.ndarray:
    """The sum of the columns before each: of tokens [N, T-1] -> of the prefixes they follow."""
    return np.cumsum(log_ratio, axis=1) - log_ratio


def log_mixture_weight(log_ratio: np.ndarray, alpha: float) -> np.ndarray:
    """log p / d, d = alpha p + (1 - alpha) q, from log_ratio = log q / p; at most log 1 / alpha."""
    ratio = np.exp(np.clip(np.asarray(log_ratio, np.float64), -700, 700))
    return -np.log(alpha + (1 - alpha) * ratio).astype(np.float32)


def success_rate(rollouts: Rollouts) -> float:
    """R0: the mean label of samples (references left out), each weighted by p / proposal."""
    drawn = ~rollouts.reference
    weight = np.exp(np.minimum(rollouts.log_base[drawn] - rollouts.log_proposal[drawn], 20.0))
    return float((weight * rollouts.label[drawn]).sum() / weight.sum())


def importance_weights(
    rollouts: Rollouts, mode: str, clip: float, reference_weight: float
) -> np.ndarray:
    """Each row's weight as a draw from p: float32 [N], p / proposal cut at the `clip` quantile.

    mode "none" weighs every sample 1. References weigh `reference_weight` samples of weight 1.
    """
    weight = np.full(len(rollouts), reference_weight, np.float64)
    drawn = ~rollouts.reference
    weight[drawn] = 1.0
    if mode == "importance":
        ratio = np.exp(np.clip(rollouts.log_base[drawn] - rollouts.log_proposal[drawn], -50, 50))
        weight[drawn] = np.minimum(ratio, np.quantile(ratio, clip))
    return weight.astype(np.float32)


def suffix_importance_weights(rollouts: Rollouts, mode: str, clip: float) -> np.ndarray:
    """p / proposal of what follows each prefix: float32 [N, T-1], cut at the `clip` quantile.

    A loss of one prefix asks for the distribution of the rest of the row only; the prefix's own
    weight would cancel, and add variance until it does. 1 for references and with mode "none".
    """
    weight = np.ones(rollouts.log_prefix.shape, np.float32)
    drawn = ~rollouts.reference
    if mode == "importance" and drawn.any():
        whole = rollouts.log_base[drawn] - rollouts.log_proposal[drawn]
        ratio = np.exp(np.clip(whole[:, None] - rollouts.log_prefix[drawn], -50, 50))
        column = np.arange(ratio.shape[1])
        first, end = rollouts.prompt_length[drawn, None] - 1, rollouts.length[drawn, None] - 1
        inside = (column >= first) & (column < end)
        weight[drawn] = np.minimum(ratio, np.quantile(ratio[inside], clip))
    return weight


def duplicate_share(rollouts: Rollouts) -> float:
    """The share of rows that repeat an earlier one of their prompt. They are draws like any other
    and stay: leaving them out would flatten what the rows say of the distribution.
    """
    rows = np.column_stack([rollouts.prompt_id, rollouts.length, rollouts.tokens])
    return 1 - len(np.unique(rows, axis=0)) / len(rows)


def normalize_per_prompt(weight: np.ndarray, prompt_id: np.ndarray) -> np.ndarray:
    """Weights scaled to add up to 1 for every prompt that has any: float64 [N].

    Self-normalised importance sampling: with weight = (p / proposal) C, one prompt's rows then
    follow its q*, and every prompt counts alike, whatever its success rate and its proposal.
    """
    total = sum_per_prompt(weight, prompt_id)
    return np.divide(weight, total, out=np.zeros(len(weight)), where=total > 0)


def sum_per_prompt(values: np.ndarray, prompt_id: np.ndarray) -> np.ndarray:
    """For each row, the sum of the values of its prompt's rows: float64 [N]."""
    _, group = np.unique(prompt_id, return_inverse=True)
    return np.bincount(group, values)[group]


def success_rate_per_prompt(rollouts: Rollouts) -> np.ndarray:
    """R0 of each row's prompt, estimated: float64 [N] in (0, 1).

    The mean of (p / proposal) C over the prompt's samples, drawn towards the mean of all as by 8
    more samples. The closer the proposal to q*, the less it varies: there every such value is R0.
    Not self-normalised: samples of q hold too few of p's failures, and the rate would rise.
    """
    drawn = ~rollouts.reference
    ratio = np.zeros(len(rollouts))
    ratio[drawn] = np.exp(np.clip(rollouts.log_base - rollouts.log_proposal, -50, 50)[drawn])
    pooled = (ratio * rollouts.label).sum() / drawn.sum()
    good = sum_per_prompt(ratio * rollouts.label, rollouts.prompt_id)
    samples = sum_per_prompt(drawn, rollouts.prompt_id)
    return np.clip((good + 8 * pooled) / (samples + 8), 1e-6, 1 - 1e-6)


def optimal_ratio(success: np.ndarray, prompt_id: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """q* / proposal of each row, estimated: float32 [N]. A prompt's shares add up to the number of
    its samples if any row succeeds; with no success known they are 0, as C is on those rows.

    success: (p / proposal) C of each row, [N]; sampled: bool [N], false for references.
    """
    samples = sum_per_prompt(sampled, prompt_id)
    return (normalize_per_prompt(success, prompt_id) * samples).astype(np.float32)


def effective_sample_size(weight: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: how many unweighted samples the weighted ones are worth."""
    return float(weight.sum() ** 2 / np.maximum((weight**2).sum(), 1e-30))
