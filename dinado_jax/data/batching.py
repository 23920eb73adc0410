"""Batches as a pure function of (seed, step): a resumed run needs no state of its data.

A batch is cut to a multiple of 8 tokens, so that little padding is computed and few shapes are
compiled. In `Epochs` rows of similar length share a batch. Rows that are drawn by weight are not
sorted: length often tells success from failure, and the gradient of a batch must be that of all.
"""

import dataclasses
from collections.abc import Iterator
from functools import cached_property, lru_cache

import chex
import numpy as np

from dinado_jax.data.batch import Batch, rows_of
from dinado_jax.data.sequences import Sequences

_BUCKET = 8
_WINDOW = 50  # batches whose rows are sorted together by length
_STEPS_SHARED = 10  # steps whose weighted draws are made together


def bucket(length: int, limit: int) -> int:
    """The smallest multiple of 8 that holds `length` tokens, at most `limit`."""
    return min(-(-length // _BUCKET) * _BUCKET, limit)


def take(rows: Sequences, index: np.ndarray, least: int = 0) -> Batch:
    """Gathers the rows numbered `index` [B] into a batch, as wide as the bucket of the longest, and
    at least `least` tokens.
    """
    chex.assert_rank([rows.tokens, index], [2, 1])
    length = rows.length[index]
    width = max(bucket(int(length.max()), rows.tokens.shape[1]), least)
    return Batch(
        tokens=rows.tokens[index, :width],
        prompt_length=rows.prompt_length[index],
        length=length,
        row=index.astype(np.int32),
        condition=rows_of(rows.condition, index),
    )


def by_length(
    rows: Sequences, batch: int, limit: int, width: int = 0
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yields all N rows in batches of similar length.

    Args:
      rows: of at most `limit` tokens.
      batch: B, rows of each.
      limit: tokens of the widest batch.
      width: columns that every batch has at least.

    Yields:
      The numbers of at most B rows, int64, and a batch of B that begins with them; the last one
      repeats its rows, so that nothing is compiled again.
    """
    T = rows.tokens.shape[1]
    # Padded to a multiple of the buckets' width: the longest rows would be a shape of their own.
    width = bucket(width, limit)
    wider = max(T, bucket(T, limit), width) - T
    rows = dataclasses.replace(rows, tokens=np.pad(rows.tokens, ((0, 0), (0, wider))))
    order = np.argsort(rows.length, kind="stable")
    for start in range(0, len(rows), batch):
        part = order[start : start + batch]
        yield part, take(rows, np.resize(part, batch), width)


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
        """Batches of an epoch, at least one."""
        return max(1, len(self.rows) // self.batch)

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        order = np.resize(rng.permutation(len(self.rows)), self.per_epoch * self.batch)
        window = _WINDOW * self.batch
        for start in range(0, len(order), window):
            part = order[start : start + window]
            order[start : start + window] = part[np.argsort(self.rows.length[part], kind="stable")]
        return rng.permutation(order.reshape(self.per_epoch, self.batch))

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, place = divmod(step, self.per_epoch)
        return take(self.rows, self._order(epoch)[place])


@dataclasses.dataclass(frozen=True)
class Draws:
    """Rows drawn with replacement, each with probability proportional to its weight.

    Systematic resampling, for a few steps at once: one random offset and equal strides through the
    cumulative weights, so that each row is drawn as often as its weight demands, up to rounding.
    """

    weight: np.ndarray  # [N], not negative, not all 0
    seed: int

    def __post_init__(self):
        object.__setattr__(self, "_shared", lru_cache(2)(self._shared))

    @cached_property
    def _cumulative(self) -> np.ndarray:
        cumulative = np.cumsum(self.weight, dtype=np.float64)
        return cumulative / cumulative[-1]

    def _shared(self, block: int, count: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, block))
        return _split(_systematic(self._cumulative, count * _STEPS_SHARED, rng), rng)

    def at(self, step: int, count: int) -> np.ndarray:
        """`count` row numbers for a step."""
        block, place = divmod(step, _STEPS_SHARED)
        return self._shared(block, count)[place]


@dataclasses.dataclass(frozen=True)
class GroupDraws:
    """Rows drawn as by `Draws`, each followed by size - 1 more of its group.

    Those are drawn independently, with replacement, by weights within the group. If these are those
    of the first rows, every row of a batch has the same distribution.
    """

    weight: np.ndarray  # [N] of first rows, not negative, not all 0
    group: np.ndarray  # [N] numbers of the groups
    seed: int
    size: int  # rows of a group that are drawn together
    # [N] of the other rows, not all 0 in any group of a first row; None: as the first ones
    others: np.ndarray | None = None

    def __post_init__(self):
        object.__setattr__(self, "_shared", lru_cache(2)(self._shared))

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, ...]:
        """Rows by group [N]; and of these: cumulative weights of first and of other rows, and the
        latter before and at the end of each one's group.
        """
        order = np.argsort(self.group, kind="stable")
        others = self.weight if self.others is None else self.others
        cumulative, of_others = (
            np.cumsum(weight[order], dtype=np.float64) for weight in (self.weight, others)
        )
        cumulative /= cumulative[-1]
        of_others /= of_others[-1]
        _, first, rows = np.unique(self.group[order], return_index=True, return_counts=True)
        high = of_others[first + rows - 1]
        low = np.concatenate([[0.0], high[:-1]])
        return order, cumulative, of_others, np.repeat(low, rows), np.repeat(high, rows)

    def _shared(self, block: int, groups: int) -> np.ndarray:
        order, cumulative, of_others, low, high = self._sorted
        rng = np.random.default_rng((self.seed, block))
        first = _systematic(cumulative, groups * _STEPS_SHARED, rng)[:, None]
        points = low[first] + (high - low)[first] * rng.random((len(first), self.size - 1))
        # As in `_systematic`: no point may be rounded up into the next group.
        points = np.minimum(points, np.nextafter(high[first], 0))
        following = np.searchsorted(of_others, points, side="right")
        return _split(order[np.concatenate([first, following], axis=1)], rng)

    def at(self, step: int, count: int) -> np.ndarray:
        """`count` row numbers for a step, a multiple of `size`, group after group."""
        block, place = divmod(step, _STEPS_SHARED)
        return self._shared(block, count // self.size)[place].reshape(-1)


def _systematic(cumulative: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `total` indices by cumulative weights that end at 1: one offset, equal strides."""
    points = (np.arange(total) + rng.random()) / total
    # A point rounded up to 1 would draw the last row even if its weight is 0.
    points = np.minimum(points, np.nextafter(1, 0))
    return np.searchsorted(cumulative, points, side="right")


def _split(index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deals what is drawn for a block to its steps, [n, ...] -> [steps, n / steps, ...]: each step
    has every tenth, so that it is a systematic sample too.
    """
    steps = index.reshape(-1, _STEPS_SHARED, *index.shape[1:]).swapaxes(0, 1)
    return rng.permutation(steps)
