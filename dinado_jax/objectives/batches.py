"""Which rollouts a training step sees, as pure functions of the step.

Every batch is a dict of arrays with a row per sequence: tokens [B, T], prompt_length and length
[B], number [B] (which rollout it is), and what the objective asks for besides, or one such dict for
each of its parts.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from dinado_jax.config.schema import Train
from dinado_jax.data.batching import Draws, take
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.hidden_states import HiddenStates
from dinado_jax.rollouts.weighting import (
    normalize_per_prompt,
    optimal_ratio,
    success_rate_per_prompt,
    suffix_importance_weights,
    sum_per_prompt,
)

BatchAt = Callable[[int], dict]  # of a step
Rows = Callable[[int, int], dict]  # of a step and how many rows


def uniform(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """All rollouts alike, whatever their weight, as the published objectives have them."""
    draws = Draws(np.ones(len(rollouts)), rollouts.length, seed)
    suffix = suffix_importance_weights(rollouts, train.weights, train.weight_clip)

    def at(step):
        index = draws.at(step, train.batch)
        rows = _rows(rollouts, index)
        columns = rows["tokens"].shape[1] - 1
        return {**rows, "label": rollouts.label[index], "suffix": suffix[index, :columns]}

    return at


def successes(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Successes alone, drawn so that they follow q* of every prompt: for the warm-up."""
    return partial(_successes(rollouts, weight, seed), count=train.batch)


def matching(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Half a batch of successes for the direction, following q* of every prompt; half of it for the
    norm."""
    return _halves(
        _successes(rollouts, weight, seed), _judged(rollouts, weight, train, seed), train
    )


def ratio(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Half a batch for the direction, rows of prompts with successes, all alike, each with its
    share of q*; half of it for the norm.

    Leaving out prompts without a success holds hard ones back: where a prompt's n rows succeed at
    rate r, its failures come 1 - (1-r)^(n-1) times as often as they should beside its successes.
    Drawing them too is free of that bias; it raised the KL more than the success (docs/results.md).
    """
    return _halves(_shares(rollouts, weight, seed), _judged(rollouts, weight, train, seed), train)


def regression(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Half a batch for the direction, all rows alike, each with its log-probability at the optimum,
    a failure's C being e^-margin; half of it for the norm."""
    draws = Draws(_counted(rollouts, weight), rollouts.length, seed)
    least = np.exp(-train.margin)
    rate = success_rate_per_prompt(rollouts) * (1 - least) + least
    target = rollouts.log_base + np.log(np.maximum(rollouts.label, least) / rate)
    target = target.astype(np.float32)

    def direction(step, count):
        index = draws.at(step, count)
        scalars = {"label": rollouts.label[index], "target": target[index]}
        return {**_rows(rollouts, index), **scalars}

    return _halves(direction, _judged(rollouts, weight, train, seed), train)


def prefixes(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Rows with labels alone."""
    rows = _judged(rollouts, weight, train, seed)
    return lambda step: {"norm": rows(step, train.batch)}


def with_states(batch_at: BatchAt, states: HiddenStates, without: str = "") -> BatchAt:
    """Every part of the batches with the base's last hidden states of its rows, [B, T, D]; except
    for the part `without`, which does not read them."""

    def given(batch):
        if "tokens" not in batch:
            return {n: part if n == without else given(part) for n, part in batch.items()}
        return {**batch, "states": states.take(batch["number"], batch["tokens"].shape[1])}

    return lambda step: given(batch_at(step))


def _rows(rollouts: Rollouts, index: np.ndarray) -> dict:
    return {**take(rollouts, index), "number": index.astype(np.int32)}


def _halves(direction: Rows, norm: Rows, train: Train) -> BatchAt:
    half = train.batch // 2
    return lambda step: {"direction": direction(step, half), "norm": norm(step, half)}


def _successes(rollouts, weight, seed) -> Rows:
    draws = Draws(
        normalize_per_prompt(weight * rollouts.label, rollouts.prompt_id), rollouts.length, seed
    )

    def at(step, count):
        return {**_rows(rollouts, draws.at(step, count)), "label": np.ones(count, np.float32)}

    return at


def _shares(rollouts, weight, seed) -> Rows:
    share = optimal_ratio(weight * rollouts.label, rollouts.prompt_id, ~rollouts.reference)
    known = sum_per_prompt(weight * rollouts.label, rollouts.prompt_id) > 0
    draws = Draws(known & (weight > 0), rollouts.length, seed)
    log_proposal = np.where(rollouts.reference, np.inf, rollouts.log_proposal).astype(np.float32)

    def at(step, count):
        index = draws.at(step, count)
        scalars = {"share": share[index], "log_proposal": log_proposal[index]}
        return {**_rows(rollouts, index), **scalars}

    return at


def _counted(rollouts, weight) -> np.ndarray:
    """Samples count alike, references as their weight says."""
    return np.where(rollouts.reference, weight, 1.0)


def _judged(rollouts, weight, train, seed) -> Rows:
    """Rows with label, shift, suffix weights and the rate of their prompt; as many successes as
    failures if balanced.

    A prefix may come from anywhere, only what follows it is weighed: suffix = p / proposal of the
    rest of the row. References, most of them successes, are left out where nothing balances them.
    Drawing by label multiplies the odds of every prefix alike: shift undoes it.
    """
    label = rollouts.label
    suffix = suffix_importance_weights(rollouts, train.weights, train.weight_clip)
    rate = success_rate_per_prompt(rollouts).astype(np.float32)
    drawn = ~rollouts.reference
    known = _counted(rollouts, weight)
    groups = [known * label, known * (1 - label)] if train.balance else [drawn]
    draws = [
        Draws(group, rollouts.length, seed + 1 + number) for number, group in enumerate(groups)
    ]
    shift = np.log(groups[1][drawn].sum() / groups[0][drawn].sum()) if train.balance else 0.0

    def at(step, count):
        index = np.concatenate([each.at(step, count // len(draws)) for each in draws])
        rows = _rows(rollouts, index)
        columns = rows["tokens"].shape[1] - 1
        return {
            **rows,
            "label": np.repeat(np.float32([1, 0]), count // 2) if train.balance else label[index],
            "shift": np.full(count, shift, np.float32),
            "rate": rate[index],
            "suffix": suffix[index, :columns],
        }

    return at


BATCHES = {
    "matching": matching,
    "ratio": ratio,
    "regression": regression,
    "prefixes": prefixes,
    "published": uniform,
}
