"""GPT-2 in Flax Linen: a pure function of parameters, tokens and a cache.

Parameters carry Hugging Face's names (`h_0/attn/c_attn/kernel`); kernels are (out, in). Rows are
right-padded: no position sees a later one, so none sees padding.

Shapes: B rows, T tokens, H heads, K head width, D model width, V vocabulary.
"""

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from dinado_jax.distributed.constraints import all_gather_param
from dinado_jax.errors import InputError
from dinado_jax.models.cache import (
    KV,
    Cache,
    LayerCache,
    attend,
    attend_chunk,
    fold_heads,
    prefilled,
)
from dinado_jax.models.configured import ConfiguredModel, SizeNames
from dinado_jax.models.dropout import dropout, noise_at, noisy_attention
from dinado_jax.models.layers import (
    Dense,
    Embed,
    LayerNorm,
    Prefix,
    causal_attention,
    with_memory,
)
from dinado_jax.models.output import Output
from dinado_jax.models.params import cast_matrices
from dinado_jax.models.protocol import DeltaRules
from dinado_jax.ops.vocab import Ranges


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2 by their names in a config.json, and its precision."""

    vocab_size: int = 50257  # V
    n_positions: int = 1024  # tokens
    n_embd: int = 768  # D
    n_layer: int = 12
    n_head: int = 12  # H
    n_inner: int | None = None  # width within an MLP; None: 4 D
    layer_norm_epsilon: float = 1e-5
    param_dtype: str = "float32"
    dtype: str = "float32"  # of activations
    remat: bool = False  # gradients compute each block's activations again: less memory
    excluded_ids: Ranges = ()  # the tokenizer's: no config.json has them
    prefix: int = 0  # P, keys and values ahead of every row, see layers.Prefix
    first_position: int = 0  # of a row's first token: 0, or behind the positions of a prefix
    reserved: int = 0  # positions kept free for the prefix of an adapter

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} is {getattr(self, name)}: it must be at least 1")
        if self.n_embd % self.n_head:
            raise InputError(
                f"model.n_embd {self.n_embd} is not divisible by model.n_head {self.n_head}: "
                "choose a multiple"
            )

    @property
    def inner(self) -> int:
        """Width within an MLP."""
        return self.n_inner or 4 * self.n_embd


@dataclasses.dataclass(frozen=True)
class GPT2(ConfiguredModel):
    """`GPT2(config).apply({"params": p}, tokens) -> Output`; a `BaseModel`, documented there."""

    config: GPT2Config
    size_names = SizeNames(width="n_embd", context_length="n_positions", num_layers="n_layer")
    attention_path = "h_{}/attn"
    model_type = "gpt2"
    delta_rules = DeltaRules(
        low_rank=(r"h_\d+/(attn|mlp)/c_\w+/kernel",),
        full=(r".*/ln_\d/\w+", r"ln_f/\w+", r".*/bias"),
    )

    def __str__(self) -> str:
        sizes = self.config
        return (
            f"GPT-2: {sizes.n_layer} layers of width {sizes.n_embd}, {sizes.n_head} heads, "
            f"vocabulary {sizes.vocab_size}, context {sizes.n_positions}"
        )

    @property
    def flops_per_token(self) -> int:
        D, F = self.config.n_embd, self.config.inner
        block = 3 * D * D + D * D + 2 * D * F
        return 2 * (self.config.n_layer * block + self.config.vocab_size * D)

    @property
    def dropout_sites(self) -> dict[str, str]:
        sites = {"embed": r"w[tp]e/embedding"}
        for layer in (f"h_{number}" for number in range(self.num_layers)):
            sites[f"{layer}/attn/probs"] = rf"{layer}/attn/c_attn/\w+"
            sites[f"{layer}/attn_out"] = rf"{layer}/attn/c_proj/\w+"
            sites[f"{layer}/mlp_out"] = rf"{layer}/mlp/c_proj/\w+"
        return sites

    def init(self, key: jax.Array) -> dict:
        """Kernels with variance 1 / in, or 1 / (2 L in) before a residual sum; 1 / D for tables.

        GPT-2's own fixed 0.02 suits its width of 768; at a width of 64 attention would stay near
        uniform for long.
        """
        tokens = jnp.zeros((1, 1), jnp.int32)
        return dict(Transformer(self.config).init(key, tokens)["params"])

    def apply(
        self, variables: dict[str, Any], tokens: jax.Array, cache: Cache | None = None
    ) -> Output:
        return cast(Output, Transformer(self.config).apply(variables, tokens, cache))

    def output_from_states(self, params: dict, states: jax.Array) -> Output:
        vocabulary = params["wte"]["embedding"].astype(self.dtype)
        return Output(states.astype(self.dtype), vocabulary, None)

    @property
    def kv_heads(self) -> int:
        return self.config.n_head

    @property
    def prefix_width(self) -> int:
        return self.config.n_embd

    def embed(self, params: dict, tokens: jax.Array) -> jax.Array:
        return all_gather_param(params["wte"]["embedding"])[tokens]

    def embedded(self, params: dict, embeddings: jax.Array) -> jax.Array:
        start, T = self.first_position, embeddings.shape[1]
        positions = all_gather_param(params["wpe"]["embedding"])[start : start + T]
        return (embeddings + positions[None]).astype(self.dtype)

    def upper_params(self, params: dict, first: int) -> dict:
        names = [f"h_{layer}" for layer in range(first, self.num_layers)]
        return {name: params[name] for name in (*names, "ln_f")}

    def apply_upper(
        self, variables: dict[str, Any], first: int, states: jax.Array, cache: Cache | None = None
    ) -> Output:
        upper = UpperTransformer(self.config, first)
        return cast(Output, upper.apply(variables, states, cache))

    def trunk(self, layers: int) -> "GPT2":
        return GPT2(_new_config(self.config, layers))

    def head(self, layers: int, outputs: int | None = None) -> "GPT2Head":
        config = _new_config(self.config, layers)
        return GPT2Head(dataclasses.replace(config, vocab_size=outputs or config.vocab_size))


@dataclasses.dataclass(frozen=True)
class GPT2Head:
    """GPT-2 blocks on the states of a GPT-2, with positions and a vocabulary of their own; a
    `Head`, documented there.
    """

    config: GPT2Config

    def init(self, key: jax.Array) -> dict:
        states = jnp.zeros((1, 1, self.config.n_embd), jnp.float32)
        return dict(HeadTransformer(self.config).init(key, states)["params"])

    def decode_params(self, params: dict) -> dict:
        return cast_matrices(params, self.config.dtype)

    def apply(
        self, variables: dict[str, Any], states: jax.Array, cache: Cache | None = None
    ) -> Output:
        return cast(Output, HeadTransformer(self.config).apply(variables, states, cache))


def _new_config(config: GPT2Config, layers: int) -> GPT2Config:
    """Of blocks that are trained from scratch beside a base."""
    return dataclasses.replace(
        config, n_layer=layers, n_inner=None, param_dtype="float32", prefix=0, first_position=0
    )


class Transformer(nn.Module):
    """Tokens [B, T] (with a cache [R, 1]) -> Output, its vocabulary the tied embedding."""

    config: GPT2Config

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, cache: Cache | None = None) -> Output:
        config = self.config
        wte = _embed(config, config.vocab_size, "wte")
        with jax.named_scope("embed"):
            wpe = _embed(config, config.n_positions, "wpe")
            x_BTD = wte(tokens_BT) + wpe(_positions(config, tokens_BT, cache))
            x_BTD = dropout(self, "embed", x_BTD)
        hidden_BTD, cache, inputs = _blocks(config, x_BTD, cache)
        return Output(hidden_BTD, wte.table(), cache, inputs)


class UpperTransformer(nn.Module):
    """States [B, T, D] that enter layer `first` -> Output, by the parameters of `Transformer`."""

    config: GPT2Config
    first: int

    @nn.compact
    def __call__(self, states_BTD: jax.Array, cache: Cache | None = None) -> Output:
        config = self.config
        x_BTD = states_BTD.astype(config.dtype)
        hidden_BTD, cache, inputs = _blocks(config, x_BTD, cache, self.first)
        vocabulary = _embed(config, config.vocab_size, "wte").table()
        return Output(hidden_BTD, vocabulary, cache, inputs)


class HeadTransformer(nn.Module):
    """States [B, T, any width] -> Output, its vocabulary a matrix of its own, zero at first."""

    config: GPT2Config

    @nn.compact
    def __call__(self, states_BTS: jax.Array, cache: Cache | None = None) -> Output:
        config = self.config
        with jax.named_scope("embed"):
            c_in = Dense(config.n_embd, config.param_dtype, name="c_in")
            x_BTD = c_in(states_BTS.astype(config.dtype))
            x_BTD += _embed(config, config.n_positions, "wpe")(_positions(config, x_BTD, cache))
        hidden_BTD, cache, _ = _blocks(config, x_BTD, cache)
        shape = (config.vocab_size, config.n_embd)
        vocabulary = self.param("vocabulary", nn.initializers.zeros, shape, config.param_dtype)
        return Output(hidden_BTD, all_gather_param(vocabulary).astype(config.dtype), cache)


def _positions(config: GPT2Config, x_BT: jax.Array, cache: Cache | None) -> jax.Array:
    """Positions of x [B, T, ...]: int32 [B, T]."""
    if cache is not None:
        return cache.positions(x_BT.shape[1])
    return config.first_position + jax.lax.broadcasted_iota(jnp.int32, x_BT.shape[:2], 1)


def _blocks(
    config: GPT2Config, x_BTD: jax.Array, cache: Cache | None, first: int = 0
) -> tuple[jax.Array, Cache, dict[int, jax.Array]]:
    """Runs the blocks from h_{first} on and the final LayerNorm, as parts of the calling module.

    Returns:
      The last hidden states, the cache of these blocks, and the states that entered each of them.
    """
    presents, inputs, block = [], {}, nn.remat(Block) if config.remat else Block
    for layer in range(first, config.n_layer):
        past = None if cache is None else cache.layer(layer - first)
        inputs[layer] = x_BTD
        x_BTD, present = block(config, name=f"h_{layer}")(x_BTD, past)
        presents.append(present)
    hidden_BTD = _layer_norm(config, "ln_f")(x_BTD)
    if cache is None:
        shape = len(x_BTD), x_BTD.shape[1]
        cache = prefilled(presents, shape, config.prefix, config.first_position)
    else:
        cache = cache.append(tuple(presents), x_BTD.shape[1])
    return hidden_BTD, cache, inputs


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to the residual stream.

    x [B, T, D], past -> (x, the keys and values of the T tokens, or the part of the cache to which
    they were added).
    """

    config: GPT2Config

    @nn.compact
    def __call__(self, x_BTD: jax.Array, past: LayerCache | None) -> tuple[jax.Array, KV]:
        config = self.config
        with jax.named_scope("attention"):
            normed = _layer_norm(config, "ln_1")(x_BTD)
            attended, present = Attention(config, name="attn")(normed, past)
            x_BTD = x_BTD + dropout(self, "attn_out", attended)
        with jax.named_scope("mlp"):
            added = MLP(config, name="mlp")(_layer_norm(config, "ln_2")(x_BTD))
            x_BTD = x_BTD + dropout(self, "mlp_out", added)
        return x_BTD, present


