"""Probabilities as log-odds (nats), which float32 holds to both ends, and losses of them."""

import math

import jax
import jax.numpy as jnp

CEILING = -1e-6  # largest log-probability whose complement float32 can still tell from 0
SURE = 32.0  # log-odds: gradients of what is multiplied with them grow no further than e^32


def log1mexp(log_p: jax.Array) -> jax.Array:
    """log(1 - e^log_p) for log_p <= 0, clamped at -1e-6; gradients are finite everywhere.

    The two-branch form of Maechler (2012), each branch fed only arguments it can bear.
    """
    log_p = jnp.minimum(log_p, CEILING)
    near_zero = log_p > -math.log(2)
    small = jnp.where(near_zero, log_p, -1.0)
    large = jnp.where(near_zero, -1.0, log_p)
    return jnp.where(near_zero, jnp.log(-jnp.expm1(small)), jnp.log1p(-jnp.exp(large)))


def logit(log_p: jax.Array) -> jax.Array:
    """Log-odds of a probability of which only the logarithm is known. Beyond -1e-6, where that does
    not determine them, and beyond 0 they go on with slope 1: no gradient ends there."""
    return log_p - log1mexp(log_p)


def scaled(odds: jax.Array, log_factor: jax.Array, gap: jax.Array) -> jax.Array:
    """Log-odds of sigmoid(odds) e^log_factor, given gap = 1 - e^log_factor too, which may be
    negative while the product stays well below 1. Exact at both ends.

        log_factor - log(e^-odds + gap)
    """
    excess = gap * jnp.exp(jnp.minimum(odds, SURE))
    small = excess < 1  # a gap of 0 among them
    near = jnp.log1p(jnp.where(small, excess, 0.0)) - odds
    far = jnp.logaddexp(-odds, jnp.log(jnp.where(small, 1.0, gap)))
    return log_factor - jnp.where(small, near, far)


def cross_entropy(odds: jax.Array, label: jax.Array, shift: jax.Array | float = 0.0) -> jax.Array:
    """-C log p - (1 - C) log(1 - p) from the log-odds of p, to which `shift` is added.

    A sample balanced by label has other odds than the population: with shift = the sample's
    log-odds minus the population's, p still fits the population (logit adjustment).
    """
    odds = odds + shift
    return -label * jax.nn.log_sigmoid(odds) - (1 - label) * jax.nn.log_sigmoid(-odds)


def kl(logit_a: jax.Array, logit_b: jax.Array) -> jax.Array:
    """KL(Bernoulli(a) || Bernoulli(b)) >= 0 from their log-odds."""

    def part(a, b):
        # exp of log_sigmoid: the gradient of sigmoid itself is rounded to 0 next to 1.
        log_a = jax.nn.log_sigmoid(a)
        return jnp.exp(log_a) * (log_a - jax.nn.log_sigmoid(b))

    return part(logit_a, logit_b) + part(-logit_a, -logit_b)
