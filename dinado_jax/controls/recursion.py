"""The token-level recursion of R: from a control's scalars to the values of prefixes (DiNADO, arXiv
2306.11825).

Column t of a row stands for the prefix of tokens 0 .. t, of value V_t, and for token t + 1, after
which the value is R_t. With A_t = log q - log p of that token, M_t the largest such log-ratio over
the vocabulary, and beta_t the norm of the prefix:

    split       log V_t = log beta_t - M_t      log R_t = log V_t + A_t          (nado, soft, merge)
    clamped     V_t = R_{t-1}                   log R_t = log R_{t-1} + A_t      (hard)
    projected   V_t = R_{t-1}                   as clamped, r mixed with a constant so that R_t <= 1

The first target column reads beta of the prompt instead of R_{t-1}. A row of prompt length 2 and
length 5 (p prompt, y target, . padding):

    token         0     1     2     3     4     5     6
                  p     p     y     y     eos   .     .
    column        0     1     2     3     4     5
    mask          0     1     1     1     0     0
    log_value           V_1   V_2   V_3
    log_ratio           A_1   A_2   A_3
    log_after           R_1   R_2   R_3
    log_before          0     R_1   R_2
    linked        0     0     1     1     0     0      1: V_t should equal R_{t-1}
    log_terminal                    R_3                one per row

The split form is consistent (V_t = R_{t-1}) only as far as it has learned to be; the other two
always are. A clamped R may exceed 1: see bernoulli.logit for its log-odds. All in nats, float32.

Near R = 1 float32 logarithms lose 1 - R, and a floor of log R would stop gradients, so losses use
log-odds, which are carried along with the logarithms.

B rows, T columns. docs/method.md defines the symbols.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from dinado_jax.ops.bernoulli import SURE, log1mexp, logit, scaled

FLOOR = -70.0  # of log R: e^-70 is still a normal float32
_MOST = 1e4  # bound of log-odds


class Values(NamedTuple):
    """Values of all columns, float32; those outside the mask have no meaning."""

    log_value: jax.Array  # [B, T] nats, log V_t
    log_before: jax.Array  # [B, T] nats, log R_{t-1}; 0 at the first target column
    log_after: jax.Array  # [B, T] nats, log R_t
    log_ratio: jax.Array  # [B, T] nats, log q - log p of token t + 1
    linked: jax.Array  # [B, T] 1 at every target column except the first, else 0
    log_terminal: jax.Array  # [B] nats, log R of the whole row
    value_logit: jax.Array  # [B, T] log-odds, as the logarithms above
    before_logit: jax.Array  # [B, T]
    after_logit: jax.Array  # [B, T]
    terminal_logit: jax.Array  # [B]


def advance(
    form: str, log_prev: jax.Array, log_beta: jax.Array, below: jax.Array, peak: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step of the recursion, elementwise.

    Args:
      form: split, clamped or projected.
      log_prev: log R_{t-1} (log beta of the prompt at the first target), in nats as all of these.
      log_beta: of the prefix; read by the split form.
      below: A - M <= 0, of one drawn token per row or of all of the vocabulary.
      peak: M >= 0.

    Returns:
      log V_t, log R_t.
    """
    chex.assert_equal_rank([log_prev, log_beta, below, peak])
    if form == "split":
        return log_beta - peak, log_beta + below
    if form == "clamped":
        return log_prev, log_prev + below + peak
    return log_prev, jnp.minimum(log_prev + peak, 0.0) + _mix_with_constant(log_prev, below, peak)


