"""Tables in the place of networks: one free number for every prefix and token.

A table reads a prefix as a one-hot state, so its logits are factored like any model's, and
everything built on a model (controls, recursion, objectives) runs unchanged.

P prefixes, V vocabulary, T tokens per row.
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
    """r as a table [V, P]; with link "policy" it is added to the base's logits. Never decoded."""

    model: Table
    link: str
    own_states = False

    def init(self, key: jax.Array, base_params: Any) -> jax.Array:
        return jnp.zeros_like(base_params["table"])

    def decode_params(self, params: Any) -> Any:
        return params

    def forward(
        self,
        base_params: Any,
        params: Any,
        base: Output | None,
        tokens: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        base = self.model.apply({"params": base_params}, tokens)
        vocabulary = params + base.vocabulary if self.link == "policy" else params
        return dataclasses.replace(base, vocabulary=vocabulary)


@dataclasses.dataclass(frozen=True)
class TableNorm:
    """The log-odds of beta as a table [P]."""

    def init(self, key: jax.Array, base_params: Any, success_rate: float) -> jax.Array:
        table = base_params["table"]
        return jnp.full(
            table.shape[1], jnp.log(success_rate) - jnp.log1p(-success_rate), jnp.float32
        )

    def logit(self, params: Any, states: jax.Array) -> jax.Array:
        return states @ params


def table_control(world: World, kind: str, form: str) -> Control:
    """The tabular form of a kind: nado | soft | merge | hard, which has merge's direction."""
    model = Table(world.vocabulary, world.length + 1, world.prefixes)
    links = {"nado": "sigmoid", "soft": "plain", "merge": "policy", "hard": "policy"}
    direction = TableDirection(model, links[kind])
    return Control(model, direction, TableNorm(), form)
