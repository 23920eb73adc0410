"""Masks of a batch's positions and of a vocabulary's ids."""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp


class Rows(Protocol):
    """Right-padded rows, see `data.batch.Batch`."""

    tokens: Any  # int32 [B, T]
    prompt_length: Any  # int32 [B]
    length: Any  # int32 [B]


def target_mask(batch: Rows) -> jax.Array:
    """Marks the positions that predict a token of the target, its closing eos included.

    Position t reads tokens 0 .. t and predicts token t + 1. With prompt_length 2, length 5, T = 7:

        token      0       1       2       3       4       5       6
                   prompt  prompt  target  target  eos     pad     pad
        position   0       1       2       3       4       5
        mask       0       1       1       1       0       0

    Args:
      batch: tokens [B, T], prompt_length [B], length [B].

    Returns:
      float32 [B, T-1].
    """
    T = batch.tokens.shape[1]
    predicted = jax.lax.broadcasted_iota(jnp.int32, (batch.length.shape[0], T - 1), 1) + 1
    inside = (predicted >= batch.prompt_length[:, None]) & (predicted < batch.length[:, None])
    return inside.astype(jnp.float32)


def among(tokens: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    """Marks the tokens that are one of `ids`, which are not empty: bool, of the tokens' shape."""
    return functools.reduce(jnp.logical_or, [tokens == id for id in ids])


def fill_ids(x: jax.Array, excluded_ids: tuple[tuple[int, int], ...], value: float) -> jax.Array:
    """Fills excluded ids of the vocabulary, the last axis.

    Args:
      x: [..., V].
      excluded_ids: ranges [first, end) of ids; without any, x is returned as it is.
      value: what stands at those ids.
    """
    if not excluded_ids:
        return x
    column = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    within = [(first <= column) & (column < end) for first, end in excluded_ids]
    return jnp.where(functools.reduce(jnp.logical_or, within), jnp.asarray(value, x.dtype), x)
