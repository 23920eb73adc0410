"""Random numbers of rows and positions, whatever else is in the batch.

A number depends on the key of its row and on its position alone. So padding changes nothing, nor do
the other rows, micro-batches or the number of devices.
"""

import jax
import jax.numpy as jnp


def row_keys(seeds_B2: jax.Array) -> jax.Array:
    """Keys [B] from seeds uint32 [B, 2], such as those of `objectives.sft.NoisyBatch`."""
    return jax.random.wrap_key_data(seeds_B2, impl="threefry2x32")


def fold_in(keys_B: jax.Array, number: jax.Array | int) -> jax.Array:
    """Other keys [B], of a step or a purpose."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)


def uniforms(keys_B: jax.Array, positions: int) -> jax.Array:
    """float32 [B, T] in [0, 1), one number for each of T positions."""
    at = jax.vmap(lambda key: jax.vmap(lambda t: jax.random.fold_in(key, t))(jnp.arange(positions)))
    return jax.vmap(jax.vmap(jax.random.uniform))(at(keys_B))
