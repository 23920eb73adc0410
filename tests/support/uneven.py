"""Rollouts of which no two numbers are equal by accident: for tests of weights and batches."""

import numpy as np

from dinado_jax.rollouts.arrays import Rollouts

WIDTH = 21


def rollouts(seed: int, references: int = 4, hard: bool = False) -> Rollouts:
    """Three prompts of 5, 2 and 9 samples, mixed, and references of the first two.

    Their numbers are 11, 4 and 30; the last never succeeds, and some references fail. Labels are
    soft unless `hard`.
    """
    rng = np.random.default_rng(seed)
    prompt_id = rng.permutation(np.repeat([11, 4, 30], [5, 2, 9]))
    prompt_id = np.int32([*prompt_id, *([11, 4, 11, 4, 11] * 2)[:references]])
    count = len(prompt_id)
    length = rng.integers(5, WIDTH + 1, count).astype(np.int32)
    prompt_length = rng.integers(1, length - 1).astype(np.int32)
    tokens = rng.integers(1, 50, (count, WIDTH)).astype(np.int32)
    tokens[:, 0] = np.arange(count)
    tokens[np.arange(WIDTH) >= length[:, None]] = 0
    label = rng.choice([0.0, 1.0] if hard else [0.0, 0.3, 0.8, 1.0], count)
    label[prompt_id == 30] = 0.0
    if references:
        label[-2:] = 1.0, 0.0
    label[:16][prompt_id[:16] == 11] = [0, 1, 0, 1, 1] if hard else [0, 0.3, 0, 1, 0.8]
    log_base = -rng.gamma(3, 3, count)
    log_proposal = log_base - rng.normal(0, 0.7, count)
    log_proposal[count - references :] = np.nan
    log_prefix = rng.normal(0, 0.5, (count, WIDTH - 1))
    log_prefix[count - references :] = 0
    return Rollouts(
        tokens=tokens,
        prompt_length=prompt_length,
        length=length,
        label=np.float32(label),
        log_base=np.float32(log_base),
        log_proposal=np.float32(log_proposal),
        log_prefix=np.float32(log_prefix),
        prompt_id=prompt_id,
        finished=rng.random(count) < 0.7,
        round=np.zeros(count, np.int32),
    )
