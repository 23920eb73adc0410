"""Reductions over blocks of the last axis, which need not be a multiple of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dinado_jax.ops.backend import target

# A windowed reduction copies nothing on a CPU; the TPU's compiler has no room for windows so wide.
FOLDED = {"cpu": False, "gpu": True, "tpu": True}


def block_reduce(x: jax.Array, block: int, monoid: Callable, start: float) -> jax.Array:
    """Reduces blocks of the last axis, [..., V] -> [..., ceil(V / block)].

    Args:
      x: [..., V].
      block: columns per block; the last block may be shorter.
      monoid: jax.lax.add or jax.lax.max.
      start: its identity, 0 or -inf.
    """
    rest = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)]
    if not FOLDED[target()]:
        window = (1,) * (x.ndim - 1) + (block,)
        return jax.lax.reduce_window(x, start, monoid, window, window, rest)
    folded = jnp.pad(x, rest, constant_values=start).reshape(*x.shape[:-1], -1, block)
    return jax.lax.reduce(folded, jnp.asarray(start, x.dtype), monoid, (x.ndim,))
