"""The two parts of a control: a direction over next tokens and a norm of prefixes."""

from typing import Protocol

import jax

from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output


class Direction(Protocol):
    """What says, up to a constant per prefix, which next tokens raise R. Static and pure."""

    link: str  # how its logits become r: see ops.vocab.direction
    own_states: bool  # the norm reads this direction's states, not the base's

    def init(self, key: jax.Array, base_params: dict) -> dict:
        """Parameters with which r is the same for every token."""
        ...

    def decode_params(self, params: dict) -> dict:
        """The parameters as a decoding loop is to have them: the same function, fewer bytes."""
        ...

    def forward(
        self,
        base_params: dict,
        params: dict,
        base: Output,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        """Factored logits [B, T] for the tokens [B, T] whose `base` output is given."""
        ...


class Norm(Protocol):
    def init(self, key: jax.Array, base_params: dict, success_rate: float) -> dict: ...

    def logit(self, params: dict, states: jax.Array) -> jax.Array:
        """Log-odds of beta: [..., D] -> [...] float32 nats."""
        ...
