"""Masked language models of the BERT family in Flax Linen, as encoders and as decoders of one.

BERT (Devlin et al., arXiv 1810.04805) and RoBERTa (Liu et al., arXiv 1907.11692) are one module:
they differ in the position of a row's first token and in the number of token types. Every token
sees its whole row; each sublayer is added to the residual stream before a LayerNorm. Rows are
right-padded, and no token sees padding.

A decoder has one more sublayer after each self-attention: attention to a context, such as the
states of an encoder, added to the residual stream without a LayerNorm of its own. Its last
projection is zero at first, so that a decoder with the parameters of a masked language model (see
`with_cross_attention`) is that model exactly until it is trained; compilers may still fuse, and so
round, the two programs differently. The decoder of transformers' BERT has a LayerNorm there, which
is not the identity.

There is no dropout.

Shapes: B rows, T tokens, S context positions, H heads, K head width, D model width, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from dinado_jax.distributed.constraints import all_gather_param
from dinado_jax.errors import InputError, quote
from dinado_jax.models.layers import Dense, Embed, LayerNorm
from dinado_jax.models.output import logits

# By the names in a config.json: whether GELU has its tanh approximation.
ACTIVATIONS = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}

Context = tuple[jax.Array, jax.Array]  # states [B, S, D], and bool [B, S], True for real positions


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a masked language model by their names in a config.json, and its precision."""

    vocab_size: int = 30522  # V
    hidden_size: int = 768  # D
    num_hidden_layers: int = 12
    num_attention_heads: int = 12  # H
    intermediate_size: int = 3072  # width within an MLP
    max_position_embeddings: int = 512  # rows of the table, those before the offset included
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_offset: int = 0  # position of a row's first token: 0; of RoBERTa its pad id + 1
    hidden_act: str = "gelu"  # one of ACTIVATIONS
    param_dtype: str = "float32"
    dtype: str = "float32"  # of activations

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "max_position_embeddings", "type_vocab_size",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads "
                f"{self.num_attention_heads}: choose a multiple"
            )
        if not 0 <= self.position_offset < self.max_position_embeddings:
            raise InputError(
                f"position_offset is {self.position_offset}: it must be a position, one of "
                f"{self.max_position_embeddings}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(
                f"hidden_act is {quote(self.hidden_act)}: only {' or '.join(ACTIVATIONS)} is "
                "supported"
            )

    @property
    def context_length(self) -> int:
        """The most tokens of a row."""
        return self.max_position_embeddings - self.position_offset


