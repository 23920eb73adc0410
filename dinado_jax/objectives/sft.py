"""Supervised fine-tuning: the likelihood of targets given prompts."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import struct

from dinado_jax.adapters.protocol import Adapter
from dinado_jax.data.batch import Array, Batch
from dinado_jax.models.dropout import Dropout
from dinado_jax.models.protocol import Model
from dinado_jax.objectives.terms import Term
from dinado_jax.ops.masks import target_mask
from dinado_jax.ops.vocab import token_log_probs


@struct.dataclass(kw_only=True)
class NoisyBatch(Batch):
    """Rows for a likelihood under dropout."""

    noise: Array  # uint32 [B, 2], the seed of each row's noise in this step


def with_noise(batch_at: Callable[[int], Batch], seed: int) -> Callable[[int], NoisyBatch]:
    """The batches of `batch_at` with seeds of noise that depend on the run's seed, the step and the
    place in the batch alone: neither on how devices and micro-batches divide it, nor on where a run
    was resumed.
    """

    def at(step: int) -> NoisyBatch:
        batch = batch_at(step)
        rng = np.random.default_rng((seed, step, 11))  # `Epochs` draws from (seed, epoch)
        noise = rng.integers(2**32, size=(len(batch.length), 2), dtype=np.uint32)
        return NoisyBatch(**vars(batch), noise=noise)

    return at


def likelihood(
    model: Model,
    adapter: Adapter | None,
    trainable: Any,
    frozen: dict | None,
    batch: Batch,
    dropout: Dropout | None = None,
) -> dict[str, Term]:
    """Computes the summed negative log-likelihood (nats) of the target tokens of a batch, and their
    number.

    Args:
      model: to fine-tune.
      adapter: what is trained of it; None for all parameters.
      trainable: the adapter's parameters, or the model's.
      frozen: the model's parameters beside an adapter; otherwise not read.
      batch: prompts and targets; a `NoisyBatch` under dropout.
      dropout: of the model's sites; None for none.
    """
    if adapter is None:
        variables = {"params": trainable}
    else:
        assert frozen is not None
        variables = adapter.variables(frozen, trainable)
    if dropout is not None:
        assert isinstance(batch, NoisyBatch)
        variables = {**variables, "dropout": dropout.noise(batch.noise)}
    out = model.apply(variables, batch.tokens)
    mask_BT = target_mask(batch)
    log_probs_BT = token_log_probs(
        out.hidden[:, :-1],
        out.vocabulary,
        batch.tokens[:, 1:],
        excluded_ids=model.excluded_ids,
    )
    return {"nll": Term(-(mask_BT * log_probs_BT).sum(), mask_BT.sum())}
