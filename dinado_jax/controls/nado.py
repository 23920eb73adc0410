"""NADO: a few blocks on the base's last states and a sigmoid for every token, R(v) = sigmoid(z_v).

Meng et al., arXiv 2205.14219. The head's vocabulary starts at zero, so R = 1/2 and q = p.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.models.gpt2 import Head, cast_matrices


@dataclasses.dataclass(frozen=True)
class Nado:
    """A direction; its parameters are the head's."""

    head: Head
    link = "sigmoid"
    own_states = True

    def init(self, key: jax.Array, base_params: dict) -> dict:
        width = base_params["wte"]["embedding"].shape[1]
        return self.head.init(key, jnp.zeros((1, 1, width), jnp.float32))["params"]

    def decode_params(self, params):
        return cast_matrices(params, self.head.config)

    def forward(self, base_params, params, base, tokens, cache=None):
        return self.head.apply({"params": params}, base.hidden, cache)