class Attention(nn.Module):
    """Causal self-attention over the T tokens and those in the cache `past`."""

    config: GPT2Config

    @nn.compact
    def __call__(self, x_BTD: jax.Array, past: LayerCache | None) -> tuple[jax.Array, KV]:
        config = self.config
        B, T, D = x_BTD.shape
        heads = (B, T, config.n_head, D // config.n_head)
        qkv = Dense(3 * D, config.param_dtype, name="c_attn")(x_BTD)
        q, k, v = (part.reshape(heads) for part in jnp.split(qkv, 3, axis=-1))
        if past is None:
            k, v = Prefix(config.prefix, config.param_dtype, name="prefix")(k, v)
            noise, present = noise_at(self, "probs"), KV(fold_heads(k), fold_heads(v))
            out = noisy_attention(q, k, v, noise) if noise else causal_attention(q, k, v)
        elif not past.generated:
            out, present = attend_chunk(q, KV(fold_heads(k), fold_heads(v)), past)
        else:
            out, present = attend(fold_heads(q), KV(fold_heads(k), fold_heads(v)), past)
        out_BTD = with_memory(self, q, out.reshape(B, T, D))
        return _into_residual(config, "c_proj")(out_BTD), present


class MLP(nn.Module):
    """Two layers with a GELU between them."""

    config: GPT2Config

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        config = self.config
        inner = _gelu(Dense(config.inner, config.param_dtype, name="c_fc")(x_BTD))
        return _into_residual(config, "c_proj")(inner)


@jax.checkpoint  # its gradient's intermediates are cheaper to compute again than to keep
def _gelu(x: jax.Array) -> jax.Array:
    return nn.gelu(x, approximate=True)


def _embed(config: GPT2Config, rows: int, name: str) -> Embed:
    return Embed(rows, config.n_embd, config.param_dtype, config.dtype, name=name)


def _layer_norm(config: GPT2Config, name: str) -> LayerNorm:
    return LayerNorm(config.layer_norm_epsilon, config.param_dtype, name=name)


def _into_residual(config: GPT2Config, name: str) -> Dense:
    """A projection that ends in the residual stream, whose 2 L sums keep the variance so."""
    return Dense(config.n_embd, config.param_dtype, 0.5 / config.n_layer, name=name)
