"""Which positions of a batch count, and which ids of a vocabulary."""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp


class Rows(Protocol):
    """Right-padded rows, see `data.batch.Batch`."""

    @property
    def tokens(self) -> jax.Array: ...

    @property
    def prompt_length(self) -> jax.Array: ...

    @property
    def length(self) -> jax.Array: ...


def target_mask(batch: Rows) -> jax.Array:
    """[B, T-1] float32: 1 where position t predicts a token of the target (its eos included).

    Args:
      batch: anything with tokens [B, T], prompt_length [B] and length [B], such as a `Batch`.
    """
    T = batch.tokens.shape[1]
    predicted = jax.lax.broadcasted_iota(jnp.int32, (batch.length.shape[0], T - 1), 1) + 1
    inside = (predicted >= batch.prompt_length[:, None]) & (predicted < batch.length[:, None])
    return inside.astype(jnp.float32)


def fill_ids(x: jax.Array, excluded_ids: tuple[tuple[int, int], ...], value: float) -> jax.Array:
    """x [.., V] with `value` at the ids of the ranges [first, end) in `silent`; x itself without
    any."""
    if not excluded_ids:
        return x
    column = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    within = [(first <= column) & (column < end) for first, end in excluded_ids]
    return jnp.where(functools.reduce(jnp.logical_or, within), jnp.asarray(value, x.dtype), x)
