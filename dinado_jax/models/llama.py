"""The Llama family in Flax Linen: a pure function of parameters, tokens and a cache.

RMSNorm before attention and MLP, rotary positions (Su et al., arXiv 2104.09864), key and value
heads that groups of query heads share (Ainslie et al., arXiv 2305.13245), SwiGLU (Shazeer, arXiv
2002.05202). Llama, Mistral, Qwen2 and Qwen3 differ in biases, norms of heads and a sliding window.

Parameters carry Hugging Face's names (`layers_0/self_attn/q_proj/kernel`); kernels are (out, in).
Rows are right-padded: no position sees a later one, so none sees padding.

Shapes: B rows, T tokens, H key/value heads, G query heads for each, K head width, D model width,
V vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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
    Prefix,
    RMSNorm,
    causal_attention,
    with_memory,
)
from dinado_jax.models.output import Output
from dinado_jax.models.params import cast_matrices
from dinado_jax.models.protocol import DeltaRules
from dinado_jax.ops.vocab import Ranges


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions: the angle of pair i of a head at position t is t theta^(-2i / K), scaled.

    Scaling "linear" divides every frequency by `factor`. "llama3" divides those whose wavelength is
    above `original_context / low_freq_factor` tokens, keeps those below `original_context /
    high_freq_factor`, and interpolates between the two.
    """

    theta: float = 10_000.0
    scaling: str = "default"  # default | linear | llama3
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192  # tokens

    def frequencies(self, head_dim: int) -> np.ndarray:
        """[K / 2] float32, radians per token; rounded at every step as transformers rounds."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        plain = 1 / np.float32(self.theta) ** exponents
        if self.scaling == "default":
            return plain
        scaled = plain / np.float32(self.factor)
        if self.scaling == "linear":
            return scaled
        low, high = np.float32(self.low_freq_factor), np.float32(self.high_freq_factor)
        context = np.float32(self.original_context)
        wavelength = np.float32(2 * np.pi) / plain
        kept = (context / wavelength - low) / (high - low)
        between = (1 - kept) * scaled + kept * plain
        short, long = wavelength < context / high, wavelength > context / low
        return np.where(long, scaled, np.where(short, plain, between))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes of a model of this family by their names in a config.json, and its precision."""

    model_type: str = "llama"  # in its config.json
    vocab_size: int  # V
    max_position_embeddings: int  # tokens
    hidden_size: int  # D
    intermediate_size: int  # width within an MLP
    num_hidden_layers: int
    num_attention_heads: int  # H G
    num_key_value_heads: int  # H
    head_dim: int  # K
    rms_norm_eps: float = 1e-6
    rope: Rope = Rope()
    attention_bias: bool = False  # of all four projections
    mlp_bias: bool = False
    sliding_window: int | None = None  # tokens that a token sees, itself included; None: all
    full_layers: int = 0  # that many layers, the first ones, see all whatever the window is
    tie_word_embeddings: bool = False
    param_dtype: str = "float32"
    dtype: str = "float32"  # of activations
    remat: bool = False  # gradients compute each block's activations again: less memory
    excluded_ids: Ranges = ()  # the tokenizer's: no config.json has them
    prefix: int = 0  # P, keys and values ahead of every row, see layers.Prefix
    first_position: int = 0  # of a row's first token: 0, or behind the positions of a prefix
    reserved: int = 0  # positions kept free for the prefix of an adapter

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size",
            "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} is {getattr(self, name)}: it must be at least 1")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"model.num_attention_heads {self.num_attention_heads} is not divisible by "
                f"model.num_key_value_heads {self.num_key_value_heads}: choose a multiple"
            )
        if self.head_dim % 2:
            raise InputError(
                f"model.head_dim is {self.head_dim}: rotary positions need an even number"
            )

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether RMSNorms over each head's query and key come before the rotation."""
        return self.model_type == "qwen3"

    @property
    def head(self) -> str:
        """The name of the table that is the output head."""
        return "embed_tokens" if self.tie_word_embeddings else "lm_head"

    def window(self, layer: int) -> int | None:
        """How many tokens a token of this layer sees; None for all."""
        return None if layer < self.full_layers else self.sliding_window


