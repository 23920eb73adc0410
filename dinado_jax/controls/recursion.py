"""The token-level R recursion: from a control's scalars to the values of prefixes (method: DiNADO).

Position i has a prefix x_<i of value V_i and draws the token x_i, after which the value is R_i.
With A the log-ratio of a token, M its peak over the vocabulary and beta the norm:

    split       log V_i = log beta_i - M_i      log R_i = log V_i + A_i          (nado, soft, merge)
    clamped     V_i = R_{i-1}                   log R_i = log R_{i-1} + A_i      (hard)
    projected   V_i = R_{i-1}                   as clamped, the direction bent so that R_i <= 1

A split form is consistent, V_{i+1} = R_i, only as far as it has learned to be; the other two always
are, from R_0 = beta of the prompt on. A clamped R may exceed 1: losses clamp it. All in nats,
float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

FLOOR = -70.0  # of log R: e^-70 is still a normal float32


class Values(NamedTuple):
    """Values along a batch of rows, B rows of T positions."""

    log_value: jax.Array  # [B, T] log V of the prefix before position t
    log_before: jax.Array  # [B, T] log R after the previous target position (0 at the first)
    log_after: jax.Array  # [B, T] log R after position t
    log_ratio: jax.Array  # [B, T] log q - log p of the token of position t
    linked: jax.Array  # [B, T] 1 where V_t should equal that R: every target position but the first
    log_terminal: jax.Array  # [B] log R of the whole row


def advance(
    form: str, log_prev: jax.Array, log_beta: jax.Array, below: jax.Array, peak: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(log V of a prefix, log R after a token) from log R_prev, log beta, A - M <= 0 and M >= 0.

    Elementwise: `below` may hold one drawn token a row or all of the vocabulary.
    """
    if form == "split":
        return log_beta - peak, log_beta + below
    if form == "clamped":
        return log_prev, log_prev + below + peak
    return log_prev, jnp.minimum(log_prev + peak, 0.0) + _lifted(log_prev, below, peak)


def _lifted(log_prev, below, peak):
    """log d, d = a + (1 - a) e^below: the direction mixed with the base's own, as little as makes
    sum_v p d no smaller than R_prev. Unbent that sum is S = e^-peak, so a = (R_prev - S) / (1 - S)
    where positive, and sum_v p d = max(S, R_prev)."""
    excess = log_prev + peak
    bent = excess > 0
    some = jnp.where(bent, peak, 1.0)
    a = jnp.exp(-some) * jnp.expm1(jnp.where(bent, excess, 0.5)) / -jnp.expm1(-some)
    a = jnp.clip(a, 0.0, 1.0)
    mixed = jnp.log(a + (1 - a) * jnp.exp(jnp.maximum(below, FLOOR)))
    return jnp.where(bent, mixed, below)


def unroll(
    form: str, log_beta: jax.Array, log_ratio: jax.Array, peak: jax.Array, mask: jax.Array
) -> Values:
    """Runs the recursion over time with a `lax.scan` whose carry is one log R a row.

    Args:
      form: split, clamped or projected.
      log_beta, log_ratio, peak: [B, T], the scalars at each position.
      mask: [B, T], 1 at positions that draw a target token, one unbroken stretch a row.
    """
    ceiling = jnp.inf if form == "clamped" else 0.0

    def position(carry, now):
        log_r, started = carry
        beta_t, ratio_t, peak_t, mask_t = now
        prev = jnp.where(started, log_r, beta_t)
        log_v, after = advance(form, prev, beta_t, ratio_t - peak_t, peak_t)
        inside = mask_t > 0
        drawn = after - log_v
        log_v, after = jnp.maximum(log_v, FLOOR), jnp.clip(after, FLOOR, ceiling)
        linked = (started & inside).astype(jnp.float32)
        out = (log_v, log_r, after, drawn, linked)
        return (jnp.where(inside, after, log_r), started | inside), out

    rows = log_beta.shape[0]
    start = (jnp.zeros(rows, jnp.float32), jnp.zeros(rows, bool))
    over_time = jax.tree.map(jnp.transpose, (log_beta, log_ratio, peak, mask))
    (log_terminal, _), along = jax.lax.scan(position, start, over_time)
    return Values(*jax.tree.map(jnp.transpose, along), log_terminal)
