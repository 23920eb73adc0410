"""The two parts of a control: a direction over next tokens and a norm of prefixes."""

from typing import Protocol

import jax

from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output


class Direction(Protocol):
    """Which next tokens raise R, up to a constant per prefix. Static and pure."""

    link: str  # how its logits become r: see ops.vocab.direction
    own_states: bool  # whether the norm reads this direction's states instead of the base's

    def init(self, key: jax.Array, base_params: dict) -> dict:
        """Initialises parameters with which r is the same for every token."""
        ...

    def decode_params(self, params: dict) -> dict:
        """The parameters as a decoding loop reads them: the same function from fewer bytes."""
        ...

    def forward(
        self,
        base_params: dict,
        params: dict,
        base: Output,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        """Computes factored logits.

        Args:
          base_params: the base's.
          params: the direction's.
          base: the base's output on the tokens.
          tokens: int32 [B, T]; with a cache [R, 1], one more token of every row.
          cache: the direction's own, of the tokens before.

        Returns:
          [B, T], or [R, 1].
        """
        ...


class Norm(Protocol):
    """beta of every prefix, from last hidden states. Static and pure."""

    def init(self, key: jax.Array, base_params: dict, success_rate: float) -> dict:
        """Initialises parameters with beta = success_rate, in (0, 1), everywhere."""
        ...

    def logit(self, params: dict, states: jax.Array) -> jax.Array:
        """Log-odds of beta: [..., D] -> [...] float32 nats."""
        ...
