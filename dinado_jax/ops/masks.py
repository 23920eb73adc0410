"""Which positions of a batch count."""

import jax
import jax.numpy as jnp


def target_mask(batch: dict[str, jax.Array]) -> jax.Array:
    """[B, T-1] float32: 1 where position t predicts a token of the target (its eos included).

    batch: tokens [B, T], prompt_length [B], length [B].
    """
    T = batch["tokens"].shape[1]
    predicted = jax.lax.broadcasted_iota(jnp.int32, (batch["length"].shape[0], T - 1), 1) + 1
    inside = (predicted >= batch["prompt_length"][:, None]) & (predicted < batch["length"][:, None])
    return inside.astype(jnp.float32)
