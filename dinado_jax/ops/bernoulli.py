"""Bernoulli losses on probabilities given as logarithms (nats), finite up to both ends."""

import math

import jax
import jax.numpy as jnp

CEILING = -1e-6  # largest log-probability whose complement float32 can still tell from 0


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
    """Log-odds of a probability given as its logarithm."""
    return jnp.minimum(log_p, CEILING) - log1mexp(log_p)


def cross_entropy(log_p: jax.Array, label: jax.Array, shift: jax.Array | float = 0.0) -> jax.Array:
    """-C log p - (1 - C) log(1 - p); `shift` is added to the log-odds of p.

    A sample balanced by label has other odds than the population: with shift = the sample's
    log-odds minus the population's, p still fits the population (logit adjustment).
    """
    odds = logit(log_p) + shift
    return -label * jax.nn.log_sigmoid(odds) - (1 - label) * jax.nn.log_sigmoid(-odds)


def kl(log_a: jax.Array, log_b: jax.Array) -> jax.Array:
    """KL(Bernoulli(a) || Bernoulli(b)) >= 0."""
    log_a, log_b = jnp.minimum(log_a, CEILING), jnp.minimum(log_b, CEILING)
    # expm1: next to a = 1, exp and a subtraction would lose all but a digit of 1 - a.
    a, not_a = jnp.exp(log_a), -jnp.expm1(log_a)
    return a * (log_a - log_b) + not_a * (log1mexp(log_a) - log1mexp(log_b))
