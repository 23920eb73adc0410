"""DiNADO-Merge: the direction is an adapter of the base itself, so q = pi decodes in one pass.

r = log pi - log p, pi = the base with the adapter (DiNADO, arXiv 2306.11825).
"""

import dataclasses
from typing import Any

import jax

from dinado_jax.adapters.protocol import Adapter
from dinado_jax.controls.upper_layers import apply_adapted, init_adapter
from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output
from dinado_jax.models.protocol import BaseModel


@dataclasses.dataclass(frozen=True)
class Merge:
    """A `Direction` whose parameters are the adapter's."""

    model: BaseModel  # pi's: the base's, or that behind the adapter's prefix
    adapter: Adapter
    from_layer: int = 0
    link = "policy"
    norm_reads_own_states = False

    def init(self, key: jax.Array, base_params: Any) -> Any:
        return init_adapter(self.model, self.adapter, self.from_layer, key, base_params)

    def decode_params(self, params: Any) -> Any:
        return params  # rounded before they are added to the base's, they would be lost

    def forward(
        self,
        base_params: Any,
        params: Any,
        base: Output | None,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        variables = self.adapter.variables(base_params, params)
        return apply_adapted(self.model, self.from_layer, variables, base, tokens, cache)

    def policy_variables(self, base_params: Any, params: Any) -> dict[str, Any]:
        """pi as variables of its model, for decoding: merged where that is exact.

        In lower precision than float32 merging would round a small change away, so it is applied on
        the fly.
        """
        exact = {self.model.dtype, self.model.param_dtype} == {"float32"}
        merged = self.adapter.merge(base_params, params) if exact else None
        return self.adapter.variables(base_params, params) if merged is None else {"params": merged}