def _mix_with_constant(log_prev: jax.Array, below: jax.Array, peak: jax.Array) -> jax.Array:
    """Interpolates e^below with 1, which moves q towards p: log d, d = a + (1 - a) e^below.

    a is the least for which sum_v p d >= R_prev. For a = 0 that sum is S = e^-peak, so a =
    (R_prev - S) / (1 - S) where positive, and sum_v p d = max(S, R_prev).
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
    """Computes log-odds of R_t in the recursive forms, elementwise; see `advance`."""
    ratio = below + peak
    ratio_in = jnp.minimum(ratio, 1.0)
    change = -jnp.expm1(ratio_in)
    # R_t = R_prev e^A, exact while R_prev < 1 and 1 - R_t > (1 - R_prev) / 2.
    known = (log_prev < 0) & (ratio <= 1)
    known &= change * jnp.exp(jnp.minimum(logit_prev, SURE)) > -0.5
    change, ratio_in = (jnp.where(known, x, 0.0) for x in (change, ratio_in))
    odds = jnp.where(known, scaled(logit_prev, ratio_in, change), logit(log_after))
    if form == "clamped":
        return odds
    # Where mixed, 1 - R = (1 - R_prev) (1 - e^below) / (1 - e^-M). For the token of the maximum
    # that is 0 and the odds are infinite: their value is capped at SURE, their gradient is not.
    bent = log_prev + peak > 0
    log_gap = jnp.log(jnp.where(bent & (gap > 0), gap, 1.0))
    log_not = jax.nn.log_sigmoid(-logit_prev) + log1mexp(below) - log_gap
    odds = jnp.where(bent, log_after - log_not, odds)
    return odds - jax.lax.stop_gradient(jnp.maximum(odds - SURE, 0.0))


def _position(form, carry, now):
    """One position of the scan of `unroll`; arrays are [B]."""
    log_r, logit_r, started = carry
    beta_t, below_t, peak_t, gap_t, mask_t, drawn_t = now
    log_beta_t = jax.nn.log_sigmoid(beta_t)
    prev, logit_v = (jnp.where(started, *pair) for pair in ((log_r, log_beta_t), (logit_r, beta_t)))
    log_v, after = advance(form, prev, log_beta_t, below_t, peak_t)
    if form == "split":
        logit_v = scaled(beta_t, -peak_t, gap_t)
        odds = scaled(beta_t, below_t, -jnp.expm1(below_t)) if drawn_t is None else drawn_t
    else:
        odds = _next_logit(form, logit_v, prev, after, below_t, peak_t, gap_t)
    logit_v, odds = (jnp.clip(x, -_MOST, _MOST) for x in (logit_v, odds))
    inside = mask_t > 0
    drawn = after - log_v
    ceiling = jnp.inf if form == "clamped" else 0.0
    log_v, after = jnp.maximum(log_v, FLOOR), jnp.clip(after, FLOOR, ceiling)
    linked = (started & inside).astype(jnp.float32)
    out = (log_v, log_r, after, drawn, linked), (logit_v, logit_r, odds)
    carry = jnp.where(inside, after, log_r), jnp.where(inside, odds, logit_r), started | inside
    return carry, out


def unroll(
    form: str,
    beta_logit: jax.Array,
    below: jax.Array,
    peak: jax.Array,
    gap: jax.Array,
    mask: jax.Array,
    drawn_logit: jax.Array | None = None,
) -> Values:
    """Runs the recursion over columns with a `lax.scan` whose carry is one R per row.

    Args:
      form: split, clamped or projected.
      beta_logit: float32 [B, T], log-odds of beta of each prefix.
      below: float32 [B, T] nats, A - M of each token.
      peak: float32 [B, T] nats, M.
      gap: float32 [B, T], 1 - e^-M; see ops.vocab.VocabScalars.
      mask: float32 [B, T], 1 at columns of target tokens, one unbroken stretch per row.
      drawn_logit: float32 [B, T], log-odds of R_t, where a split form computes them directly.
    """
    arrays = [x for x in (beta_logit, below, peak, gap, mask, drawn_logit) if x is not None]
    chex.assert_rank(arrays, 2)
    chex.assert_equal_shape(arrays)
    chex.assert_type(arrays, jnp.float32)
    position = functools.partial(_position, form)
    zeros = jnp.zeros(len(beta_logit), jnp.float32)
    start = zeros, logit(zeros), zeros > 0
    over_time = jax.tree.map(jnp.transpose, (beta_logit, below, peak, gap, mask, drawn_logit))
    with jax.named_scope("recursion"):
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
