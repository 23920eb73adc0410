"""The norm of a control: beta, a value in (0, 1) for every prefix.

It reads last hidden states, the base's or the direction's own (DiNADO, arXiv 2306.11825). Its
output bias starts at the log-odds of the oracle's success rate; the public release starts at 0.

Shapes: B rows, T tokens, D width of the states.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.distributed.constraints import all_gather_param
from dinado_jax.models.cache import Cache
from dinado_jax.models.protocol import Head


@dataclasses.dataclass(frozen=True)
class MLP:
    """A `Norm` of one hidden layer on each state: width 4 D, ReLU, zero-initialised output as in
    the public release.
    """

    width: int  # D
    has_layers = False

    def init(self, key: jax.Array, base_params: dict, success_rate: float) -> dict:
        """Float32 parameters with beta = success_rate, in (0, 1), everywhere."""
        bound = self.width**-0.5
        shape = (self.width, 4 * self.width)
        return {
            "hidden": jax.random.uniform(key, shape, jnp.float32, -bound, bound),
            "hidden_bias": jnp.zeros((4 * self.width,), jnp.float32),
            "out": jnp.zeros((4 * self.width,), jnp.float32),
            "out_bias": _log_odds(success_rate),
        }

    def decode_params(self, params: dict) -> dict:
        return params

    def features(
        self, params: dict, states: jax.Array, cache: Cache | None = None
    ) -> tuple[jax.Array, None]:
        return states, None

    def logit(self, params: dict, features: jax.Array) -> jax.Array:
        features, params = features.astype(jnp.float32), jax.tree.map(all_gather_param, params)
        bias = jnp.expand_dims(params["hidden_bias"], tuple(range(features.ndim - 1)))
        inner = jax.nn.relu(features @ params["hidden"] + bias)
        return inner @ params["out"] + params["out_bias"]


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A `Norm` of a few layers of its own that attend to all states of the prefix, and to their
    positions.

    What a prefix still lacks is often not in its last state, which only has to predict the next
    token. A control that decodes in a single pass does not run it then.
    """

    head: Head  # of one output
    has_layers = True

    def init(self, key: jax.Array, base_params: dict, success_rate: float) -> dict:
        """Float32 parameters with beta = success_rate, in (0, 1), everywhere."""
        return {"layers": self.head.init(key), "out_bias": _log_odds(success_rate)}

    def decode_params(self, params: dict) -> dict:
        return {**params, "layers": self.head.decode_params(params["layers"])}

    def features(
        self, params: dict, states: jax.Array, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache | None]:
        out = self.head.apply({"params": params["layers"]}, states, cache)
        return out.hidden, out.cache

    def logit(self, params: dict, features: jax.Array) -> jax.Array:
        (out,) = all_gather_param(params["layers"]["vocabulary"]).astype(jnp.float32)
        return features.astype(jnp.float32) @ out + params["out_bias"]


def _log_odds(rate: float) -> jax.Array:
    return jnp.log(jnp.float32(rate)) - jnp.log1p(-jnp.float32(rate))
