"""NADO: a few blocks on the base's last states and a sigmoid for every token, R(v) = sigmoid(z_v).

Meng et al., arXiv 2205.14219. The head's vocabulary starts at zero, so R = 1/2 and q = p.
"""

import dataclasses
from typing import Any

import jax

from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output
from dinado_jax.models.protocol import Head


@dataclasses.dataclass(frozen=True)
class Nado:
    """A `Direction` whose parameters are the head's."""

    head: Head
    link = "sigmoid"
    norm_reads_own_states = True
    from_layer = 0

    def init(self, key: jax.Array, base_params: Any) -> dict:
        return self.head.init(key)

    def decode_params(self, params: Any) -> dict:
        return self.head.decode_params(params)

    def forward(
        self,
        base_params: Any,
        params: Any,
        base: Output | None,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        assert base is not None  # only link "policy" is called without one
        return self.head.apply({"params": params}, base.hidden, cache)
