"""NADO: a few blocks on the base's last states and a sigmoid for every token, R(v) = sigmoid(z_v).

Meng et al., arXiv 2205.14219. The head's vocabulary starts at zero, so R = 1/2 and q = p.
"""

import dataclasses

import jax

from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output
from dinado_jax.models.protocol import Head


@dataclasses.dataclass(frozen=True)
class Nado:
    """A `Direction` whose parameters are the head's."""

    head: Head
    link = "sigmoid"
    own_states = True

    def init(self, key: jax.Array, base_params: dict) -> dict:
        return self.head.init(key)

    def decode_params(self, params: dict) -> dict:
        return self.head.decode_params(params)

    def forward(
        self,
        base_params: dict,
        params: dict,
        base: Output,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        return self.head.apply({"params": params}, base.hidden, cache)
