"""Tabular models: one free parameter for every prefix and token.

The hidden state of a prefix is a one-hot vector. Logits are then factored as for any model, and
everything built on a model (controls, recursion, objectives) runs unchanged.

P prefixes; V vocabulary; B rows of T tokens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dinado_jax.controls.control import Control
from dinado_jax.exact.world import World, prefix_numbers
from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output


@dataclasses.dataclass(frozen=True)
class Table:
    """A `Model`; its parameters are {"table": [V, P]} log-probabilities. Never decoded."""

    vocab_size: int  # V
    context_length: int  # tokens
    width: int  # P
    excluded_ids = ()

    def apply(
        self, variables: dict[str, Any], tokens: jax.Array, cache: Cache | None = None
    ) -> Output:
        prefixes = prefix_numbers(tokens, self.vocab_size)
        states = jax.nn.one_hot(prefixes, self.width, dtype=jnp.float32)
        return self.output_from_states(variables["params"], states)

    def output_from_states(self, params: dict, states: jax.Array) -> Output:
        return Output(states, params["table"], None)


@dataclasses.dataclass(frozen=True)
class TableDirection:
    """A `Direction`: r as a table [V, P], added to the base's logits with link "policy".

    Never decoded.
    """

    model: Table
    link: str
    norm_reads_own_states = False
    from_layer = 0

    def init(self, key: jax.Array, base_params: dict[str, Any]) -> jax.Array:
        return jnp.zeros_like(base_params["table"])

    def decode_params(self, params: jax.Array) -> jax.Array:
        return params

    def forward(
        self,
        base_params: dict[str, Any],
        params: jax.Array,
        base: Output | None,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        base = self.model.apply({"params": base_params}, tokens)
        vocabulary = params + base.vocabulary if self.link == "policy" else params
        return dataclasses.replace(base, vocabulary=vocabulary)


@dataclasses.dataclass(frozen=True)
class TableNorm:
    """A `Norm`: the log-odds of beta as a table [P]."""

    has_layers = False

    def init(self, key: jax.Array, base_params: dict[str, Any], success_rate: float) -> jax.Array:
        table = base_params["table"]
        return jnp.full(
            table.shape[1], jnp.log(success_rate) - jnp.log1p(-success_rate), jnp.float32
        )

    def decode_params(self, params: jax.Array) -> jax.Array:
        return params

    def features(
        self, params: jax.Array, states: jax.Array, cache: Cache | None = None
    ) -> tuple[jax.Array, None]:
        return states, None

    def logit(self, params: jax.Array, features: jax.Array) -> jax.Array:
        return features @ params


def table_control(world: World, kind: str, form: str) -> Control:
    """Returns the tabular control of a kind: nado | soft | merge | hard, with merge's direction."""
    model = Table(world.vocabulary, world.length + 1, world.prefixes)
    links = {"nado": "sigmoid", "soft": "plain", "merge": "policy", "hard": "policy"}
    direction = TableDirection(model, links[kind])
    return Control(model, direction, TableNorm(), form)
