"""Penalties of values above what they can be. B rows of T tokens."""

import jax
import jax.numpy as jnp

from dinado_jax.data.batch import Array, Batch
from dinado_jax.objectives.residual import huber
from dinado_jax.ops.masks import target_mask
from dinado_jax.ops.vocab import VocabScalars

_SLACK = 1.0  # nats, after the first token: log (q / p) of earlier tokens is noisy
_LEAST = 1e-6  # of the base's probability of possible tokens: 1 - p is no more exact


def value_excess(scalars: VocabScalars, log_rate: jax.Array, batch: Batch) -> jax.Array:
    """Computes the excess of values over 1, summed over the prefixes of each row: [B] nats.

    After prefix s_t and next token v, q has the value (the recursion of R, as in recursion.py)

        log R(s_t v) = log R0 + sum_{i < t} log (q / p)(y_i | s_i) + log (q / p)(v | s_t)

    At q* that is log R*(s_t v), the base's success rate after v, or its mean label: at most 0,
    whatever v. Huber's loss penalises the highest such value of each prefix where it is above 0,
    after the first token above a nat. Where some tokens are known to be impossible, the value of
    the prefix itself is taken to be at most what `prefix_excess` allows: it is for that to lower
    what is above. It is 0 at q* if R0 is right: too high an estimate of R0 holds back first tokens.
    q is not projected, whatever the form. Alone among the losses of rows
    it limits tokens that nobody has drawn. Earlier tokens are constants of the gradient: each is
    penalised at its own prefix.

    Args:
      scalars: of every next token, [B, T-1].
      log_rate: float32 [B], log R0 of each row's prompt, nats.
      batch: B rows.
    """
    mask = target_mask(batch)
    log_ratio = mask * scalars.log_ratio
    before = jax.lax.stop_gradient(jnp.cumsum(log_ratio, axis=1) - log_ratio)
    column = jax.lax.broadcasted_iota(jnp.int32, mask.shape, 1)
    slack = _SLACK * (column >= batch.prompt_length[:, None])
    limit = jnp.where(scalars.excluded > 0, _log_possible(scalars), jnp.inf)
    highest = jnp.minimum(log_rate[:, None] + before, limit) + scalars.peak
    return (mask * huber(jnp.maximum(highest - slack, 0.0))).sum(-1)


def prefix_excess(scalars: VocabScalars, log_rate: Array, batch: Batch) -> jax.Array:
    """Computes by how much values of prefixes exceed what can still succeed after them: [B] nats.

    With the state of the oracle R is known to be 0 after some tokens u, as after an end with
    something missing, whatever the row went on with:

        V(s) = sum_v p(v | s) R(s v) <= 1 - sum_u p(u | s)

    Huber's loss penalises log R0 + log (q / p)(s) above the log of that bound and a nat of slack,
    at every prefix; it is 0 at q*, and without state. It pulls at the last token of the prefix
    alone: the others were drawn in proportion to q, and lowering all of them alike is nothing but
    noise.

    Args:
      scalars: of every next token, [B, T-1].
      log_rate: float32 [B], log R0 of each row's prompt, nats.
      batch: B rows.
    """
    mask = target_mask(batch)
    log_ratio = mask * scalars.log_ratio
    last = jnp.pad(log_ratio, ((0, 0), (1, 0)))[:, :-1]
    over = jax.lax.stop_gradient(_over(scalars, log_rate, log_ratio) - last) + last
    known = mask * (scalars.excluded > 0)
    return (known * huber(jnp.maximum(over - _SLACK, 0.0))).sum(-1)


def lost_excess(scalars: VocabScalars, log_rate: Array, batch: Batch) -> jax.Array:
    """Computes the excess of `prefix_excess`, without slack, at the first prefix of each row after
    which the base would rather fail than go on: [B] nats.

    It pulls at all tokens of the prefix: the mistake may lie far before its end.
    """
    mask = target_mask(batch)
    over = _over(scalars, log_rate, mask * scalars.log_ratio)
    lost = (mask > 0) & (scalars.excluded > 0.5)
    first = lost & (jnp.cumsum(lost, axis=1) == 1)
    return jnp.where(first, huber(jnp.maximum(over, 0.0)), 0.0).sum(-1)


def _over(scalars: VocabScalars, log_rate: Array, log_ratio: jax.Array) -> jax.Array:
    """The values of prefixes above what is possible: [B, T-1] nats."""
    before = jnp.cumsum(log_ratio, axis=1) - log_ratio
    return log_rate[:, None] + before - _log_possible(scalars)


def _log_possible(scalars: VocabScalars) -> jax.Array:
    """Log of the base's probability of the tokens that R does not exclude, nats."""
    return jnp.log(jnp.maximum(1 - scalars.excluded, _LEAST))
