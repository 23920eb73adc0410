"""Prompts to continue: texts, their token ids, and the padded batches of them that devices read.

A condition is what guides know of each prompt, such as its keywords: None, or a pytree of arrays
whose leading axis is the prompt.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np
from flax import struct

from dinado_jax.data.batch import Array, rows_of
from dinado_jax.data.sequences import pad


@struct.dataclass
class Prompts:
    """A batch of B right-padded prompts, T tokens wide; every leaf has the prompt as its leading
    axis, so that devices share the batch leaf by leaf.
    """

    tokens: Array  # int32 [B, T]
    lengths: Array  # int32 [B], tokens of each prompt, >= 1
    condition: Any = None  # pytree of [B, ...]

    def check(self) -> None:
        """Checks ranks, integer dtypes and the leading axis of every leaf.

        Raises:
          AssertionError: naming the shapes that do not fit.
        """
        chex.assert_rank([self.tokens, self.lengths], [2, 1])
        chex.assert_type([self.tokens, self.lengths], int)
        chex.assert_equal_shape_prefix(jax.tree.leaves(self), 1)


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """N prompts as texts, independent of any tokenizer."""

    texts: Sequence[str]
    first_id: int = 0  # number of the first prompt, which its random stream depends on
    names: Sequence[str] | None = None  # for messages; "prompt 0", "prompt 1", .. by default
    condition: Any = None  # pytree of [N, ...]

    @property
    def ids(self) -> np.ndarray:
        """int64 [N]."""
        return self.first_id + np.arange(len(self.texts))

    def repeated(self, times: int) -> "PromptSet":
        """Each prompt as often, one after the other, with random streams of their own."""
        again = self.select(np.arange(len(self.texts)).repeat(times))
        return dataclasses.replace(again, first_id=self.first_id * times)

    def select(self, index: np.ndarray) -> "PromptSet":
        """The prompts numbered `index`, in its order, with random streams of their own."""

        def chosen(values: Sequence[str]) -> list[str]:
            known = list(values)
            return [known[i] for i in index.tolist()]

        return PromptSet(
            chosen(self.texts),
            names=None if self.names is None else chosen(self.names),
            condition=rows_of(self.condition, index),
        )


@dataclasses.dataclass(frozen=True)
class TokenizedPrompts:
    """N prompts as token ids, on the host."""

    tokens: Sequence[Sequence[int]]
    condition: Any = None  # pytree of [N, ...]
    names: Sequence[str] | None = None  # for messages; "prompt 0", "prompt 1", .. by default
    ids: Sequence[int] | np.ndarray | None = None  # of their random streams; 0, 1, .. by default

    def __len__(self) -> int:
        return len(self.tokens)

    def name(self, index: int) -> str:
        """How messages call a prompt."""
        return self.names[index] if self.names is not None else f"prompt {index}"

    def stream_ids(self) -> np.ndarray:
        """int32 [N]."""
        ids = np.arange(len(self)) if self.ids is None else self.ids
        return np.asarray(ids, np.int32)

    def select(self, index: np.ndarray) -> "TokenizedPrompts":
        """The prompts numbered `index`, in its order, with the names and streams they have here."""
        return TokenizedPrompts(
            [self.tokens[i] for i in index],
            rows_of(self.condition, index),
            [self.name(i) for i in index],
            self.stream_ids()[index],
        )

    def batch(self, index: np.ndarray, fill: int, width: int) -> Prompts:
        """The prompts numbered `index` [B], padded with the token id `fill` to `width` tokens."""
        tokens = [self.tokens[i] for i in index]
        lengths = np.array([len(prompt) for prompt in tokens], np.int32)
        return Prompts(pad(tokens, fill, width), lengths, rows_of(self.condition, index))
