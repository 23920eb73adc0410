"""Log-probabilities of given sequences."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dinado_jax.data.batch import Batch
from dinado_jax.data.batching import by_length
from dinado_jax.data.sequences import Sequences
from dinado_jax.decoding.policy import Policy
from dinado_jax.distributed.partitioning import replicate, shard_rows
from dinado_jax.ops.masks import target_mask


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score_batch(policy: Policy, mesh: Mesh | None, variables: Any, batch: Batch) -> jax.Array:
    @jax.named_scope("score")
    def scores(variables, batch):
        return jnp.where(target_mask(batch) > 0, policy.log_probs(variables, batch), 0.0)

    return shard_rows(mesh, scores, (variables,), (batch,))


def score(
    policy: Policy,
    variables: Any,
    rows: Sequences,
    batch: int,
    mesh: Mesh | None = None,
    width: int = 0,
) -> np.ndarray:
    """Scores every target token.

    Args:
      policy: in one parallel pass where its distribution allows one.
      variables: the policy's arrays.
      rows: N rows, with the condition of their prompts.
      batch: rows scored at once.
      mesh: devices that share them.
      width: columns that every batch has at least, so that one program scores rows of any length
        up to it.

    Returns:
      float32 [N, T-1] nats: column t scores token t + 1; prompt and padding score 0. Summed over a
      row it is the log-probability of the target given the prompt, eos included.
    """
    chex.assert_rank([rows.tokens, rows.prompt_length, rows.length], [2, 1, 1])
    T = rows.tokens.shape[1]
    out = np.zeros((len(rows), T - 1), np.float32)
    variables = replicate(mesh, variables)
    devices = mesh.size if mesh else 1
    batch = max(1, batch // devices) * devices
    for part, filled in by_length(rows, batch, policy.context_length, width):
        scores = np.asarray(_score_batch(policy, mesh, variables, filled))
        scores = scores[: len(part), : T - 1]
        out[part, : scores.shape[1]] = scores
    return out
