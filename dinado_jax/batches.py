"""Which rollouts a training step sees, as pure functions of the step.

Every batch is a dict of arrays with a row per sequence: tokens [B, T], prompt_length and length
[B], and what the objective asks for besides, or one such dict for each of its parts.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from dinado_jax.config import Train
from dinado_jax.data import Draws, take
from dinado_jax.rollouts import Rollouts, optimum_share, per_prompt, prompt_totals

BatchAt = Callable[[int], dict]  # of a step
Rows = Callable[[int, int], dict]  # of a step and how many rows


def uniform(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """All rollouts alike, whatever their weight, as the published objective has them."""
    draws = Draws(np.ones(len(rollouts)), rollouts.length, seed)

    def at(step):
        index = draws.at(step, train.batch)
        return {**take(rollouts, index), "label": rollouts.label[index]}

    return at


def successes(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Successes alone, drawn so that they follow q* of every prompt: for the warm-up."""
    return partial(_successes(rollouts, weight, seed), count=train.batch)


def matching(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Half a batch of successes for the direction, following q* of every prompt; half of it
    balanced by label for the norm, following p."""
    return _halves(_successes(rollouts, weight, seed), _balanced(rollouts, weight, seed), train)


def ratio(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Half a batch for the direction, rows of prompts with successes, all alike, each with its
    share of q*; half of it balanced by label for the norm, following p.

    Leaving out prompts without a success holds hard ones back: where a prompt's n rows succeed at
    rate r, its failures come 1 - (1-r)^(n-1) times as often as they should beside its successes.
    Drawing them too is free of that bias; it raised the KL more than the success (docs/results.md).
    """
    return _halves(_shares(rollouts, weight, seed), _balanced(rollouts, weight, seed), train)


def _halves(direction: Rows, norm: Rows, train: Train) -> BatchAt:
    half = train.batch // 2
    return lambda step: {"direction": direction(step, half), "norm": norm(step, half)}


def _successes(rollouts, weight, seed) -> Rows:
    draws = Draws(per_prompt(weight * rollouts.label, rollouts.prompt_id), rollouts.length, seed)

    def at(step, count):
        return {**take(rollouts, draws.at(step, count)), "label": np.ones(count, np.float32)}

    return at


def _shares(rollouts, weight, seed) -> Rows:
    share = optimum_share(weight * rollouts.label, rollouts.prompt_id, ~rollouts.reference)
    known = prompt_totals(weight * rollouts.label, rollouts.prompt_id) > 0
    draws = Draws(known & (weight > 0), rollouts.length, seed)
    log_proposal = np.where(rollouts.reference, np.inf, rollouts.log_proposal).astype(np.float32)

    def at(step, count):
        index = draws.at(step, count)
        scalars = {"share": share[index], "log_proposal": log_proposal[index]}
        return {**take(rollouts, index), **scalars}

    return at


def _balanced(rollouts, weight, seed) -> Rows:
    positive, negative = weight * rollouts.label, weight * (1 - rollouts.label)
    draws = [
        Draws(positive, rollouts.length, seed + 1),
        Draws(negative, rollouts.length, seed + 2),
    ]
    drawn = ~rollouts.reference
    rate = np.clip(positive[drawn].sum() / weight[drawn].sum(), 1e-6, 1 - 1e-6)
    shift = np.log1p(-rate) - np.log(rate)

    def at(step, count):
        index = np.concatenate([each.at(step, count // 2) for each in draws])
        label = np.repeat(np.float32([1, 0]), count // 2)
        return {**take(rollouts, index), "label": label, "shift": np.full(count, shift, np.float32)}

    return at


BATCHES = {"matching": matching, "ratio": ratio, "published": uniform}
