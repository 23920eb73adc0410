"""Documents as windows, and endless streams of windows for training.

A window begins with the last token of the one before (`data.sequences.windows`), so that each token
is predicted exactly once, with what its window has read and the memory of those before.
"""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from flax import struct

from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.sequences import Sequences, windows
from dinado_jax.errors import InputError


@struct.dataclass(kw_only=True)
class Windows(Batch):
    """W windows of B rows, one after another: tokens int32 [B, W, T], prompt_length and length
    int32 [B, W]. A window of length 0 is padding.
    """

    begins: Array  # bool [B, W], whether it is the first of a document: its memory is empty

    @property
    def targets(self) -> Array:
        """How many tokens each window predicts: int32 [B, W]."""
        return (self.length - self.prompt_length).clip(0)


@dataclasses.dataclass(frozen=True)
class Documents:
    """N documents as windows of T tokens, one document after another."""

    rows: Sequences
    counts: np.ndarray  # int [N], windows of each

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], window: int
    ) -> "Documents":
        """Cuts rows of token ids.

        Args:
          prompts: N rows, what comes before each document; at least one token.
          targets: N rows, the documents.
          window: T, tokens.

        Raises:
          InputError: if a prompt leaves no room in a window.
        """
        lengths = np.array([len(p) + len(t) for p, t in zip(prompts, targets, strict=True)])
        rows = windows(prompts, targets, 0, window, "choose a longer window")
        wider = window - rows.tokens.shape[1]  # every document is shorter
        rows = dataclasses.replace(rows, tokens=np.pad(rows.tokens, ((0, 0), (0, wider))))
        return cls(rows, -(-(lengths - 1) // (window - 1)))

    def __len__(self) -> int:
        return len(self.counts)

    def at(self, index: np.ndarray) -> Windows:
        """Gathers the windows numbered `index` int [B, W]; -1 is padding."""
        firsts = np.cumsum(self.counts) - self.counts
        padding = index < 0
        return Windows(
            tokens=self.rows.tokens[index],
            prompt_length=self.rows.prompt_length[index],
            length=np.where(padding, 0, self.rows.length[index]).astype(np.int32),
            row=index[:, 0].astype(np.int32),
            begins=np.isin(index, firsts),
        )

    def windows_of(self, document: int) -> np.ndarray:
        """The numbers of a document's windows, int [its number of them]."""
        first = self.counts[:document].sum()
        return np.arange(first, first + self.counts[document])


@dataclasses.dataclass(frozen=True)
class Streams:
    """Batches for truncated back-propagation, as a pure function of the step.

    In every epoch the documents are put one after another in an order fixed by the seed and cut
    into B equal parts, the rows. A step has the next W windows of every row, whose memories go on
    from the step before. A row begins an epoch with an empty memory, also within a document; fewer
    than B + B W windows at the ends of rows are left out.

    Raises:
      InputError: if there are fewer than B W windows.
    """

    documents: Documents
    batch: int  # B
    windows: int  # W
    seed: int

    def __post_init__(self) -> None:
        if not self.per_epoch:
            raise InputError(
                f"the documents have {len(self.documents.rows)} windows, a step takes {self.batch} "
                f"rows of {self.windows}: give more text, or fewer rows or windows"
            )
        object.__setattr__(self, "_order", lru_cache(2)(self._order))

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.documents.rows) // self.batch // self.windows

    def _order(self, epoch: int) -> np.ndarray:
        """The windows of each row, int [B, per_epoch W]."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.documents))
        index = np.concatenate([self.documents.windows_of(number) for number in order])
        row = len(index) // self.batch
        return index[: row * self.batch].reshape(self.batch, row)

    def at(self, step: int) -> Windows:
        """The windows of a step, [B, W, ..]."""
        epoch, place = divmod(step, self.per_epoch)
        first = place * self.windows
        found = self.documents.at(self._order(epoch)[:, first : first + self.windows])
        if place == 0:
            found.begins[:, 0] = True
        return found
