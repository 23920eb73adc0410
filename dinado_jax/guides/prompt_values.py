"""V(prompt): the success rate of the base that a guide predicts after each prompt."""

import functools
from typing import Any

import jax
import numpy as np

from dinado_jax.data.batching import bucket
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.guides.protocol import Guide
from dinado_jax.models.protocol import Model


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_values(
    model: Model, guide: Guide, base_params: Any, params: Any, prompts: Prompts
) -> jax.Array:
    base = model.apply({"params": base_params}, prompts.tokens)
    # The state is not used, so its caches are never computed.
    values, _ = guide.prefill(guide.decode_params(params), base_params, base, prompts, 1, 1)
    return values.log_value


def prompt_values(
    model: Model,
    guide: Guide,
    base_params: Any,
    params: Any,
    prompts: TokenizedPrompts,
    fill: int,
    batch: int,
) -> np.ndarray:
    """Computes V of N prompts: float32 [N] in [0, 1].

    Args:
      model: the base.
      guide: that values its prefixes.
      base_params: the base's arrays.
      params: the guide's arrays.
      prompts: that fit the model's context.
      fill: token id to pad with.
      batch: prompts read at once.
    """
    width = bucket(max(map(len, prompts.tokens)), model.context_length)
    values = []
    for start in range(0, len(prompts), batch):
        index = np.arange(start, min(start + batch, len(prompts)))
        filled = np.resize(index, min(batch, len(prompts)))  # one shape, compiled once
        of_batch = prompts.batch(filled, fill, width)
        log_value = _log_values(model, guide, base_params, params, of_batch)
        values.append(np.exp(np.asarray(log_value)[: len(index)]))
    return np.concatenate(values)
