"""DiNADO-Soft: a trunk of its own and a zero-initialised vocabulary head; r = its logits.

The trunk is a small new GPT-2, or the base with a delta: low-rank, or free in every parameter,
which is a full copy.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.adapters import lora
from dinado_jax.config.schema import Delta
from dinado_jax.models.gpt2 import GPT2, cast_matrices


@dataclasses.dataclass(frozen=True)
class Soft:
    """A direction; its parameters are {"trunk": parameters or delta, "vocabulary": [V, D]}."""

    trunk: GPT2
    delta: Delta | None  # None: the trunk is new, with parameters of its own
    link = "plain"
    own_states = True

    def init(self, key: jax.Array, base_params: dict) -> dict:
        sizes = self.trunk.config
        if self.delta is None:
            trunk = self.trunk.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
        else:
            trunk = lora.init(
                key, base_params, self.delta.rank, self.delta.low_rank, self.delta.full
            )
        return {
            "trunk": trunk,
            "vocabulary": jnp.zeros((sizes.vocab_size, sizes.n_embd), jnp.float32),
        }

    def decode_params(self, params):
        # A delta is added to the base first.
        return params if self.delta else cast_matrices(params, self.trunk.config)

    def forward(self, base_params, params, base, tokens, cache=None):
        variables = {"params": params["trunk"]}
        if self.delta is not None:
            delta = lora.variables(params["trunk"], self.delta.scale)
            variables = {"params": base_params, "delta": delta}
        out = self.trunk.apply(variables, tokens, cache)
        return out.replace(vocabulary=params["vocabulary"].astype(out.hidden.dtype))
