"""Reductions over blocks of the last axis, which need not be a multiple of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Windowed reductions copy nothing on a CPU; the TPU's compiler has no room for windows so wide.
FOLDED = {"cpu": False, "gpu": True, "tpu": True}


def block_reduce(x: jax.Array, block: int, monoid: Callable, start: float) -> jax.Array:
    """[.., V] -> [.., ceil(V / block)], each block reduced by jax.lax.add or max from `start`."""
    rest = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)]
    if not FOLDED[jax.default_backend()]:
        window = (1,) * (x.ndim - 1) + (block,)
        return jax.lax.reduce_window(x, start, monoid, window, window, rest)
    folded = jnp.pad(x, rest, constant_values=start).reshape(*x.shape[:-1], -1, block)
    return jax.lax.reduce(folded, jnp.asarray(start, x.dtype), monoid, (x.ndim,))
