"""The likelihood of whole documents, with memory that does not depend on their length.

A document is read a few windows at a time by one program, and only the memory goes on.
"""

import functools

import jax
import numpy as np

from dinado_jax.recurrence.likelihood import likelihood
from dinado_jax.recurrence.module import Params, Recurrence
from dinado_jax.recurrence.windows import Documents, Windows

_AT_ONCE = 16  # windows of a call


def document_nats(
    recurrence: Recurrence, variables: dict, params: Params, documents: Documents, batch: int = 8
) -> np.ndarray:
    """Scores documents, similarly long ones side by side.

    Args:
      recurrence: the model and its network.
      variables: of the model.
      params: of the network.
      documents: N, in windows of `recurrence.window` tokens.
      batch: documents at once.

    Returns:
      float64 [N, 2]: the negative log-likelihood of each document (nats), its end included, and the
      tokens that were predicted.
    """
    figures, rows = np.zeros((len(documents), 2)), min(batch, len(documents))
    order = np.argsort(-documents.counts, kind="stable")
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        wide = -(-int(documents.counts[part[0]]) // _AT_ONCE) * _AT_ONCE
        index = np.full((rows, wide), -1)
        for row, document in enumerate(part):
            own = documents.windows_of(document)
            index[row, : len(own)] = own
        memory = recurrence.empty(rows)
        for first in range(0, wide, _AT_ONCE):
            windows = documents.at(index[:, first : first + _AT_ONCE])
            nats, memory = _read(recurrence, variables, params, memory, windows)
            both = np.asarray(nats, np.float64).sum(1), windows.targets.sum(1)
            figures[part] += np.stack(both, 1)[: len(part)]
    return figures


def memory_after(
    recurrence: Recurrence, variables: dict, params: Params, tokens: np.ndarray
) -> jax.Array:
    """The memory float32 [1, M] after W whole windows, int32 [W, T], of which the first begins a
    document.
    """
    memory, wide = recurrence.empty(1), -(-len(tokens) // _AT_ONCE) * _AT_ONCE
    whole = np.pad(tokens, ((0, wide - len(tokens)), (0, 0)))
    length = np.where(np.arange(wide) < len(tokens), tokens.shape[1], 0).astype(np.int32)
    for first in range(0, wide, _AT_ONCE):
        those = slice(first, first + _AT_ONCE)
        windows = Windows(
            tokens=whole[None, those],
            prompt_length=np.ones((1, _AT_ONCE), np.int32),
            length=length[None, those],
            begins=np.zeros((1, _AT_ONCE), bool),
        )
        _, memory = _read(recurrence, variables, params, memory, windows)
    return memory


_read = functools.partial(jax.jit, static_argnums=0)(likelihood)
