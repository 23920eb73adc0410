"""Bits per token of a text that was scored in windows."""

import math
from collections.abc import Sequence

import numpy as np

from dinado_jax.metrics.protocol import Measured, Sums


def bits_per_token(scores: Sequence[np.ndarray]) -> Measured:
    """The bits per token of all windows together, and of each.

    Args:
      scores: of each window the log-probabilities of its tokens [tokens] nats, as `score_text`
        returns them.
    """
    rows = np.array([[-each.sum(dtype=np.float64), len(each)] for each in scores])
    return Measured.of_sums(Sums(rows, lambda sums: sums[:, 0] / sums[:, 1] / math.log(2)))
