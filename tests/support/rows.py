"""Rows and rollouts without a model."""

import dataclasses

import numpy as np

from dinado_jax.data.sequences import Sequences
from dinado_jax.rollouts.arrays import Rollouts

WIDTH = 30


def sequences(count: int, width: int = WIDTH, seed: int = 0) -> Sequences:
    """Rows of random lengths whose first token is the number of the row."""
    rng = np.random.default_rng(seed)
    length = rng.integers(2, width + 1, count).astype(np.int32)
    tokens = rng.integers(1000, 2000, (count, width)).astype(np.int32)
    tokens[:, 0] = np.arange(count)
    tokens[np.arange(width) >= length[:, None]] = 0
    return Sequences(tokens, rng.integers(1, length).astype(np.int32), length)


def rollouts(count: int, width: int = WIDTH, references: int = 0, seed: int = 0) -> Rollouts:
    """Random rows, the last `references` of them without a proposal."""
    rows = sequences(count, width, seed)
    rng = np.random.default_rng(seed)
    log_base = -rng.exponential(10, count).astype(np.float32)
    log_proposal = (log_base + rng.normal(0, 1, count)).astype(np.float32)
    log_proposal[count - references :] = np.nan
    return Rollouts(
        rows.tokens,
        rows.prompt_length,
        rows.length,
        label=rng.integers(0, 2, count).astype(np.float32),
        log_base=log_base,
        log_proposal=log_proposal,
        log_prefix=rng.normal(0, 1, (count, width - 1)).astype(np.float32),
        prompt_id=np.arange(count, dtype=np.int32),
        finished=rng.random(count) < 0.8,
        round=np.zeros(count, np.int32),
    )


def three_prompts() -> Rollouts:
    """Prompt 0 succeeds always, prompt 1 in one of ten, prompt 2 never. A row's length is 10 more
    than its number."""
    count = 30
    return dataclasses.replace(
        rollouts(count),
        tokens=np.zeros((count, 48), np.int32),
        log_prefix=np.zeros((count, 47), np.float32),
        length=np.arange(10, 10 + count, dtype=np.int32),
        label=np.float32(np.arange(count) <= 10),
        prompt_id=np.repeat(np.arange(3), 10).astype(np.int32),
    )


def of_probabilities(log_base, log_proposal, label, prompt_id=None) -> Rollouts:
    """Rows of prompts of one token, whose length is 2 more than their number."""
    count = len(label)
    return Rollouts(
        tokens=np.zeros((count, count + 2), np.int32),
        prompt_length=np.ones(count, np.int32),
        length=np.arange(2, count + 2, dtype=np.int32),
        label=np.float32(label),
        log_base=np.float32(log_base),
        log_proposal=np.float32(log_proposal),
        log_prefix=np.zeros((count, count + 1), np.float32),
        prompt_id=np.zeros(count, np.int32) if prompt_id is None else np.int32(prompt_id),
        finished=np.ones(count, bool),
        round=np.zeros(count, np.int32),
    )
