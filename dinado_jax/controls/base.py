"""What a control is: the small protocol its parameterisations share.

A control is a frozen dataclass of pure functions over its own parameter pytree. Training asks for
`log_policy` and `evidence`, scalars a position; decoding for `policy` with `composed` as its
variables. A new parameterisation implements these five and joins `make_control`.
"""

from typing import Any, NamedTuple, Protocol

import jax

from dinado_jax.decoding.policy import Policy
from dinado_jax.ops.vocab import Scalars


class Evidence(NamedTuple):
    """What objectives need at each position t, which draws token t + 1: all [B, T-1] float32."""

    scalars: Scalars
    log_beta: jax.Array


class Control(Protocol):
    """Parameters are a pytree {"delta": .. (the direction), "norm": ..}."""

    def init(self, key: jax.Array, base_params: dict, success_rate: float) -> dict:
        """Parameters that leave the base as it is, with R = success_rate everywhere."""
        ...

    def log_policy(self, base_params: dict, params: dict, tokens: jax.Array) -> jax.Array:
        """log q of each next token: [B, T] int32 -> [B, T-1] float32 nats."""
        ...

    def evidence(self, base_params: dict, params: dict, tokens: jax.Array) -> Evidence:
        """Scalars and norm at every position; gradients reach the parameters, never the base."""
        ...

    @property
    def policy(self) -> Policy:
        """The composed distribution q, for decoding loops."""
        ...

    def composed(self, base_params: dict, params: dict) -> Any:
        """The variables of `policy`."""
        ...
