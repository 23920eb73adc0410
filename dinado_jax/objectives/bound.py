"""The penalty of values above 1, over all of the vocabulary. B rows of T tokens."""

import jax
import jax.numpy as jnp

from dinado_jax.data.batch import Batch
from dinado_jax.objectives.residual import huber
from dinado_jax.ops.masks import target_mask
from dinado_jax.ops.vocab import VocabScalars

_SLACK = 1.0  # nats, after the first token: log (q / p) of earlier tokens is noisy


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
