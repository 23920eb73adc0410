"""The penalty of a log-probability that misses its target."""

import math

import jax
import jax.numpy as jnp
import optax

_HUBER = 1.5  # nats: residuals beyond it pull with constant force


def is_success(label: jax.Array, margin: float) -> jax.Array:
    """Marks labels above e^-margin, the C that a failure counts as: bool, of the labels' shape."""
    return label > math.exp(-margin)


def penalty(residual: jax.Array, two_sided: jax.Array) -> jax.Array:
    """Computes Huber's loss (nats): half the square up to 1.5 nats, linear beyond.

    Args:
      residual: float32, any shape, nats above the target.
      two_sided: bool of that shape; elsewhere residuals below 0 are free.
    """
    residual = jnp.where(two_sided, residual, jnp.maximum(residual, 0.0))
    return optax.losses.huber_loss(residual, delta=_HUBER)
