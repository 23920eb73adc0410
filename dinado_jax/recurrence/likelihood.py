"""The likelihood of W windows, through which memories and gradients pass.

Shapes: B rows, W windows of T tokens, M width of a memory.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from dinado_jax.ops.masks import target_mask
from dinado_jax.ops.vocab import token_log_probs
from dinado_jax.recurrence.module import Params, Recurrence
from dinado_jax.recurrence.windows import Windows


def likelihood(
    recurrence: Recurrence, variables: dict, params: Params, memory: jax.Array, batch: Windows
) -> tuple[jax.Array, jax.Array]:
    """Computes the summed negative log-likelihood of the targets of windows, one after another.

    Gradients are those through all W windows. They keep one memory per window and compute the
    activations again, one window at a time: memory is that of one window, whatever W is.

    Args:
      recurrence: the model and its network.
      variables: of the model.
      params: of the network.
      memory: float32 [B, M], of the windows before.
      batch: W windows of B rows.

    Returns:
      float32 [B, W] nats, 0 for padding; and the memory float32 [B, M] after the last window.
    """

    # Within a scan nothing can be merged with what is computed again.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(memory: jax.Array, window: Windows) -> tuple[jax.Array, jax.Array]:
        memory = jnp.where(window.begins[:, None], 0, memory)
        out = recurrence.model.apply(recurrence.variables(variables, memory), window.tokens)
        log_probs_BT = token_log_probs(
            out.hidden[:, :-1],
            out.vocabulary,
            window.tokens[:, 1:],
            excluded_ids=recurrence.model.excluded_ids,
        )
        nats = -(target_mask(window) * log_probs_BT).sum(-1)
        return recurrence.after(params, out, window.length, memory), nats

    by_window = jax.tree.map(lambda x: x.swapaxes(0, 1), dataclasses.replace(batch, row=None))
    memory, nats_WB = jax.lax.scan(body, memory, by_window)
    return nats_WB.swapaxes(0, 1), memory
