"""The log-odds of an attribute after every prefix of a text, on the device.

As FUDGE (Yang and Klein, NAACL 2021, arXiv 2104.05218) does, one causal classifier judges whole
texts and their beginnings. Its log-odds are those of a bag of tokens (bag.py), corrected by a head
on the states of a language model: the last one, and the mean of those of the text so far.

Shapes: B rows, T tokens, D width of the trunk.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dinado_jax.classifiers.bag import bag_log_odds_after
from dinado_jax.models.protocol import BaseModel

_HIDDEN = 64


class Head(nn.Module):
    """The last states and their means, [..., D] each -> log-odds [...], float32."""

    @nn.compact
    def __call__(self, last: jax.Array, mean: jax.Array) -> jax.Array:
        plain = partial(nn.LayerNorm, use_bias=False, use_scale=False)
        x = jnp.concatenate([plain(name="last")(last), plain(name="mean")(mean)], -1)
        x = nn.gelu(nn.Dense(_HIDDEN, name="c_fc")(x))
        return nn.Dense(1, name="c_proj", kernel_init=nn.initializers.zeros)(x)[..., 0]


def init_head(width: int, seed: int) -> dict:
    """Random parameters of a head on states of width D."""
    states = jnp.zeros((1, width), jnp.float32)
    return dict(jax.jit(Head().init)(jax.random.key(seed), states, states)["params"])


def running_mean(states: jax.Array, prompt_length: jax.Array) -> jax.Array:
    """The means of the states from a prompt's last token on.

    Args:
      states: float [B, T, D].
      prompt_length: int32 [B], at least 1.

    Returns:
      float32 [B, T, D]; 0 before that token.
    """
    inside = jnp.arange(states.shape[1])[None] >= prompt_length[:, None] - 1
    inside = inside[..., None].astype(jnp.float32)
    count = jnp.maximum(jnp.cumsum(inside, 1), 1)
    return jnp.cumsum(states.astype(jnp.float32) * inside, 1) / count


@partial(jax.jit, static_argnums=0)
def states_of(
    model: BaseModel, trunk: dict, tokens: jax.Array, prompt_length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What a head reads after every token: the states and their means, float32 [B, T, D] each.

    Args:
      model: the trunk.
      trunk: its parameters.
      tokens: int32 [B, T], right-padded.
      prompt_length: int32 [B].
    """
    states = model.apply({"params": trunk}, tokens).hidden.astype(jnp.float32)
    return states, running_mean(states, prompt_length)


def correction_after(
    model: BaseModel, params: dict[str, Any], tokens: jax.Array, prompt_length: jax.Array
) -> jax.Array:
    """What the head adds to the log-odds of the bag after every token, float32 [B, T]; without
    meaning before a prompt's last one. Arguments as of `states_of`; `params` has "trunk" and
    "head".
    """
    read = states_of(model, params["trunk"], tokens, prompt_length)
    return jnp.asarray(Head().apply({"params": params["head"]}, *read))


def log_odds_after(
    model: BaseModel, params: dict[str, Any], tokens: jax.Array, prompt_length: jax.Array
) -> jax.Array:
    """The log-odds of the attribute after every token, float32 [B, T]. As `correction_after`, with
    a "bag" in `params` too.
    """
    correction = correction_after(model, params, tokens, prompt_length)
    return correction + bag_log_odds_after(params["bag"], tokens, prompt_length)
