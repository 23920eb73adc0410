"""Adam on the entries of a cache, each of which has an age of its own.

An entry is the key or the value of one slot, in one layer and head. Entries join the cache chunk by
chunk, and their moments begin with them: the bias of an entry's moments is corrected by the number
of its own updates. (Yoshida and Gimpel keep moments per entry; how they correct their bias is not
known, and chosen here.)

B prompts, H heads, S slots, K head width.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dinado_jax.models.cache import Segment

# Slots are the second axis of a cache's arrays, and the only one of their ages.
_OF_SLOTS = optax.ScaleByAdamState(count=0, mu=1, nu=1)  # pyright: ignore[reportArgumentType]
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def init_moments(prompt: Segment) -> Any:
    """The moments of entries that have had no update.

    Args:
      prompt: keys and values of each layer, [B H, S, K].

    Returns:
      optax's state, with an age (count) per slot, int32 [S].
    """
    return jax.vmap(_ADAM.init, in_axes=1, out_axes=_OF_SLOTS)(prompt)


def adam_step(
    prompt: Segment, gradient: Segment, moments: Any, length: jax.Array, step_size: jax.Array
) -> tuple[Segment, Any]:
    """One update of all entries, with decay rates .9 and .999 and epsilon 1e-8.

    Args:
      prompt: keys and values of each layer, [B H, S, K].
      gradient: of the loss by them, zero where slots are empty.
      moments: of `init_moments` or the step before.
      length: int32 [], slots that hold something; those after them stay of age 0.
      step_size: float32 [].

    Returns:
      The updated entries and moments.
    """
    update = jax.vmap(_ADAM.update, in_axes=(1, _OF_SLOTS), out_axes=(1, _OF_SLOTS))
    change, moments = update(gradient, moments)
    held = jnp.arange(len(moments.count)) < length
    moments = moments._replace(count=jnp.where(held, moments.count, 0))
    moved = jax.tree.map(lambda x, d: (x - step_size * d).astype(x.dtype), prompt, change)
    return moved, moments
