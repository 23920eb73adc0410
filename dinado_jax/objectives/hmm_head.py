"""The head of an HMM: cross entropy with the HMM's smoothed posteriors."""

from typing import Any

import jax.numpy as jnp

from dinado_jax.data.batch import Batch
from dinado_jax.hmm.em import posteriors
from dinado_jax.hmm.head import log_state_probs, reading
from dinado_jax.models.protocol import Model
from dinado_jax.objectives.terms import Term


def state_cross_entropy(
    model: Model, trainable: Any, frozen: dict[str, Any], batch: Batch
) -> dict[str, Term]:
    """Computes the cross entropy (nats) of the states that emit the tokens of texts, summed, and
    the number of these tokens.

    Args:
      model: the base.
      trainable: the head's parameters.
      frozen: {"base": the base's parameters, "hmm": `Hmm`}.
      batch: samples of the base.
    """
    hmm = frozen["hmm"]
    hidden = model.apply({"params": frozen["base"]}, batch.tokens).hidden
    read = reading(hmm, batch, hidden)
    known = posteriors(hmm, read.tokens, read.inside)
    losses = -(known * log_state_probs(trainable, read.hidden)).sum(-1)
    loss = jnp.where(read.of_text, losses, 0.0).sum()
    return {"cross_entropy": Term(loss, read.of_text.sum().astype(jnp.float32))}
