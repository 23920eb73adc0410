"""The rows of a training or scoring step, as one pytree of arrays."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from flax import struct

Array: TypeAlias = Any  # numpy.ndarray on the host, jax.Array on devices


@struct.dataclass(kw_only=True)
class Batch:
    """Right-padded rows of prompt and target: B rows of T tokens, D the width of the base.

    Objectives extend it with the arrays they learn from. Every leaf has the row as its leading
    axis, so that a batch is split into micro-batches and sharded over devices leaf by leaf. Which
    columns belong to the target: see `ops.masks.target_mask`.
    """

    tokens: Array  # int32 [B, T]
    prompt_length: Array  # int32 [B], tokens before the target, >= 1
    length: Array  # int32 [B], tokens of prompt and target
    row: Array | None = None  # int32 [B], which row of the data set each one is
    # [B, T, D], states of the base, last hidden ones or those that enter the first layer of a
    # control's delta: what lies below them is skipped.
    states: Array | None = None
    condition: Any = None  # pytree of [B, ...], what guides know of each row's prompt


def rows_of(tree: Any, index: np.ndarray) -> Any:
    """The rows numbered `index` of every leaf of a pytree of arrays; None stays None."""
    return jax.tree.map(lambda x: x[index], tree)


def batches_in(tree: Any) -> list[Batch]:
    """Finds every `Batch` in a pytree, such as those of an objective that reads several."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Batch))
    return [leaf for leaf in leaves if isinstance(leaf, Batch)]


def map_batches(function: Callable[[Batch], Batch], tree: Any) -> Any:
    """Replaces every `Batch` in a pytree of them."""
    return jax.tree.map(function, tree, is_leaf=lambda node: isinstance(node, Batch))