class Bert(nn.Module):
    """Tokens -> hidden states, and from there logits by the head of masked language modelling.

    Attributes:
      config: sizes and precision.
      cross_attention: whether it is a decoder, whose layers attend to a context.
    """

    config: BertConfig
    cross_attention: bool = False

    def setup(self) -> None:
        config = self.config
        self.embeddings = Embeddings(config)
        self.layer = [Layer(config, self.cross_attention) for _ in range(config.num_hidden_layers)]
        self.head = Head(config)

    def __call__(
        self,
        tokens_BT: jax.Array,
        mask_BT: jax.Array,
        context: Context | None = None,
        widths: Sequence[int] | None = None,
    ) -> jax.Array:
        """Runs all layers.

        Args:
          tokens_BT: int32.
          mask_BT: bool, True for a row's real tokens.
          context: states [B, S, D] and their mask, bool [B, S], True for what is seen, at least one
            of each row; None: the layers of a decoder attend to nothing.
          widths: of the texts that a row consists of, padding included, T in all; positions begin
            at 0 in each. None: a single text.

        Returns:
          The last hidden states [B, T, D] in the activation dtype; those of padding mean nothing.

        Raises:
          InputError: for longer rows than there are positions, and for a context of a model that is
            not a decoder.
        """
        widths = tokens_BT.shape[1:] if widths is None else widths
        if max(widths) > self.config.context_length:
            raise InputError(
                f"a row of {max(widths)} tokens: the model has positions for "
                f"{self.config.context_length}"
            )
        if context is not None and not self.cross_attention:
            raise InputError("a context for a model without cross-attention: build it with one")
        positions_T = jnp.concatenate([jnp.arange(width) for width in widths])
        x_BTD = self.embeddings(tokens_BT, positions_T)
        for layer in self.layer:
            x_BTD = layer(x_BTD, mask_BT, context)
        return x_BTD

    def vocabulary_logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> [..., V] float32: logits of the token at each position."""
        table = self.embeddings.word_embeddings.table()
        return self.head(hidden.astype(self.config.dtype), table)


def init_params(model: Bert, key: jax.Array) -> dict:
    """Random parameters of all parts, the head included.

    Kernels have variance 1 / in and tables variance 1 / D, as elsewhere in the package: BERT's own
    fixed 0.02 suits its width of 768. The last projection of every cross-attention is zero.
    """
    tokens, seen = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    states = jnp.zeros((1, 1, model.config.hidden_size), model.config.dtype)
    context = (states, seen) if model.cross_attention else None

    def run(model: Bert) -> jax.Array:
        return model.vocabulary_logits(model(tokens, seen, context))

    return dict(model.init(key, method=run)["params"])


def with_cross_attention(params: Mapping, config: BertConfig) -> dict:
    """The parameters of a decoder that computes what a masked language model does.

    Each layer's cross-attention has copies of the query, key and value projections of its own
    self-attention, as in DeltaLM (Ma et al., arXiv 2106.13736): the states of an encoder that was
    initialised alike are of the kind that they are trained on. Its last projection is zero. All
    other parameters are the given arrays.

    Args:
      params: of `Bert(config)`.
      config: its sizes.

    Returns:
      Parameters of `Bert(config, cross_attention=True)`.
    """
    decoder = dict(params)
    for number in range(config.num_hidden_layers):
        layer = params[f"layer_{number}"]
        own = layer["attention"]
        copies = {name: jax.tree.map(jnp.copy, own[name]) for name in ("query", "key", "value")}
        zero = jax.tree.map(jnp.zeros_like, own["output"])
        decoder[f"layer_{number}"] = {**layer, "cross_attention": {**copies, "output": zero}}
    return decoder


class Embeddings(nn.Module):
    """Tokens [B, T] -> the states that enter the first layer."""

    config: BertConfig

    def setup(self) -> None:
        config = self.config
        self.word_embeddings = _embed(config, config.vocab_size)
        self.position_embeddings = _embed(config, config.max_position_embeddings)
        self.token_type_embeddings = _embed(config, config.type_vocab_size)
        self.norm = LayerNorm(config.layer_norm_eps, config.param_dtype)

    def __call__(self, tokens_BT: jax.Array, positions_T: jax.Array) -> jax.Array:
        with jax.named_scope("embed"):
            x_BTD = self.word_embeddings(tokens_BT)
            x_BTD += self.token_type_embeddings(jnp.zeros_like(tokens_BT))  # all of type 0
            x_BTD += self.position_embeddings(self.config.position_offset + positions_T)[None]
            return self.norm(x_BTD)


class Layer(nn.Module):
    """Self-attention, attention to the context in a decoder, and an MLP."""

    config: BertConfig
    decoder: bool

    @nn.compact
    def __call__(self, x_BTD: jax.Array, mask_BT: jax.Array, context: Context | None) -> jax.Array:
        config = self.config
        with jax.named_scope("attention"):
            attended = Attention(config, name="attention")(x_BTD, x_BTD, mask_BT)
            x_BTD = _layer_norm(config, "attention_norm")(x_BTD + attended)
        if self.decoder and context is not None:
            with jax.named_scope("cross_attention"):
                states_BSD, mask_BS = context
                states_BSD = states_BSD.astype(x_BTD.dtype)
                attend = Attention(config, output_scale=0.0, name="cross_attention")
                x_BTD += attend(x_BTD, states_BSD, mask_BS)
        with jax.named_scope("mlp"):
            inner = Dense(config.intermediate_size, config.param_dtype, name="intermediate")(x_BTD)
            added = Dense(config.hidden_size, config.param_dtype, name="output")(
                _activation(config, inner)
            )
            return _layer_norm(config, "output_norm")(x_BTD + added)


class Attention(nn.Module):
    """Attention of T positions to the S of which the mask [B, S] is True.

    Attributes:
      config: sizes and precision.
      output_scale: variance of the last projection's initial kernel times D.
    """

    config: BertConfig
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x_BTD: jax.Array, states_BSD: jax.Array, mask_BS: jax.Array) -> jax.Array:
        config = self.config
        D, H = config.hidden_size, config.num_attention_heads

        def heads(name: str, x: jax.Array) -> jax.Array:
            projected = Dense(D, config.param_dtype, name=name)(x)
            return projected.reshape(*x.shape[:2], H, D // H)

        out_BTHK = jax.nn.dot_product_attention(
            heads("query", x_BTD),
            heads("key", states_BSD),
            heads("value", states_BSD),
            mask=mask_BS[:, None, None],
            implementation="xla",
        )
        out_BTD = out_BTHK.reshape(x_BTD.shape)
        return Dense(D, config.param_dtype, self.output_scale, name="output")(out_BTD)


class Head(nn.Module):
    """States [..., D] and the table of words [V, D] -> logits [..., V] float32."""

    config: BertConfig

    @nn.compact
    def __call__(self, hidden: jax.Array, table_VD: jax.Array) -> jax.Array:
        config = self.config
        dense = Dense(config.hidden_size, config.param_dtype, name="dense")
        x = _layer_norm(config, "norm")(_activation(config, dense(hidden)))
        zeros = nn.initializers.zeros
        bias_V = self.param("bias", zeros, (config.vocab_size,), config.param_dtype)
        bias = all_gather_param(bias_V).astype(jnp.float32)
        return logits(x, table_VD) + jnp.expand_dims(bias, tuple(range(x.ndim - 1)))


def _activation(config: BertConfig, x: jax.Array) -> jax.Array:
    return _gelu(x, ACTIVATIONS[config.hidden_act])


# Its gradient's intermediates are cheaper to compute again than to keep.
@functools.partial(jax.checkpoint, static_argnums=1)
def _gelu(x: jax.Array, approximate: bool) -> jax.Array:
    return nn.gelu(x, approximate)


def _embed(config: BertConfig, rows: int) -> Embed:
    return Embed(rows, config.hidden_size, config.param_dtype, config.dtype)


def _layer_norm(config: BertConfig, name: str) -> LayerNorm:
    return LayerNorm(config.layer_norm_eps, config.param_dtype, name=name)
