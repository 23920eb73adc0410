"""Batches as a pure function of (seed, step): nothing to save, nothing to lose.

Rows of similar length share a batch, and a batch is cut to a multiple of 8 tokens, so that little
padding is computed and few shapes are compiled.
"""

import dataclasses
from functools import lru_cache

import numpy as np

from dinado_jax.text import Sequences

_BUCKET = 8
_WINDOW = 50  # batches whose rows are sorted together by length


def bucket(length: int, limit: int) -> int:
    """The smallest multiple of 8 that holds `length` tokens, at most `limit`."""
    return min(-(-length // _BUCKET) * _BUCKET, limit)


def take(rows: Sequences, index: np.ndarray) -> dict[str, np.ndarray]:
    """The chosen rows as a batch {tokens [B, T], prompt_length [B], length [B]}, T bucketed."""
    length = rows.length[index]
    width = bucket(int(length.max()), rows.tokens.shape[1])
    return {
        "tokens": rows.tokens[index, :width],
        "prompt_length": rows.prompt_length[index],
        "length": length,
    }


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Every row once an epoch, in an order fixed by the seed; the last partial batch is dropped.

    A set smaller than a batch is repeated to fill one.
    """

    rows: Sequences
    batch: int
    seed: int

    def __post_init__(self):
        object.__setattr__(self, "_order", lru_cache(2)(self._order))

    @property
    def per_epoch(self) -> int:
        return max(1, len(self.rows) // self.batch)

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        order = np.resize(rng.permutation(len(self.rows)), self.per_epoch * self.batch)
        window = _WINDOW * self.batch
        for start in range(0, len(order), window):
            part = order[start : start + window]
            order[start : start + window] = part[np.argsort(self.rows.length[part], kind="stable")]
        return rng.permutation(order.reshape(self.per_epoch, self.batch))

    def at(self, step: int) -> dict[str, np.ndarray]:
        epoch, place = divmod(step, self.per_epoch)
        return take(self.rows, self._order(epoch)[place])


@dataclasses.dataclass(frozen=True)
class Draws:
    """Rows drawn with replacement, each with probability proportional to its weight.

    Systematic resampling: one random offset a batch, equal steps through the cumulative weights,
    so a batch holds every heavy row its due number of times.
    """

    weight: np.ndarray  # [N], not negative, not all 0
    seed: int

    def __post_init__(self):
        cumulative = np.cumsum(self.weight, dtype=np.float64)
        object.__setattr__(self, "_cumulative", cumulative / cumulative[-1])

    def at(self, step: int, count: int) -> np.ndarray:
        """`count` row numbers for a step."""
        rng = np.random.default_rng((self.seed, step))
        points = (np.arange(count) + rng.random()) / count
        index = np.searchsorted(self._cumulative, points, side="right")
        return rng.permutation(np.minimum(index, len(self.weight) - 1))
