"""A head that predicts the state of an HMM from the hidden states of its base: LTLA's form (arXiv
2511.16054).

The HMM's own filter knows of a text what the HMM makes of its tokens. The base knows its prompt
too, and more of what it is going to write. The head is trained on samples of the base to predict
what the HMM finds out about its state with a whole text before it (its smoothed posterior), from
the hidden state of the base, which has read the beginning alone. What the state means for the
tokens to come remains the HMM's.

N rows, T tokens, D width of the base, H states.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dinado_jax.data.batch import Batch
from dinado_jax.hmm.model import Hmm


class Head(nn.Module):
    """Hidden states [.., D] -> logits of the states [.., H], float32."""

    states: int

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        x = nn.LayerNorm(name="ln")(hidden.astype(jnp.float32))
        x = nn.gelu(nn.Dense(hidden.shape[-1], name="c_fc")(x))
        return nn.Dense(self.states, name="c_proj", kernel_init=nn.initializers.zeros)(x)


def init_head(width: int, states: int, seed: int) -> dict[str, Any]:
    """Random parameters of a head that finds all states equally probable."""
    hidden = jnp.zeros((1, width), jnp.float32)
    return dict(Head(states).init(jax.random.key(seed), hidden)["params"])


def log_state_probs(head: dict[str, Any], hidden: jax.Array) -> jax.Array:
    """The log-probabilities of the state that emits the next token.

    Args:
      head: its parameters.
      hidden: [.., D], of the base after the newest token.

    Returns:
      float32 [.., H] nats.
    """
    states = head["c_proj"]["bias"].shape[0]
    return jax.nn.log_softmax(jnp.asarray(Head(states).apply({"params": head}, hidden)))


class Reading(NamedTuple):
    """Rows as the HMM reads them, from column 0 on."""

    tokens: jax.Array  # int32 [N, T]
    inside: jax.Array  # bool [N, T], the tokens that it reads
    of_text: jax.Array  # bool [N, T], those of them that follow the prompt
    hidden: jax.Array  # [N, T, D], of the base before each token; without meaning for the first one


def reading(hmm: Hmm, batch: Batch, hidden: jax.Array) -> Reading:
    """Lays out what the HMM reads beside what the base knew before it.

    Args:
      hmm: which says whether prompts are read.
      batch: [N, T].
      hidden: [N, T, D], of the base after each token.
    """
    start, T = jnp.asarray(batch.prompt_length)[:, None], batch.tokens.shape[1]
    column = jnp.arange(T)[None] + (jnp.zeros_like(start) if hmm.reads_prompt else start)
    inside = column < jnp.asarray(batch.length)[:, None]
    tokens = jnp.take_along_axis(jnp.asarray(batch.tokens), jnp.minimum(column, T - 1), 1)
    before = jnp.clip(column - 1, 0, T - 1)[..., None]
    of_text = inside & (column >= start)
    return Reading(tokens, inside, of_text, jnp.take_along_axis(hidden, before, 1))
