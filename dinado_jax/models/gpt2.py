"""GPT-2 in Flax Linen: a pure function of parameters, tokens and a cache.

Shapes: B batch, T tokens in, H heads, K head width, D model width, V vocabulary.

Parameters carry Hugging Face's names (`h_0/attn/c_attn/kernel`, kernels as (in, out)). A second
collection, "delta", may hold a change of any of them (see adapters/lora.py); where it is present it
is applied on the fly. Rows are right-padded: no position sees a later one, so none sees padding.
"""

import dataclasses
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from dinado_jax.config.checks import LARGEST
from dinado_jax.distributed.constraints import all_gather_param, sharded_matmul
from dinado_jax.errors import InputError, quote
from dinado_jax.models.cache import (
    KV,
    Cache,
    LayerCache,
    attend,
    fold_heads,
)
from dinado_jax.models.gpt2_options import plain
from dinado_jax.ops.low_rank import low_rank_product
from dinado_jax.ops.masks import fill_ids
from dinado_jax.utils import arguments

_ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")
# config.json options that change the function computed; anything but the GPT-2 value is refused.
_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2 and its precision: parameters and activations have their own dtype."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5
    param_dtype: str = "float32"
    dtype: str = "float32"
    remat: bool = False  # gradients recompute each block's activations instead of keeping them
    # Ids without text, as ranges [first, end): p leaves them out, whatever their logits are. They
    # belong to the tokenizer, so config.json does not have them.
    excluded_ids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
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
        return self.n_inner or 4 * self.n_embd

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> "GPT2Config":
        """From the dict of a config.json; InputError for a missing size or unsupported option.

        Sizes may have transformers' other names (hidden_size for n_embd).
        """
        activations = {"activation_function": "gelu_new"}
        hf = plain(hf, activations | {"layer_norm_epsilon": cls.layer_norm_epsilon})
        for name, value in _FIXED.items():
            if hf.get(name, value) != value:
                raise InputError(
                    f"config.json has {name} = {quote(hf[name])}: only {value} is supported, "
                    "choose a plain GPT-2 checkpoint"
                )
        activation = hf.get("activation_function", "gelu_new")
        if activation not in _ACTIVATIONS:
            raise InputError(
                f"config.json has activation_function = {quote(activation)}: "
                f"only {' or '.join(_ACTIVATIONS)} is supported"
            )
        required = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        sizes = {name: hf.get(name) for name in required}
        if hf.get("n_inner") is not None:
            sizes["n_inner"] = hf["n_inner"]
        for name, value in sizes.items():
            most = LARGEST[f"base.{name}"]
            if type(value) is not int or not 1 <= value <= most:  # type: a bool is an int too
                raise InputError(
                    f"config.json has {name} = {quote(value)}: it must be an integer of at least 1 "
                    f"and at most {most:,}, copy the model's own config.json"
                )
        epsilon = hf.get("layer_norm_epsilon", cls.layer_norm_epsilon)
        if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
            raise InputError(
                f"config.json has layer_norm_epsilon = {quote(epsilon)}: it must be a small number "
                "above 0, copy the model's own config.json"
            )
        return cls(**sizes, layer_norm_epsilon=epsilon)

    def to_hf(self) -> dict[str, Any]:
        """The dict to write as config.json."""
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "vocab_size": self.vocab_size,
            "n_positions": self.n_positions,
            "n_embd": self.n_embd,
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "n_inner": self.n_inner,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            **_FIXED,
        }


@flax.struct.dataclass
class Output:
    """What a forward pass leaves: states, the matrix that turns them into logits, and the cache."""

    hidden: jax.Array  # [B, T, D] after the final LayerNorm, activation dtype
    vocabulary: jax.Array  # [V, D] the tied head, with its delta, activation dtype
    cache: Cache | None

    @property
    def logits(self) -> jax.Array:
        """[B, T, V] float32, the checkpoint's own: of `GPT2Config.silent` ids too, which p leaves
        out. Long sequences: use ops/vocab.py, which never holds this array."""
        return logits(self.hidden, self.vocabulary)


def output_from_states(config: GPT2Config, params: dict, states: jax.Array) -> Output:
    """The output of a model without a delta whose last hidden states [B, T, D] are given."""
    vocabulary = params["wte"]["embedding"].astype(config.dtype)
    return Output(states.astype(config.dtype), vocabulary, None)


