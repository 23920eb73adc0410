"""DiNADO-Merge: the direction is a delta of the base itself, so q = pi decodes in one pass.

r = log pi - log p, pi = base + delta
"""

import dataclasses

import jax

from dinado_jax.adapters import lora
from dinado_jax.config.schema import Delta
from dinado_jax.models.gpt2 import GPT2


@dataclasses.dataclass(frozen=True)
class Merge:
    """A direction; its parameters are the delta."""

    model: GPT2
    delta: Delta
    link = "policy"
    own_states = False

    def init(self, key: jax.Array, base_params: dict) -> dict:
        return lora.init(key, base_params, self.delta.rank, self.delta.low_rank, self.delta.full)

    def decode_params(self, params):
        return params  # which is added to the base first

    def forward(self, base_params, params, base, tokens, cache=None):
        return self.model.apply(self._adapted(base_params, params), tokens, cache)

    def trunk(self, base_params: dict, params: dict) -> dict:
        """pi as the variables of one trunk: the delta merged in float32; applied on the fly in
        lower precision, which would round a small delta away."""
        if {self.model.config.dtype, self.model.config.param_dtype} != {"float32"}:
            return self._adapted(base_params, params)
        return {"params": lora.merge(base_params, params, self.delta.scale)}

    def _adapted(self, base_params, params):
        return {"params": base_params, "delta": lora.variables(params, self.delta.scale)}