@dataclasses.dataclass(frozen=True)
class Llama(ConfiguredModel):
    """`Llama(config).apply({"params": p}, tokens) -> Output`; a `BaseModel`, documented there."""

    config: LlamaConfig
    size_names = SizeNames(
        width="hidden_size",
        context_length="max_position_embeddings",
        num_layers="num_hidden_layers",
    )
    attention_path = "layers_{}/self_attn"

    @property
    def delta_rules(self) -> DeltaRules:
        biased = self.config.qkv_bias or self.config.mlp_bias
        return DeltaRules(
            low_rank=(r"layers_\d+/(self_attn|mlp)/\w+_proj/kernel",),
            full=(r"(.*/)?\w*norm/scale", *((r".*/bias",) if biased else ())),
        )

    def __str__(self) -> str:
        sizes = self.config
        return (
            f"{self.model_type}: {sizes.num_hidden_layers} layers of width {sizes.hidden_size}, "
            f"{sizes.num_attention_heads} heads over {sizes.num_key_value_heads} key/value heads, "
            f"vocabulary {sizes.vocab_size}, context {sizes.max_position_embeddings}"
        )

    @property
    def model_type(self) -> str:
        return self.config.model_type

    @property
    def flops_per_token(self) -> int:
        sizes = self.config
        D, K = sizes.hidden_size, sizes.head_dim
        attention = 2 * D * K * (sizes.num_attention_heads + sizes.num_key_value_heads)
        block = attention + 3 * D * sizes.intermediate_size
        return 2 * (sizes.num_hidden_layers * block + sizes.vocab_size * D)

    @property
    def dropout_sites(self) -> dict[str, str]:
        sites = {"embed": "embed_tokens/embedding"}
        for layer in (f"layers_{number}" for number in range(self.num_layers)):
            sites[f"{layer}/self_attn/probs"] = rf"{layer}/self_attn/[qkv]_proj/\w+"
            sites[f"{layer}/attn_out"] = rf"{layer}/self_attn/o_proj/\w+"
            sites[f"{layer}/mlp_out"] = rf"{layer}/mlp/down_proj/\w+"
        return sites

    def init(self, key: jax.Array) -> dict:
        """Kernels with variance 1 / in, or 1 / (2 L in) before a residual sum; 1 / D for tables."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        return dict(Transformer(self.config).init(key, tokens)["params"])

    def apply(
        self, variables: dict[str, Any], tokens: jax.Array, cache: Cache | None = None
    ) -> Output:
        return cast(Output, Transformer(self.config).apply(variables, tokens, cache))

    def output_from_states(self, params: dict, states: jax.Array) -> Output:
        vocabulary = params[self.config.head]["embedding"].astype(self.dtype)
        return Output(states.astype(self.dtype), vocabulary, None)

    @property
    def kv_heads(self) -> int:
        return self.config.num_key_value_heads

    @property
    def prefix_width(self) -> int:
        return self.config.num_key_value_heads * self.config.head_dim

    def embed(self, params: dict, tokens: jax.Array) -> jax.Array:
        return all_gather_param(params["embed_tokens"]["embedding"])[tokens]

    def embedded(self, params: dict, embeddings: jax.Array) -> jax.Array:
        return embeddings.astype(self.dtype)  # positions are turned to by every layer

    def upper_params(self, params: dict, first: int) -> dict:
        names = [f"layers_{layer}" for layer in range(first, self.num_layers)]
        untied = () if self.config.tie_word_embeddings else (self.config.head,)
        return {name: params[name] for name in (*names, "norm", *untied)}

    def apply_upper(
        self, variables: dict[str, Any], first: int, states: jax.Array, cache: Cache | None = None
    ) -> Output:
        upper = UpperTransformer(self.config, first)
        return cast(Output, upper.apply(variables, states, cache))

    def trunk(self, layers: int) -> "Llama":
        return Llama(_new_config(self.config, layers))

    def head(self, layers: int, outputs: int | None = None) -> "LlamaHead":
        config = _new_config(self.config, layers)
        return LlamaHead(dataclasses.replace(config, vocab_size=outputs or config.vocab_size))


@dataclasses.dataclass(frozen=True)
class LlamaHead:
    """Llama blocks on the states of a base, with a vocabulary of their own; a `Head`, documented
    there.
    """

    config: LlamaConfig

    def init(self, key: jax.Array) -> dict:
        states = jnp.zeros((1, 1, self.config.hidden_size), jnp.float32)
        return dict(HeadTransformer(self.config).init(key, states)["params"])

    def decode_params(self, params: dict) -> dict:
        return cast_matrices(params, self.config.dtype)

    def apply(
        self, variables: dict[str, Any], states: jax.Array, cache: Cache | None = None
    ) -> Output:
        return cast(Output, HeadTransformer(self.config).apply(variables, states, cache))


def _new_config(config: LlamaConfig, layers: int) -> LlamaConfig:
    """Of blocks that are trained from scratch beside a base: they see all tokens, and one table is
    enough for them.
    """
    return dataclasses.replace(
        config,
        num_hidden_layers=layers,
        prefix=0,
        first_position=0,
        sliding_window=None,
        full_layers=0,
        tie_word_embeddings=True,
        param_dtype="float32",
    )


class Rotary(NamedTuple):
    """Of the positions of a call, each [B or 1, T, 1, K / 2] float32."""

    cos: jax.Array
    sin: jax.Array


class Transformer(nn.Module):
    """Tokens [B, T] (with a cache [R, 1]) -> Output, its vocabulary lm_head or the embedding."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, cache: Cache | None = None) -> Output:
        config = self.config
        embed_tokens = _table(config, "embed_tokens")
        with jax.named_scope("embed"):
            x_BTD = dropout(self, "embed", embed_tokens(tokens_BT))
        hidden_BTD, cache, inputs = _blocks(config, x_BTD, cache)
        tied = config.tie_word_embeddings
        vocabulary = embed_tokens if tied else _table(config, config.head)
        return Output(hidden_BTD, vocabulary.table(), cache, inputs)