def logits(
    hidden: jax.Array, vocabulary: jax.Array, excluded_ids: tuple[tuple[int, int], ...] = ()
) -> jax.Array:
    """[..., D] and [V, D] -> [..., V] float32, -inf at the ids in the `silent` ranges."""
    out = jnp.einsum("...D,VD->...V", hidden, vocabulary, preferred_element_type=jnp.float32)
    return fill_ids(out, excluded_ids, -jnp.inf)


def cast_matrices(params: Any, config: GPT2Config) -> Any:
    """Parameters of a module here with matrices in the activation dtype, to which every use of them
    rounds them anyway: a decoding loop would at every token."""
    return jax.tree.map(lambda x: x.astype(config.dtype) if x.ndim == 2 else x, params)


def _adapted(module: nn.Module, name: str, value: jax.Array) -> jax.Array:
    """`value` plus its delta, written out; for vectors, full-rank changes and the tied head."""
    if not module.has_variable("delta", name):
        return value
    delta = module.get_variable("delta", name)
    if "full" in delta:  # shared out as the value is
        return value + delta["full"]
    return value + all_gather_param(delta["a"]) @ all_gather_param(delta["b"])


def _low_rank(module: nn.Module, name: str) -> dict[str, jax.Array] | None:
    """The factors {a, b} of a low-rank delta of `name`, or None."""
    if not module.has_variable("delta", name):
        return None
    delta = module.get_variable("delta", name)
    return jax.tree.map(all_gather_param, delta) if "a" in delta else None


def _vector(module: nn.Module, name: str, value: jax.Array, x: jax.Array) -> jax.Array:
    """A [D] parameter with its delta, in x's dtype and with as many axes, so that nothing is
    broadcast by accident."""
    vector = all_gather_param(_adapted(module, name, value)).astype(x.dtype)
    return jnp.expand_dims(vector, tuple(range(x.ndim - 1)))


class Dense(nn.Module):
    """y = x W + b, plus (x a) b' where the delta holds low-rank factors of W."""

    config: GPT2Config
    features: int
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        dtype = self.config.param_dtype
        shape = (x.shape[-1], self.features)
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        kernel = self.param("kernel", init, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), dtype)
        factors = _low_rank(self, "kernel")
        if factors is None:
            y = sharded_matmul(x, _adapted(self, "kernel", kernel))
        else:
            y = sharded_matmul(x, kernel) + low_rank_product(x, factors["a"], factors["b"])
        return y + _vector(self, "bias", bias, y)


class LayerNorm(nn.Module):
    """LayerNorm with float32 statistics."""

    config: GPT2Config

    @nn.compact
    def __call__(self, x):
        dtype = self.config.param_dtype
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), dtype)
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y *= jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.config.layer_norm_epsilon)
        y = y * _vector(self, "scale", scale, y) + _vector(self, "bias", bias, y)
        return y.astype(x.dtype)


class Embed(nn.Module):
    """A table of rows: looked up by index, or handed out whole as the tied head."""

    config: GPT2Config
    rows: int

    def setup(self):
        shape = (self.rows, self.config.n_embd)
        init = nn.initializers.normal(self.config.n_embd**-0.5)
        self.embedding = self.param("embedding", init, shape, self.config.param_dtype)

    def __call__(self, index):
        factors = _low_rank(self, "embedding")
        if factors is None:
            found = all_gather_param(_adapted(self, "embedding", self.embedding))[index]
        else:
            found = all_gather_param(self.embedding)[index] + factors["a"][index] @ factors["b"]
        return found.astype(self.config.dtype)

    def table(self):
        return all_gather_param(_adapted(self, "embedding", self.embedding)).astype(
            self.config.dtype
        )


class Attention(nn.Module):
    config: GPT2Config

    @nn.compact
    def __call__(self, x_BTD, past: LayerCache | None):
        config = self.config
        B, T, D = x_BTD.shape
        heads = (B, T, config.n_head, D // config.n_head)
        qkv = Dense(config, 3 * D, name="c_attn")(x_BTD)
        q, k, v = (part.reshape(heads) for part in jnp.split(qkv, 3, axis=-1))
        present = KV(fold_heads(k), fold_heads(v))
        if past is None:
            kernel = attention_kernel(jax.default_backend(), q.dtype, heads[-1])
            out = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=kernel)
        else:
            out, present = attend(fold_heads(q), present, past)
        return Dense(config, D, 0.5 / config.n_layer, name="c_proj")(out.reshape(B, T, D)), present


