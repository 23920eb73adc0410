"""Prefix tuning and prompt tuning: learned positions ahead of every row.

A prefix of P positions holds keys and values for each of L layers (Li and Liang, arXiv 2101.00190),
a prompt P input embeddings (Lester et al., arXiv 2104.08691), of which the base makes the keys and
values. Both begin as P tokens drawn from the vocabulary, with what the base makes of them, and what
is learned is a change of that, zero at first. So q begins near p, but unlike with a LoRA not at it.

In PEFT a row's own tokens stand behind the P positions, which shortens the context, and which a
small base of absolute positions does not stand: it has learned what stands where. Without such a
shift they stay where they were, and the prefix is attended to beside them.

F is the width of a layer's keys and of its values, D the width of the model.
"""

import abc
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.distributed.constraints import all_gather_param
from dinado_jax.errors import InputError
from dinado_jax.models.params import by_path, nested
from dinado_jax.models.protocol import PrefixModel

PrefixParams = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class _Ahead(abc.ABC):
    """What prefixes and prompts share."""

    model: PrefixModel  # the base's
    positions: int  # P, >= 1
    shift: bool  # whether a row's tokens stand behind them

    @property
    def adapted(self) -> PrefixModel:
        """The model that `variables` and `merge` are for. InputError as `behind`."""
        return behind(self.model, self.positions, self.shift)

    def variables(self, base_params: dict, params: PrefixParams) -> dict:
        prefix = self.keys_and_values(base_params, params)
        return {"params": with_prefix(self.model, base_params, prefix)}

    def merge(self, base_params: dict, params: PrefixParams) -> dict:
        own = jax.eval_shape(lambda: self.init(jax.random.key(0), base_params))
        if (found := jax.tree.map(jnp.shape, params)) != (fit := jax.tree.map(jnp.shape, own)):
            raise InputError(f"a prefix of shapes {found}, {fit} of the base: it fits another base")
        prefix = self.keys_and_values(base_params, params).astype(self.model.param_dtype)
        return with_prefix(self.model, base_params, prefix)

    @abc.abstractmethod
    def init(self, key: jax.Array, base_params: dict) -> PrefixParams:
        """See `Adapter`."""

    @abc.abstractmethod
    def keys_and_values(self, base_params: dict, params: PrefixParams) -> jax.Array:
        """The prefix: float32 [P, L 2 F], of each layer its keys, then its values."""


@dataclasses.dataclass(frozen=True)
class Prefix(_Ahead):
    """An `Adapter`, documented there, that changes the keys and values of P positions by

        tanh(embedding W + b) W' / hidden       embedding [P, D], W [D, hidden], W' [hidden, L 2 F]

    The network makes training stable; only what it gives is stored with a base or in a file. The
    factor 1 / hidden, chosen here, lets a step of Adam move a key by about its learning rate, as it
    moves a parameter: without it, by hidden times that, and the learning rates of other adapters
    would be far too large.
    """

    hidden: int = 512

    def init(self, key: jax.Array, base_params: dict) -> PrefixParams:
        width, of_embedding, of_network = self.model.width, *jax.random.split(key)
        shape, bound = (width, self.hidden), width**-0.5
        return {
            "embedding": jax.random.normal(of_embedding, (self.positions, width), jnp.float32),
            "in": jax.random.uniform(of_network, shape, jnp.float32, -bound, bound),
            "bias": jnp.zeros(self.hidden, jnp.float32),
            "out": jnp.zeros((self.hidden, _width(self.model)), jnp.float32),
        }

    def keys_and_values(self, base_params: dict, params: PrefixParams) -> jax.Array:
        own = jax.tree.map(all_gather_param, params)
        inner = jnp.tanh(own["embedding"] @ own["in"] + own["bias"][None])
        start = _embeddings(self.model, base_params, self.positions)
        change = inner @ own["out"] / self.hidden
        return keys_and_values(self.model, base_params, start) + change


@dataclasses.dataclass(frozen=True)
class Prompt(_Ahead):
    """An `Adapter`, documented there, that changes the input embeddings of P positions: its only
    parameter is that change, [P, D].
    """

    def init(self, key: jax.Array, base_params: dict) -> PrefixParams:
        return {"change": jnp.zeros((self.positions, self.model.width), jnp.float32)}

    def keys_and_values(self, base_params: dict, params: PrefixParams) -> jax.Array:
        return keys_and_values(self.model, base_params, self.embeddings(base_params, params))

    def embeddings(self, base_params: dict, params: PrefixParams) -> jax.Array:
        """The prompt: float32 [P, D]."""
        change = all_gather_param(params["change"])
        return _embeddings(self.model, base_params, self.positions) + change


def behind(model: PrefixModel, positions: int, shift: bool) -> PrefixModel:
    """The model of a base with so many positions ahead of every row.

    InputError if the base has not so many, or a shift by them leaves no room for text.
    """
    room = model.context_length + model.reserved - 2 * shift
    if positions > room:
        left = "leaves no room for text" if shift else "is longer than the base's context"
        raise InputError(f"a prefix of {positions} positions {left}: give it at most {room}")
    prefix = model.prefix + positions
    if not shift:
        return model.replace(prefix=prefix)
    reserved = max(0, model.reserved - positions)
    first = model.first_position + positions
    return model.replace(prefix=prefix, first_position=first, reserved=reserved)


def with_prefix(model: PrefixModel, base_params: dict, prefix: jax.Array | np.ndarray) -> dict:
    """The parameters of a base behind a prefix [P, L 2 F], which follows its own if it has one."""
    flat = by_path(base_params)
    parts = jnp.split(prefix, len(model.prefix_paths), axis=1)
    for path, new in zip(model.prefix_paths, parts, strict=True):
        flat[path] = jnp.concatenate([all_gather_param(flat[path]), new]) if path in flat else new
    return nested(flat)


@functools.partial(jax.jit, static_argnums=0)
def keys_and_values(model: PrefixModel, params: dict, embeddings: jax.Array) -> jax.Array:
    """What a base makes of P input embeddings [P, D]: float32 [P, L 2 F], by layer."""
    states = model.embedded(params, embeddings[None])
    cache = model.apply_upper({"params": params}, 0, states).cache
    parts = [x[:, model.prefix :].swapaxes(0, 1) for layer in cache.prompt for x in layer]
    return jnp.concatenate([x.reshape(len(embeddings), -1) for x in parts], 1).astype(jnp.float32)


def _width(model: PrefixModel) -> int:
    """L 2 F."""
    return len(model.prefix_paths) * model.prefix_width


def _embeddings(model: PrefixModel, params: dict, positions: int) -> jax.Array:
    """The input embeddings of P tokens that stand for text, always the same: float32 [P, D]."""
    ids = np.arange(model.vocab_size)
    for first, end in model.excluded_ids:
        ids = ids[(ids < first) | (ids >= end)]
    tokens = np.random.default_rng(0).choice(ids, positions)
    return model.embed(params, jnp.asarray(tokens)).astype(jnp.float32)
