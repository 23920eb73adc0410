"""The token-level R recursion: from a control's scalars to the values of prefixes (method: DiNADO).

Position i has a prefix x_<i of value V_i and draws the token x_i, after which the value is R_i:

    log V_i = log beta_i - M_i      log R_i = log V_i + A_i      forward consistency: V_{i+1} = R_i

with A the log-ratio of the drawn token and M the peak of the log-ratio over the vocabulary, so that
R_i <= 1 for every token that could have been drawn. All in nats, float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

FLOOR = -70.0  # of log R: e^-70 is still a normal float32


class Values(NamedTuple):
    """Values along a batch of rows, B rows of T positions."""

    log_value: jax.Array  # [B, T] log V of the prefix before position t
    log_before: jax.Array  # [B, T] log R after the previous target position (0 at the first)
    linked: jax.Array  # [B, T] 1 where V_t should equal that R: every target position but the first
    log_terminal: jax.Array  # [B] log R of the whole row


def unroll(log_beta: jax.Array, log_ratio: jax.Array, peak: jax.Array, mask: jax.Array) -> Values:
    """Runs the recursion over time with a `lax.scan` whose carry is one log R a row.

    Args:
      log_beta, log_ratio, peak: [B, T], the scalars at each position.
      mask: [B, T], 1 at positions that draw a target token, one unbroken stretch a row.
    """

    def position(carry, now):
        log_r, started = carry
        beta_t, ratio_t, peak_t, mask_t = now
        log_v = jnp.maximum(beta_t - peak_t, FLOOR)
        after = jnp.clip(log_v + ratio_t, FLOOR, 0.0)
        inside = mask_t > 0
        out = (log_v, log_r, jnp.where(started & inside, 1.0, 0.0))
        return (jnp.where(inside, after, log_r), started | inside), out

    rows = log_beta.shape[0]
    start = (jnp.zeros(rows), jnp.zeros(rows, bool))
    over_time = jax.tree.map(jnp.transpose, (log_beta, log_ratio, peak, mask))
    (log_terminal, _), along = jax.lax.scan(position, start, over_time)
    return Values(*jax.tree.map(jnp.transpose, along), log_terminal)
