"""The penalties of a log-probability that misses its target, and of probability itself."""

import math

import jax
import jax.numpy as jnp
import optax

_HUBER = 1.5  # nats: residuals beyond it pull with constant force
_CAP = 3.0  # nats


def is_success(label: jax.Array, margin: float) -> jax.Array:
    """Marks labels above e^-margin, others being failures: bool, of the labels' shape."""
    return label > math.exp(-margin)


def huber(residual: jax.Array) -> jax.Array:
    """Computes Huber's loss (nats): half the square up to 1.5 nats, linear beyond."""
    return optax.losses.huber_loss(residual, delta=_HUBER)


def penalty(residual: jax.Array, two_sided: jax.Array) -> jax.Array:
    """Computes Huber's loss (nats) of residuals that may be free below 0.

    Args:
      residual: float32, any shape, nats above the target.
      two_sided: bool of that shape; elsewhere residuals below 0 are free.
    """
    return huber(jnp.where(two_sided, residual, jnp.maximum(residual, 0.0)))


def mass(log_ratio: jax.Array) -> jax.Array:
    """Computes the ratio q / d from its logarithm (nats); beyond e^3 it continues as its tangent.

    Over rows drawn from d its mean is the probability of such rows under q. -inf gives 0.
    """
    ratio = jnp.exp(jnp.minimum(log_ratio, _CAP))
    return ratio * (1 + jnp.where(log_ratio > _CAP, log_ratio - _CAP, 0.0))
