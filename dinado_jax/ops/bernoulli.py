"""Bernoulli probabilities as log-odds (nats), exact next to 0 and 1 in float32, and their
losses.
"""

import math

import jax
import jax.numpy as jnp

CEILING = -1e-6  # largest log-probability whose complement float32 can still tell from 0
SURE = 32.0  # log-odds; gradients of products with e^log_odds are bounded by e^32


def log1mexp(log_p: jax.Array) -> jax.Array:
    """log(1 - e^log_p) for log_p <= 0, clamped at -1e-6; gradients are finite everywhere.

    The two-branch form of Maechler (2012). Each branch gets only arguments in its own range, so
    that the gradient of the other one is finite too.
    """
    log_p = jnp.minimum(log_p, CEILING)
    near_zero = log_p > -math.log(2)
    small = jnp.where(near_zero, log_p, -1.0)
    large = jnp.where(near_zero, -1.0, log_p)
    return jnp.where(near_zero, jnp.log(-jnp.expm1(small)), jnp.log1p(-jnp.exp(large)))


def logit(log_p: jax.Array) -> jax.Array:
    """Log-odds of a probability given by its logarithm alone.

    Beyond log p = -1e-6, where float32 no longer determines them, and beyond 0 they continue with
    slope 1, so that no gradient vanishes there.
    """
    return log_p - log1mexp(log_p)


def scaled(log_odds: jax.Array, log_factor: jax.Array, gap: jax.Array) -> jax.Array:
    """Log-odds of sigmoid(log_odds) e^log_factor, exact at both ends. `gap`, 1 - e^log_factor, may
    be negative as long as the product stays well below 1.

        log_factor - log(e^-log_odds + gap)
    """
    excess = gap * jnp.exp(jnp.minimum(log_odds, SURE))
    small = excess < 1  # includes a gap of 0, whose logarithm is never taken
    near = jnp.log1p(jnp.where(small, excess, 0.0)) - log_odds
    far = jnp.logaddexp(-log_odds, jnp.log(jnp.where(small, 1.0, gap)))
    return log_factor - jnp.where(small, near, far)


def cross_entropy(
    log_odds: jax.Array, label: jax.Array, shift: jax.Array | float = 0.0
) -> jax.Array:
    """Binary cross entropy -C log p - (1 - C) log(1 - p) (nats) from log-odds.

    A sample balanced by label has other odds than the population: with shift = the sample's
    log-odds minus the population's, p still fits the population (logit adjustment).

    Args:
      log_odds: of p, any shape.
      label: C in [0, 1], broadcast against `log_odds`.
      shift: added to the log-odds.
    """
    log_odds = log_odds + shift
    return -label * jax.nn.log_sigmoid(log_odds) - (1 - label) * jax.nn.log_sigmoid(-log_odds)


def kl(log_odds_a: jax.Array, log_odds_b: jax.Array) -> jax.Array:
    """KL(Bernoulli(a) || Bernoulli(b)) >= 0 from their log-odds."""

    def part(a, b):
        # exp of log_sigmoid: the gradient of sigmoid itself is rounded to 0 next to 1.
        log_a = jax.nn.log_sigmoid(a)
        return jnp.exp(log_a) * (log_a - jax.nn.log_sigmoid(b))

    return part(log_odds_a, log_odds_b) + part(-log_odds_a, -log_odds_b)
