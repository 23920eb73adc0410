"""Penalties of values above what they can be. B rows of T tokens."""

import jax
import jax.numpy as jnp

from dinado_jax.data.batch import Array, Batch
from dinado_jax.objectives.residual import huber
from dinado_jax.ops.masks import target_mask
from dinado_jax.ops.vocab import VocabScalars

_SLACK = 1.0  # nats, after the first token: log (q / p) of earlier tokens is noisy
_LEAST = 1e-4  # of the base's probability of possible tokens


def value_excess(scalars: VocabScalars, log_rate: jax.Array, batch: Batch) -> jax.Array:
    """Computes the excess of values over 1, summed over the prefixes of each row: [B] nats.

    After prefix s_t and next token v, q has the value (the recursion of R, as in recursion.py)

        log R(s_t v) = log R0 + sum_{i < t} log (q / p)(y_i | s_i) + log (q / p)(v | s_t)

    At q* that is log R*(s_t v), the base's success rate after v, or its mean label: at most 0,
    whatever v. Huber's loss penalises the highest such value of each prefix where it is above 0,
    after the first token above a nat. It is 0 at q* if R0 is right: too high an estimate of R0
    holds back first tokens. q is not projected, whatever the form. Alone among the losses of rows
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
    highest = log_rate[:, None] + before + scalars.peak
    return (mask * huber(jnp.maximum(highest - slack, 0.0))).sum(-1)


def lost_excess(
    scalars: VocabScalars, impossible: jax.Array, log_rate: Array, batch: Batch
) -> jax.Array:
    """Computes by how much the value of a prefix exceeds what can still succeed after it: [B] nats.

    Where R is known to be 0 after token v, as after an end with something missing,

        V(s) = sum_u p(u | s) R(s u) <= 1 - p(v | s)

    Samples of the base that end with such a token show prefixes that were lost before it: after a
    full stop the base would end. q never draws the token, and would learn nothing from them.
    Huber's loss penalises log R0 + log (q / p)(s) above the log of that bound, at the first such
    token of each row; it is 0 at q*. Its gradient reaches all of the prefix, unlike that of
    `value_excess`: the mistake may lie far before its end.

    Args:
      scalars: of every next token, [B, T-1].
      impossible: bool [B, T-1], the tokens after which R is known to be 0.
      log_rate: float32 [B], log R0 of each row's prompt, nats.
      batch: B rows.
    """
    mask = target_mask(batch)
    log_ratio = mask * scalars.log_ratio
    lost = (mask > 0) & impossible
    first = lost & (jnp.cumsum(lost, axis=1) == 1)
    value = log_rate[:, None] + jnp.cumsum(log_ratio, axis=1) - log_ratio
    limit = jnp.log(jnp.maximum(-jnp.expm1(jnp.minimum(scalars.log_base, 0.0)), _LEAST))
    return jnp.where(first, huber(jnp.maximum(value - limit, 0.0)), 0.0).sum(-1)
