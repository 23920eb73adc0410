"""The token-level R recursion: from a control's scalars to the values of prefixes (method: DiNADO).

Position i has a prefix x_<i of value V_i and draws the token x_i, after which the value is R_i.
With A the log-ratio of a token, M its peak over the vocabulary and beta the norm:

    split       log V_i = log beta_i - M_i      log R_i = log V_i + A_i          (nado, soft, merge)
    clamped     V_i = R_{i-1}                   log R_i = log R_{i-1} + A_i      (hard)
    projected   V_i = R_{i-1}                   as clamped, the direction bent so that R_i <= 1

A split form is consistent, V_{i+1} = R_i, only as far as it has learned to be; the other two always
are, from R_0 = beta of the prompt on. A clamped R may exceed 1: its log-odds go on, see
bernoulli.logit. All in nats, float32.

Next to R = 1 a logarithm no longer tells how far off it is, and a floor of log R would end
gradients: losses read log-odds, which follow the recursion beside the logarithms.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dinado_jax.ops.bernoulli import (
    SURE,
    log1mexp,
    logit,
    scaled,
)

FLOOR = -70.0  # of log R: e^-70 is still a normal float32
_MOST = 1e4  # of log-odds


class Values(NamedTuple):
    """Values along a batch of rows, B rows of T positions, and the log-odds of each."""

    log_value: jax.Array  # [B, T] log V of the prefix before position t
    log_before: jax.Array  # [B, T] log R after the previous target position (0 at the first)
    log_after: jax.Array  # [B, T] log R after position t
    log_ratio: jax.Array  # [B, T] log q - log p of the token of position t
    linked: jax.Array  # [B, T] 1 where V_t should equal that R: every target position but the first
    log_terminal: jax.Array  # [B] log R of the whole row
    value_logit: jax.Array  # [B, T]
    before_logit: jax.Array  # [B, T]
    after_logit: jax.Array  # [B, T]
    terminal_logit: jax.Array  # [B]


def advance(
    form: str, log_prev: jax.Array, log_beta: jax.Array, below: jax.Array, peak: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(log V of a prefix, log R after a token) from log R_prev, log beta, A - M <= 0 and M >= 0.

    Elementwise: `below` may hold one drawn token per row or all of the vocabulary.
    """
    if form == "split":
        return log_beta - peak, log_beta + below
    if form == "clamped":
        return log_prev, log_prev + below + peak
    return log_prev, jnp.minimum(log_prev + peak, 0.0) + _lifted(log_prev, below, peak)


def _lifted(log_prev, below, peak):
    """log d, d = a + (1 - a) e^below: the direction mixed with the base's own, as little as makes
    sum_v p d no smaller than R_prev. Unbent that sum is S = e^-peak, so a = (R_prev - S) / (1 - S)
    where positive, and sum_v p d = max(S, R_prev).
    """
    excess = log_prev + peak
    bent = excess > 0
    some = jnp.where(bent, peak, 1.0)
    a = jnp.exp(-some) * jnp.expm1(jnp.where(bent, excess, 0.5)) / -jnp.expm1(-some)
    a = jnp.clip(a, 0.0, 1.0)
    mixed = jnp.log(a + (1 - a) * jnp.exp(jnp.maximum(below, FLOOR)))
    return jnp.where(bent, mixed, below)


def _next_logit(
    form: str,
    logit_prev: jax.Array,
    log_prev: jax.Array,
    log_after: jax.Array,
    below: jax.Array,
    peak: jax.Array,
    gap: jax.Array,
) -> jax.Array:
    """Log-odds of R after a token where it follows from R_prev; elementwise, beside `advance`."""
    ratio = below + peak
    ratio_in = jnp.minimum(ratio, 1.0)
    change = -jnp.expm1(ratio_in)
    # R_prev e^A, where R_prev is below 1 and A brings it no more than half the way there.
    known = (log_prev < 0) & (ratio <= 1)
    known &= change * jnp.exp(jnp.minimum(logit_prev, SURE)) > -0.5
    change, ratio_in = (jnp.where(known, x, 0.0) for x in (change, ratio_in))
    odds = jnp.where(known, scaled(logit_prev, ratio_in, change), logit(log_after))
    if form == "clamped":
        return odds
    # Bent: 1 - R = (1 - R_prev) (1 - e^below) / (1 - e^-M). That of the peak's own token is 0: its
    # odds end at SURE, with the gradient of those before.
    bent = log_prev + peak > 0
    log_gap = jnp.log(jnp.where(bent & (gap > 0), gap, 1.0))
    log_not = jax.nn.log_sigmoid(-logit_prev) + log1mexp(below) - log_gap
    odds = jnp.where(bent, log_after - log_not, odds)
    return odds - jax.lax.stop_gradient(jnp.maximum(odds - SURE, 0.0))


def unroll(
    form: str,
    beta_logit: jax.Array,
    below: jax.Array,
    peak: jax.Array,
    gap: jax.Array,
    mask: jax.Array,
    drawn_logit: jax.Array | None = None,
) -> Values:
    """Runs the recursion over time with a `lax.scan` whose carry is one R per row.

    Args:
      form: split, clamped or projected.
      beta_logit: [B, T], log-odds of beta at each position.
      below, peak, gap: [B, T], A - M, M and 1 - e^-M: see ops.vocab.VocabScalars.
      mask: [B, T], 1 at positions that draw a target token, one unbroken stretch a row.
      drawn_logit: [B, T], log-odds of R after each token, where a split form knows them.
    """
    ceiling = jnp.inf if form == "clamped" else 0.0

    def position(carry, now):
        log_r, logit_r, started = carry
        beta_t, below_t, peak_t, gap_t, mask_t, drawn_t = now
        log_beta_t = jax.nn.log_sigmoid(beta_t)
        prev, logit_v = (
            jnp.where(started, *pair) for pair in ((log_r, log_beta_t), (logit_r, beta_t))
        )
        log_v, after = advance(form, prev, log_beta_t, below_t, peak_t)
        if form == "split":
            logit_v = scaled(beta_t, -peak_t, gap_t)
            odds = scaled(beta_t, below_t, -jnp.expm1(below_t)) if drawn_t is None else drawn_t
        else:
            odds = _next_logit(form, logit_v, prev, after, below_t, peak_t, gap_t)
        logit_v, odds = (jnp.clip(x, -_MOST, _MOST) for x in (logit_v, odds))
        inside = mask_t > 0
        drawn = after - log_v
        log_v, after = jnp.maximum(log_v, FLOOR), jnp.clip(after, FLOOR, ceiling)
        linked = (started & inside).astype(jnp.float32)
        out = (log_v, log_r, after, drawn, linked), (logit_v, logit_r, odds)
        carry = jnp.where(inside, after, log_r), jnp.where(inside, odds, logit_r), started | inside
        return carry, out

    zeros = jnp.zeros(len(beta_logit), jnp.float32)
    start = zeros, logit(zeros), zeros > 0
    over_time = jax.tree.map(jnp.transpose, (beta_logit, below, peak, gap, mask, drawn_logit))
    (log_terminal, logit_terminal, _), along = jax.lax.scan(position, start, over_time)
    (log_v, before, after, ratio, linked), odds = jax.tree.map(jnp.transpose, along)
    value_logit, before_logit, after_logit = odds
    return Values(
        log_value=log_v,
        log_before=before,
        log_after=after,
        log_ratio=ratio,
        linked=linked,
        log_terminal=log_terminal,
        value_logit=value_logit,
        before_logit=before_logit,
        after_logit=after_logit,
        terminal_logit=logit_terminal,
    )