class UpperTransformer(nn.Module):
    """States [B, T, D] that enter layer `first` -> Output, by the parameters of `Transformer`."""

    config: LlamaConfig
    first: int

    @nn.compact
    def __call__(self, states_BTD: jax.Array, cache: Cache | None = None) -> Output:
        config = self.config
        x_BTD = states_BTD.astype(config.dtype)
        hidden_BTD, cache, inputs = _blocks(config, x_BTD, cache, self.first)
        return Output(hidden_BTD, _table(config, config.head).table(), cache, inputs)


class HeadTransformer(nn.Module):
    """States [B, T, any width] -> Output, its vocabulary a matrix of its own, zero at first."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, states_BTS: jax.Array, cache: Cache | None = None) -> Output:
        config = self.config
        with jax.named_scope("embed"):
            in_proj = Dense(config.hidden_size, config.param_dtype, use_bias=False, name="in_proj")
            x_BTD = in_proj(states_BTS.astype(config.dtype))
        hidden_BTD, cache, _ = _blocks(config, x_BTD, cache)
        shape = (config.vocab_size, config.hidden_size)
        vocabulary = self.param("vocabulary", nn.initializers.zeros, shape, config.param_dtype)
        return Output(hidden_BTD, all_gather_param(vocabulary).astype(config.dtype), cache)


def _blocks(
    config: LlamaConfig, x_BTD: jax.Array, cache: Cache | None, first: int = 0
) -> tuple[jax.Array, Cache, dict[int, jax.Array]]:
    """Runs the blocks from layers_{first} on and the final norm, as parts of the calling module.

    Returns:
      The last hidden states, the cache of these blocks, and the states that entered each of them.
    """
    B, T, _ = x_BTD.shape
    with jax.named_scope("rotary"):
        positions = config.first_position + jnp.arange(T)[None]
        rotary = _rotary(config, positions if cache is None else cache.positions(T))
    presents, inputs, block = [], {}, nn.remat(Block) if config.remat else Block
    for layer in range(first, config.num_hidden_layers):
        past = None if cache is None else cache.layer(layer - first)
        inputs[layer] = x_BTD
        module = block(config, config.window(layer), name=f"layers_{layer}")
        x_BTD, present = module(x_BTD, rotary, past)
        presents.append(present)
    hidden_BTD = _rms_norm(config, "norm")(x_BTD)
    if cache is None:
        cache = prefilled(presents, (B, T), config.prefix, config.first_position)
    else:
        cache = cache.append(tuple(presents), T)
    return hidden_BTD, cache, inputs


def _rotary(config: LlamaConfig, positions_BT: jax.Array) -> Rotary:
    frequencies = jnp.asarray(config.rope.frequencies(config.head_dim))
    angles = positions_BT[..., None, None].astype(jnp.float32) * frequencies[None, None, None]
    return Rotary(jnp.cos(angles), jnp.sin(angles))


def _rotate(x_BTHK: jax.Array, rotary: Rotary) -> jax.Array:
    """Turns the pairs (i, i + K / 2) of every head by their angles, in float32."""
    a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    cos, sin = rotary
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BTHK.dtype)


class Block(nn.Module):
    """Attention and MLP, each after an RMSNorm and added to the residual stream.

    x [B, T, D], past -> (x, the keys and values of the T tokens, or the part of the cache to which
    they were added).
    """

    config: LlamaConfig
    window: int | None

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, rotary: Rotary, past: LayerCache | None
    ) -> tuple[jax.Array, KV]:
        config = self.config
        with jax.named_scope("attention"):
            normed = _rms_norm(config, "input_layernorm")(x_BTD)
            attention = Attention(config, self.window, name="self_attn")
            attended, present = attention(normed, rotary, past)
            x_BTD = x_BTD + dropout(self, "attn_out", attended)
        with jax.named_scope("mlp"):
            normed = _rms_norm(config, "post_attention_layernorm")(x_BTD)
            x_BTD = x_BTD + dropout(self, "mlp_out", MLP(config, name="mlp")(normed))
        return x_BTD, present


class Attention(nn.Module):
    """Causal self-attention over the T tokens and those in the cache `past`."""

    config: LlamaConfig
    window: int | None

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, rotary: Rotary, past: LayerCache | None
    ) -> tuple[jax.Array, KV]:
        config = self.config
        B, T, _ = x_BTD.shape
        K, kv_heads = config.head_dim, config.num_key_value_heads
        q = self._heads(config.num_attention_heads, "q_proj", x_BTD)
        k = self._heads(kv_heads, "k_proj", x_BTD)
        v = self._heads(kv_heads, "v_proj", x_BTD)
        if config.qk_norm:
            q, k = _rms_norm(config, "q_norm")(q), _rms_norm(config, "k_norm")(k)
        unrotated = q
        q, k = _rotate(q, rotary), _rotate(k, rotary)
        if past is None:
            k, v = Prefix(config.prefix, config.param_dtype, name="prefix")(k, v)
            noise, present = noise_at(self, "probs"), KV(fold_heads(k), fold_heads(v))
            if noise:
                out = noisy_attention(q, k, v, noise, self.window)
            else:
                out = causal_attention(q, k, v, self.window)
        elif not past.generated:
            newest = KV(fold_heads(k), fold_heads(v))
            out, present = attend_chunk(q, newest, past, self.window)
        else:
            # The query heads of a group lie side by side: [R, 1, H G, K] -> [R H, G, K].
            groups = q.reshape(B * kv_heads, -1, K)
            newest = KV(fold_heads(k), fold_heads(v))
            out, present = attend(groups, newest, past, self.window)
        out_BTN = out.reshape(B, T, config.num_attention_heads * K)
        out_BTN = with_memory(self, unrotated, out_BTN)
        return _into_residual(config, config.attention_bias, "o_proj")(out_BTN), present

    def _heads(self, heads: int, name: str, x_BTD: jax.Array) -> jax.Array:
        config = self.config
        width = heads * config.head_dim
        dense = Dense(width, config.param_dtype, use_bias=config.qkv_bias, name=name)
        return dense(x_BTD).reshape(*x_BTD.shape[:2], heads, config.head_dim)


class MLP(nn.Module):
    """SwiGLU: two projections, one gated by the SiLU of the other, and one back."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        config = self.config

        def inner(name: str) -> jax.Array:
            width = config.intermediate_size
            dense = Dense(width, config.param_dtype, use_bias=config.mlp_bias, name=name)
            return dense(x_BTD)

        gated = _gated(inner("gate_proj"), inner("up_proj"))
        return _into_residual(config, config.mlp_bias, "down_proj")(gated)


@jax.checkpoint  # its gradient's intermediates are cheaper to compute again than to keep
def _gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    return nn.silu(gate) * up


def _table(config: LlamaConfig, name: str) -> Embed:
    """A table [V, D]; Hugging Face keeps its output heads in this layout too."""
    width, dtypes = config.hidden_size, (config.param_dtype, config.dtype)
    return Embed(config.vocab_size, width, *dtypes, name=name)


def _rms_norm(config: LlamaConfig, name: str) -> RMSNorm:
    return RMSNorm(config.rms_norm_eps, config.param_dtype, name=name)


def _into_residual(config: LlamaConfig, use_bias: bool, name: str) -> Dense:
    """A projection that ends in the residual stream, whose 2 L sums keep the variance so."""
    scale = 0.5 / config.num_hidden_layers
    return Dense(config.hidden_size, config.param_dtype, scale, use_bias, name=name)
