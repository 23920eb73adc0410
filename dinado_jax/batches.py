"""Which rollouts a training step sees, as pure functions of the step.

Every batch is a dict of arrays with a row per sequence: tokens [B, T], prompt_length, length and
label [B], and what the objective asks for besides.
"""

from collections.abc import Callable

import numpy as np

from dinado_jax.config import Train
from dinado_jax.data import Draws, take
from dinado_jax.rollouts import Rollouts, per_prompt

BatchAt = Callable[[int], dict]


def uniform(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """All rollouts alike, whatever their weight, as the published objective has them."""
    draws = Draws(np.ones(len(rollouts)), rollouts.length, seed)

    def at(step):
        index = draws.at(step, train.batch)
        return {**take(rollouts, index), "label": rollouts.label[index]}

    return at


def successes(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Successes alone, drawn so that they follow q* of every prompt: for the warm-up."""
    draws = _optimum(rollouts, weight, seed)
    return lambda step: _successes(rollouts, draws, step, train.batch)


def matching(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Half a batch of successes for the direction, following q* of every prompt; half of it
    balanced by label for the norm, following p."""
    half = train.batch // 2
    positive, negative = weight * rollouts.label, weight * (1 - rollouts.label)
    direction = _optimum(rollouts, weight, seed)
    balance = [
        Draws(positive, rollouts.length, seed + 1),
        Draws(negative, rollouts.length, seed + 2),
    ]
    drawn = ~rollouts.reference
    rate = np.clip(positive[drawn].sum() / weight[drawn].sum(), 1e-6, 1 - 1e-6)
    label = np.repeat(np.float32([1, 0]), half // 2)
    shift = np.full(half, np.log1p(-rate) - np.log(rate), np.float32)

    def at(step):
        norm = np.concatenate([draws.at(step, half // 2) for draws in balance])
        return {
            "direction": _successes(rollouts, direction, step, half),
            "norm": {**take(rollouts, norm), "label": label, "shift": shift},
        }

    return at


def _optimum(rollouts, weight, seed):
    return Draws(per_prompt(weight * rollouts.label, rollouts.prompt_id), rollouts.length, seed)


def _successes(rollouts, draws, step, count):
    return {**take(rollouts, draws.at(step, count)), "label": np.ones(count, np.float32)}


BATCHES = {"matching": matching, "published": uniform}
