"""Caches of rows that start and end at different times: each row has slots of its own.

A row's slot is its position. Its prompt is copied in from a `bank`, the caches that a prefill of
prompts returns, and generated tokens follow at once, over the prompt's padding. With regions of 8
slots and prompts of at most 4 tokens (p prompt, g generated, . not attended to):

    bank                     region                       count
    0   | p p p . |          row 0   | p p p g g g . . |    6
    1   | p p p p |          row 1   | p p p p g . . . |    5
    2   | p p . . |          row 2   | p p . . . . . . |    2     replaced by prompt 2 of the bank

This is a `Cache` whose prompts have no slots: each row reads its own copy of the prompt, and all it
has read is one segment. B prompts in the bank, R rows, H heads, K head width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dinado_jax.models.cache import Cache


def empty_rows(bank: Any, rows: int, steps: int) -> Any:
    """Allocates the carry of `rows` rows that have read nothing.

    Args:
      bank: carry of a prefill with one row per prompt: caches, and arrays [B, ...].
      rows: R.
      steps: tokens that a row reads after its prompt.
    """

    def empty(leaf: Any) -> Any:
        if not isinstance(leaf, Cache):
            return jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype)

        def slots(x: jax.Array, count: int) -> jax.Array:
            heads = len(x) // len(leaf.lengths)
            return jnp.zeros((rows * heads, count, *x.shape[2:]), x.dtype)

        nothing, region = (
            jax.tree.map(lambda x, n=n: slots(x, n), leaf.prompt)
            for n in (0, leaf.prompt[0].k.shape[1] + steps)
        )
        none = jnp.zeros(rows, jnp.int32)
        return Cache(nothing, none, (region,), (), none, leaf.prefix, leaf.first)

    return jax.tree.map(empty, bank, is_leaf=_is_cache)


def replace_rows(carry: Any, rows: jax.Array, bank: Any, prompts: jax.Array) -> Any:
    """Starts rows again, each after a prompt of the bank.

    Args:
      carry: of R rows, from `empty_rows`.
      rows: int32 [M], which of them; R: none.
      bank: as for `empty_rows`.
      prompts: int32 [M], the prompt of each.
    """

    def replace(old: Any, new: Any) -> Any:
        if not isinstance(old, Cache):
            return old.at[rows].set(new[prompts], mode="drop")
        region = jax.tree.map(
            lambda x, y: _copy((x, rows, len(old.lengths)), (y, prompts, len(new.lengths))),
            old.generated[0],
            new.prompt,
        )
        count = jnp.asarray(old.count).at[rows].set(new.lengths[prompts], mode="drop")
        return dataclasses.replace(old, generated=(region,), count=count)

    return jax.tree.map(replace, carry, bank, is_leaf=_is_cache)


def _copy(
    to: tuple[jax.Array, jax.Array, int], source: tuple[jax.Array, jax.Array, int]
) -> jax.Array:
    """Copies prompts into the first slots of rows: arrays [R H, slots, K] and [B H, T, K], each
    with the numbers [M] of the rows (prompts), and how many there are.
    """
    (region, rows, R), (prompt, prompts, B) = to, source
    new = prompt.reshape(B, -1, *prompt.shape[1:])[prompts]
    by_row = region.reshape(R, -1, *region.shape[1:])
    return by_row.at[rows, :, : prompt.shape[1]].set(new, mode="drop").reshape(region.shape)


def _is_cache(leaf: Any) -> bool:
    return isinstance(leaf, Cache)
