"""Layers whose parameters may carry a delta: what architectures are built from.

A second collection, "delta", may hold a change of any parameter, under the parameter's own path:

    {"full": [the parameter's shape]}               added to it
    {"a": [in, rank], "b": [rank, out]}             a low-rank change of a kernel [out, in], by
                                                    (a b)^T, or of a table [in, out], by a b

It is applied on the fly, in the forward pass; adapters (see adapters/protocol.py) write it. Every
parameter is fetched whole where it is used (`all_gather_param`), wherever it is stored.

A third one, "memory", may hold a key and a value of every row for one layer's attention: see
`with_memory`.

Shapes: D width of the input, F features.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dinado_jax.distributed.constraints import all_gather_param, with_gathered
from dinado_jax.ops.backend import target
from dinado_jax.ops.linear import linear
from dinado_jax.ops.low_rank import low_rank_product


class Dense(nn.Module):
    """y = x W^T + b, plus (x a) b' where the delta holds low-rank factors of W.

    Attributes:
      features: F, the width of the output.
      param_dtype: of kernel [F, D] and bias [F]; the product has the dtype of x.
      init_scale: variance of the initial kernel times D.
      use_bias: whether there is a b.
    """

    features: int
    param_dtype: str
    init_scale: float = 1.0
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        draw = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        shape = (x.shape[-1], self.features)  # the initializer's fan-in is the first axis
        kernel = self.param("kernel", lambda key: draw(key, shape, self.param_dtype).T)
        factors = _low_rank(self, "kernel")
        if factors is None:
            y = with_gathered(linear, x, _adapted(self, "kernel", kernel))
        else:
            # The product of the factors has the kernel's size: it is never written out.
            y = with_gathered(linear, x, kernel)
            y += low_rank_product(x, factors["a"], factors["b"])
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return y + _vector(self, "bias", bias, y)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, with float32 statistics, in the dtype of x."""

    epsilon: float
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y *= jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.epsilon)
        y = y * _vector(self, "scale", scale, y) + _vector(self, "bias", bias, y)
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis (Zhang and Sennrich, arXiv 1910.07467), with float32
    statistics, in the dtype of x.
    """

    epsilon: float
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.epsilon)
        return (y * _vector(self, "scale", scale, y)).astype(x.dtype)


class Embed(nn.Module):
    """A table [rows, width]: looked up by index, or whole, as an output head."""

    rows: int
    width: int
    param_dtype: str
    dtype: str  # of what comes out

    def setup(self) -> None:
        init = nn.initializers.normal(self.width**-0.5)
        shape = (self.rows, self.width)
        self.embedding = self.param("embedding", init, shape, self.param_dtype)

    def __call__(self, index: jax.Array) -> jax.Array:
        """[...] int32 -> [..., width]."""
        factors = _low_rank(self, "embedding")
        if factors is None:
            found = all_gather_param(_adapted(self, "embedding", self.embedding))[index]
        else:
            found = all_gather_param(self.embedding)[index] + factors["a"][index] @ factors["b"]
        return found.astype(self.dtype)

    def table(self) -> jax.Array:
        """[rows, width], with its delta."""
        return all_gather_param(_adapted(self, "embedding", self.embedding)).astype(self.dtype)


class Prefix(nn.Module):
    """Learned keys and values ahead of every row's own (Li and Liang, arXiv 2101.00190).

    k, v [B, T, H, K] -> the same behind P more, [B, P + T, H, K].
    """

    length: int  # P
    param_dtype: str

    @nn.compact
    def __call__(self, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not self.length:
            return k, v
        return self._ahead("keys", k), self._ahead("values", v)

    def _ahead(self, name: str, x: jax.Array) -> jax.Array:
        B, _, *heads = x.shape
        shape = self.length, math.prod(heads)
        value = self.param(name, nn.initializers.normal(1.0), shape, self.param_dtype)
        own = all_gather_param(_adapted(self, name, value)).astype(x.dtype)
        own = jnp.broadcast_to(own.reshape(1, self.length, *heads), (B, self.length, *heads))
        return jnp.concatenate([own, x], 1)


def causal_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    window: int | None = None,
    first: jax.Array | None = None,
) -> jax.Array:
    """Attention of T tokens per row over the keys and values of P earlier positions and their own.

    Args:
      q: [B, T, G H, K], queries; those of a head's group lie side by side.
      k, v: [B, P + T, H, K], the earlier positions first.
      window: how many positions are seen, the token's own included; None for all.
      first: int32 [B], the position of each row's first query; None for P. Positions after a query
        are not seen, so that what lies behind a row's own tokens is room.

    Returns:
      The attended values [B, T, G H, K] in q's dtype.
    """
    T, S = q.shape[1], k.shape[1]
    if first is not None:
        age = (first[:, None] + jnp.arange(T)[None])[..., None] - jnp.arange(S)[None, None]
        seen = age >= 0 if window is None else (age >= 0) & (age < window)
        return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None], implementation="xla")
    if ahead := S - T:
        # With queries of no meaning ahead the mask is that of equally many queries and keys, which
        # every kernel has.
        q = jnp.pad(q, ((0, 0), (ahead, 0), (0, 0), (0, 0)))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=attention_kernel(q.dtype, q.shape[-1], S),
    )
    return out[:, ahead:]


def with_memory(module: nn.Module, q: jax.Array, attended: jax.Array) -> jax.Array:
    """Adds what T tokens read of their row's memory, where the collection "memory" holds one for
    this attention: {"key", "value"}, each [B, H, K].

    The memory is one more position, which is attended to by itself, for every head with the weight

        sigmoid(q k / sqrt(K)) = e^s / (e^s + 1)

    that it would have beside one empty position of score 0. In the softmax over a row's own
    positions even a key and a value of zero would take weight from all others; here a value of zero
    adds exactly nothing, the attention to the row's own positions and its kernels stay as they are,
    and gradients reach the value at once. It stands at no position: queries are not rotated.

    Args:
      module: the attention.
      q: queries [B, T, G H, K], before any rotation.
      attended: [B, T, G H K], what is attended to of the row itself.
    """
    if not module.has_variable("memory", "key"):
        return attended
    key, value = (module.get_variable("memory", name) for name in ("key", "value"))
    (B, T, N, K), H = q.shape, key.shape[1]
    grouped = q.reshape(B, T, H, N // H, K)
    scores = jnp.einsum("bthgk,bhk->bthg", grouped, key.astype(q.dtype)).astype(jnp.float32)
    weights = jax.nn.sigmoid(scores * K**-0.5).astype(q.dtype)
    read = jnp.einsum("bthg,bhk->bthgk", weights, value.astype(q.dtype))
    return attended + read.reshape(attended.shape)


def attention_kernel(dtype: Any, width: int, length: int) -> Literal["cudnn", "xla"]:
    """Chooses the kernel of prefills and training: "cudnn" where its fused attention applies, which
    is 16-bit heads whose width is a multiple of 8 up to 128 and, for gradients, an even number of
    tokens, in programs for a GPU; else "xla".
    """
    fits = jnp.dtype(dtype).itemsize == 2 and width % 8 == 0 and width <= 128 and length % 2 == 0
    return "cudnn" if target() == "gpu" and fits else "xla"


def _adapted(module: nn.Module, name: str, value: jax.Array) -> jax.Array:
    """`value` plus its delta, written out; for vectors, full changes and tied heads."""
    if not module.has_variable("delta", name):
        return value
    delta = module.get_variable("delta", name)
    if "full" in delta:  # sharded as the value is
        return value + delta["full"]
    return value + all_gather_param(delta["a"]) @ all_gather_param(delta["b"])


def _low_rank(module: nn.Module, name: str) -> dict[str, jax.Array] | None:
    """The factors {a, b} of a low-rank delta of `name`, or None."""
    if not module.has_variable("delta", name):
        return None
    delta = module.get_variable("delta", name)
    return jax.tree.map(all_gather_param, delta) if "a" in delta else None


def _vector(module: nn.Module, name: str, value: jax.Array, x: jax.Array) -> jax.Array:
    """A parameter [D] with its delta, in x's dtype and rank: a rank that differs would broadcast
    silently.
    """
    vector = all_gather_param(_adapted(module, name, value)).astype(x.dtype)
    return jnp.expand_dims(vector, tuple(range(x.ndim - 1)))
