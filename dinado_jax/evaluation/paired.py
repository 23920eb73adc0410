"""How two models differ on the same prompts, from their samples."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dinado_jax.evaluation.intervals import Comparison, compare
from dinado_jax.evaluation.samples import Sample
from dinado_jax.metrics.protocol import Measured, Sums


class Differences(NamedTuple):
    """Second minus first; prompts are the independent draws."""

    success: Comparison  # of mean labels
    kl: Comparison  # of KLs to the base, nats per sequence


def differences(
    first: Sequence[Sample], second: Sequence[Sample], seed: int = 0
) -> Differences | None:
    """Compares the samples of two models; None unless they continue the same prompts.

    Args:
      first, second: of each model, at least one.
      seed: of the bootstrap and of the test.
    """
    if not first or _prompts(first) != _prompts(second):
        return None

    def compared(value: Callable[[Sample], float]) -> Comparison:
        return compare(_per_prompt(first, value), _per_prompt(second, value), seed)

    return Differences(
        compared(lambda sample: sample.label),
        compared(lambda sample: sample.log_prob - sample.log_prob_base),
    )


def _prompts(samples: Sequence[Sample]) -> dict[int, str]:
    return {sample.prompt_id: sample.prompt for sample in samples}


def _per_prompt(samples: Sequence[Sample], value: Callable[[Sample], float]) -> Sums:
    """The mean of a value over the samples of each prompt, in the order of their numbers."""
    _, group = np.unique([sample.prompt_id for sample in samples], return_inverse=True)
    sums = Measured.of_means(np.bincount(group, list(map(value, samples))) / np.bincount(group))
    assert sums.sums is not None  # a mean has them
    return sums.sums
