"""The two parts of a control: a direction over next tokens and a norm of prefixes.

B rows, T tokens, R rows of a decoding step, D width of the states.
"""

from typing import Any, Protocol

import jax

from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output
from dinado_jax.models.protocol import BaseModel


class Direction(Protocol):
    """An unnormalised log-ratio r over next tokens: log R up to a constant per prefix.

    Static and pure.
    """

    @property
    def link(self) -> str:
        """How its logits become r: policy, plain or sigmoid, see `ops.vocab.direction`."""
        ...

    @property
    def norm_reads_own_states(self) -> bool:
        """Whether the norm reads this direction's states instead of the base's."""
        ...

    @property
    def from_layer(self) -> int:
        """Below this layer its trunk is the base's, and what the base has computed there is used
        again; 0 where nothing is shared.
        """
        ...

    def init(self, key: jax.Array, base_params: Any) -> Any:
        """Initialises parameters with which r is the same for every token."""
        ...

    def decode_params(self, params: Any) -> Any:
        """Prepares the parameters for decoding: the same function from fewer bytes."""
        ...

    def forward(
        self,
        base_params: Any,
        params: Any,
        base: Output | None,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        """Factored logits for every position.

        Args:
          base: the base's output on the tokens; None only for link "policy", which may ignore it.
          tokens: int32 [B, T]; with a cache [R, 1], one more token of every row.
          cache: this direction's, of the preceding tokens.

        Returns:
          [B, T], or [R, 1].
        """
        ...


class PolicyDirection(Direction, Protocol):
    """A direction of link "policy": its logits are those of q itself."""

    @property
    def model(self) -> BaseModel:
        """The model of q: the base's, or that behind a prefix."""
        ...

    def policy_variables(self, base_params: Any, params: Any) -> Any:
        """The variables with which it is q."""
        ...


class Norm(Protocol):
    """A value beta in (0, 1) per prefix, from last hidden states. Static and pure."""

    @property
    def has_layers(self) -> bool:
        """Whether it reads earlier states too, by layers of its own."""
        ...

    def init(self, key: jax.Array, base_params: Any, success_rate: float) -> Any:
        """Initialises parameters with beta = success_rate everywhere."""
        ...

    def decode_params(self, params: Any) -> Any:
        """Prepares the parameters for decoding: the same function from fewer bytes."""
        ...

    def features(
        self, params: Any, states: jax.Array, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache | None]:
        """Computes what `logit` reads.

        Args:
          states: [B, T, D]; with a cache [R, 1, D], of one more token of every row.
          cache: the norm's own, of the preceding tokens.

        Returns:
          [B, T, D] or [R, 1, D], and the cache; None where no earlier state is read.
        """
        ...

    def logit(self, params: Any, features: jax.Array) -> jax.Array:
        """Log-odds of beta (nats): [..., D] -> [...] float32."""
        ...
