"""Supervised fine-tuning: the likelihood of targets given prompts."""

import jax
import jax.numpy as jnp

from dinado_jax.models.gpt2 import GPT2
from dinado_jax.objectives.terms import Term
from dinado_jax.ops.vocab import token_log_probs

Batch = dict[str, jax.Array]


def target_mask(batch: Batch) -> jax.Array:
    """[B, T-1] float32: 1 where position t predicts a token of the target (its eos included)."""
    T = batch["tokens"].shape[1]
    predicted = jax.lax.broadcasted_iota(jnp.int32, (batch["length"].shape[0], T - 1), 1) + 1
    inside = (predicted >= batch["prompt_length"][:, None]) & (predicted < batch["length"][:, None])
    return inside.astype(jnp.float32)


def likelihood(model: GPT2, params: dict, batch: Batch) -> dict[str, Term]:
    """Negative log-likelihood (nats) of the target tokens, summed, and their number.

    batch: tokens [B, T] int32, prompt_length [B], length [B].
    """
    out = model.apply({"params": params}, batch["tokens"])
    mask_BT = target_mask(batch)
    log_probs_BT = token_log_probs(out.hidden[:, :-1], out.vocabulary, batch["tokens"][:, 1:])
    return {"nll": Term(-(mask_BT * log_probs_BT).sum(), mask_BT.sum())}