def attention_kernel(backend: str, dtype: Any, width: int) -> str:
    """cuDNN's fused attention where it applies: 16-bit heads of up to 128 in eights, on a GPU."""
    fits = jnp.dtype(dtype).itemsize == 2 and width % 8 == 0 and width <= 128
    return "cudnn" if backend == "gpu" and fits else "xla"


class MLP(nn.Module):
    config: GPT2Config

    @nn.compact
    def __call__(self, x_BTD):
        config = self.config
        inner = _gelu(Dense(config, config.inner, name="c_fc")(x_BTD))
        return Dense(config, config.n_embd, 0.5 / config.n_layer, name="c_proj")(inner)


@jax.checkpoint  # what its gradient needs is cheaper to compute again than to keep
def _gelu(x):
    return nn.gelu(x, approximate=True)


class Block(nn.Module):
    config: GPT2Config

    @nn.compact
    def __call__(self, x_BTD, past: LayerCache | None):
        attended, present = Attention(self.config, name="attn")(
            LayerNorm(self.config, name="ln_1")(x_BTD), past
        )
        x_BTD = x_BTD + attended
        x_BTD = x_BTD + MLP(self.config, name="mlp")(LayerNorm(self.config, name="ln_2")(x_BTD))
        return x_BTD, present


class GPT2(nn.Module):
    """`GPT2(config).apply({"params": p[, "delta": d]}, tokens[, cache]) -> Output`.

    tokens: [B, T] int32, from position 0 on; with a cache [R, 1], one more token of every row.
    Without a cache in, the cache out holds the T slots of this call as prompts, which is what a
    prefill wants. Indices are not checked on the device (JAX clamps them): see text.check_tokens
    for the host's check.
    """

    config: GPT2Config

    @nn.compact
    def __call__(self, tokens_BT, cache: Cache | None = None) -> Output:
        config = self.config
        wte = Embed(config, config.vocab_size, name="wte")
        wpe = Embed(config, config.n_positions, name="wpe")
        x_BTD = wte(tokens_BT) + wpe(_positions(tokens_BT, cache))
        hidden_BTD, cache = _blocks(config, x_BTD, cache)
        return Output(hidden_BTD, wte.table(), cache)


class Head(nn.Module):
    """GPT-2 blocks on the states of another model, with positions and a vocabulary of their own.

    `Head(config).apply({"params": p}, states[, cache]) -> Output`, states [B, T, any width]. The
    vocabulary starts at zero, and with it every logit.
    """

    config: GPT2Config

    @nn.compact
    def __call__(self, states_BTS, cache: Cache | None = None) -> Output:
        config = self.config
        x_BTD = Dense(config, config.n_embd, name="c_in")(states_BTS.astype(config.dtype))
        x_BTD += Embed(config, config.n_positions, name="wpe")(_positions(x_BTD, cache))
        hidden_BTD, cache = _blocks(config, x_BTD, cache)
        shape = (config.vocab_size, config.n_embd)
        vocabulary = self.param("vocabulary", nn.initializers.zeros, shape, config.param_dtype)
        vocabulary = all_gather_param(vocabulary)
        return Output(hidden_BTD, vocabulary.astype(config.dtype), cache)


def _positions(x_BT, cache):
    """[B, T] int32 of x [B, T, ..]."""
    if cache is not None:
        return cache.positions
    return jax.lax.broadcasted_iota(jnp.int32, x_BT.shape[:2], 1)


def _blocks(config, x_BTD, cache):
    """Blocks h_0, h_1, .. and the final LayerNorm, as parts of the module that calls."""
    presents, block = [], nn.remat(Block) if config.remat else Block
    for layer in range(config.n_layer):
        past = None if cache is None else cache.layer(layer)
        x_BTD, present = block(config, name=f"h_{layer}")(x_BTD, past)
        presents.append(present)
    hidden_BTD = LayerNorm(config, name="ln_f")(x_BTD)
    if cache is None:
        return hidden_BTD, Cache(tuple(presents), jnp.full(len(x_BTD), x_BTD.shape[1], jnp.int32))
    return hidden_BTD, cache.append(tuple(presents))


def init_params(config: GPT2Config, seed: int) -> dict:
    """Random parameters of a seed in [0, 2^32): variance 1 / in for kernels, 1 / (2 L in) for
    projections into the residual, 1 / D for both tables.

    GPT-2's own fixed 0.02 suits its width of 768; at a width of 64 attention then sleeps for long.
    """
    tokens = jnp.zeros((1, 1), jnp.int32)
    key = jax.random.key(arguments.require_seed(seed))
    return jax.jit(GPT2(config).init)(key, tokens)["params"]
