"""Supervised fine-tuning: the likelihood of targets given prompts."""

from typing import Any

from dinado_jax.adapters.protocol import Adapter
from dinado_jax.data.batch import Batch
from dinado_jax.models.protocol import Model
from dinado_jax.objectives.terms import Term
from dinado_jax.ops.masks import target_mask
from dinado_jax.ops.vocab import token_log_probs


def likelihood(
    model: Model, adapter: Adapter | None, trainable: Any, frozen: dict | None, batch: Batch
) -> dict[str, Term]:
    """Computes the summed negative log-likelihood (nats) of the target tokens of a batch, and their
    number.

    Args:
      model: to fine-tune.
      adapter: what is trained of it; None for all parameters.
      trainable: the adapter's parameters, or the model's.
      frozen: the model's parameters beside an adapter; otherwise not read.
      batch: prompts and targets.
    """
    if adapter is None:
        variables = {"params": trainable}
    else:
        assert frozen is not None
        variables = adapter.variables(frozen, trainable)
    out = model.apply(variables, batch.tokens)
    mask_BT = target_mask(batch)
    log_probs_BT = token_log_probs(
        out.hidden[:, :-1],
        out.vocabulary,
        batch.tokens[:, 1:],
        excluded_ids=model.excluded_ids,
    )
    return {"nll": Term(-(mask_BT * log_probs_BT).sum(), mask_BT.sum())}
