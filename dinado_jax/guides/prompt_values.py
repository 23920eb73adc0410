"""The success rate of the base that a guide predicts: V after prompts, R after each token of rows.

B rows, T tokens.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.data.batch import Batch
from dinado_jax.data.batching import bucket, by_length
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.data.sequences import Sequences
from dinado_jax.guides.protocol import Guide
from dinado_jax.models.cache import allocate, scan_steps
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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_prefix_values(
    model: Model, guide: Guide, base_params: Any, params: Any, batch: Batch
) -> jax.Array:
    """log V of each row's prompt, then log R after each of its targets and of what pads it: [B, T].

    Token by token as in decoding: R may depend on all tokens.
    """
    tokens, start = jnp.asarray(batch.tokens), jnp.asarray(batch.prompt_length)
    rows, T = jnp.arange(tokens.shape[0]), tokens.shape[1]
    params, variables = guide.decode_params(params), {"params": base_params}
    base = model.apply(variables, tokens)
    prompts = Prompts(tokens, start, batch.condition)
    first, state = guide.prefill(params, base_params, base, prompts, 1, T - 1)

    def position(carry, index):
        log_after, cache, state = carry
        token = tokens[rows, jnp.minimum(start + index, T - 1)]
        base = model.apply(variables, token[:, None], cache)
        values, state = guide.step(params, base_params, base, token, state)
        return (values.log_after, base.cache, state), log_after[rows, token]

    carry = first.log_after, allocate(base.cache, start, 1, T - 1), state
    _, log_after = scan_steps(position, carry, T - 1)
    return jnp.concatenate([first.log_value[:, None], log_after.T], 1)


def prefix_values(
    model: Model, guide: Guide, base_params: Any, params: Any, rows: Sequences, batch: int
) -> np.ndarray:
    """Computes V of the prompts of N rows, and R after each of their target tokens.

    Args:
      model: the base.
      guide: that values its prefixes.
      base_params: the base's arrays.
      params: the guide's arrays.
      rows: of at most T tokens, with the condition of their prompts.
      batch: rows read at once.

    Returns:
      float32 [N, T], not negative: column 0 is V of the prompt, column i R after target token i;
      what lies beyond a row's targets has no meaning.
    """
    N, T = rows.tokens.shape
    out = np.zeros((N, T), np.float32)
    for part, filled in by_length(rows, batch, model.context_length):
        log_values = _log_prefix_values(model, guide, base_params, params, filled)
        values = np.exp(np.asarray(log_values))[: len(part), :T]
        out[part, : values.shape[1]] = values
    return out
