"""DiNADO-Soft: r is the logits of a separate trunk with a zero-initialised vocabulary matrix.

The trunk is a small new model, or the base with an adapter (DiNADO, arXiv 2306.11825).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dinado_jax.adapters.protocol import Adapter
from dinado_jax.controls.upper_layers import apply_adapted, init_adapter
from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output
from dinado_jax.models.protocol import BaseModel


@dataclasses.dataclass(frozen=True)
class Soft:
    """A `Direction` with parameters {"trunk": the trunk's or the adapter's, "vocabulary": float32
    [V, D]}.
    """

    trunk: BaseModel
    adapter: Adapter | None  # None: the trunk is a new model
    from_layer: int = 0
    link = "plain"
    norm_reads_own_states = True

    def init(self, key: jax.Array, base_params: Any) -> dict:
        if self.adapter is None:
            trunk = self.trunk.init(key)
        else:
            trunk = init_adapter(self.trunk, self.adapter, self.from_layer, key, base_params)
        shape = (self.trunk.vocab_size, self.trunk.width)
        return {"trunk": trunk, "vocabulary": jnp.zeros(shape, jnp.float32)}

    def decode_params(self, params: Any) -> dict:
        if self.adapter is not None:
            return (
                params  # rounding the adapter's before they are added to the base's would lose them
            )
        return {
            "trunk": self.trunk.decode_params(params["trunk"]),
            "vocabulary": params["vocabulary"].astype(self.trunk.dtype),
        }

    def forward(
        self,
        base_params: Any,
        params: Any,
        base: Output | None,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        variables: dict[str, Any] = {"params": params["trunk"]}
        if self.adapter is not None:
            variables = self.adapter.variables(base_params, params["trunk"])
        out = apply_adapted(self.trunk, self.from_layer, variables, base, tokens, cache)
        vocabulary = params["vocabulary"].astype(out.hidden.dtype)
        return dataclasses.replace(out, vocabulary=vocabulary)
