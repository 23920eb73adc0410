"""An encoder and a decoder of one masked language model, and a head for lengths (RUM-SUNDAE).

Yoshida's thesis (arXiv 2408.16241) initialises both sides of a non-autoregressive model from a
masked language model and trains it by SUNDAE's loss (arXiv 2112.06749). No code is public, and what
was found of it says no more than that. Chosen here:

- the decoder is the masked language model itself, with a cross-attention in each layer whose last
  projection is zero: at first it predicts what that model does, whatever the source says;
- encoder and decoder are copies of their own, and either may have only the first layers;
- a target stands between the tokens that begin and end a text, as in pretraining; they are given;
- the length is a categorical distribution over 1 to `max_length`, by a linear layer on the mean of
  the encoder's states, zero at first. Its outputs count from the length of the source: of long and
  short sources it learns the same relation.

Shapes: B rows, T tokens of a target, S of a source, D width, V vocabulary, M longest target.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dinado_jax.denoising.settings import Parts
from dinado_jax.denoising.tokens import vocabulary_of
from dinado_jax.denoising.vocabulary import Vocabulary
from dinado_jax.distributed.constraints import all_gather_param
from dinado_jax.errors import InputError
from dinado_jax.models.bert import Bert, BertConfig, init_params, with_cross_attention
from dinado_jax.models.bert_checkpoint import MaskedModel
from dinado_jax.utils.arguments import POSITIVE, require_integer_field

ENDS = 2  # tokens that begin and end a text


class Text(NamedTuple):
    """Texts with the tokens that begin and end them, right-padded."""

    tokens: jax.Array  # int32 [B, T]
    length: jax.Array  # int32 [B], tokens of each


class Context(NamedTuple):
    """What a decoder reads of a source."""

    states: jax.Array  # [B, S, D]
    mask: jax.Array  # bool [B, S], True for tokens


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """A masked language model, static and hashable; its parameters travel beside it."""

    config: BertConfig
    vocabulary: Vocabulary

    def logits(self, params: Any, *texts: Text) -> jax.Array:
        """Predicts the tokens of texts, float32 [B, T, V], those of several one after another.

        The texts of a row see each other, and the positions of each begin at 0, as in the
        translation language modelling of XLM (Conneau and Lample, arXiv 1901.07291).
        """
        tokens = jnp.concatenate([text.tokens for text in texts], 1)
        mask = jnp.concatenate([_inside(*text) for text in texts], 1)
        widths = [text.tokens.shape[1] for text in texts]
        return _logits(Bert(self.config), self.vocabulary, params, tokens, mask, None, widths)


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """The model, static and hashable; its parameters travel beside it.

    Raises:
      InputError: for sizes of encoder and decoder that do not fit each other, and for targets
        longer than the decoder's table of positions.
    """

    encoder: BertConfig
    decoder: BertConfig
    vocabulary: Vocabulary
    max_length: int  # M, tokens of a target's text

    def __post_init__(self) -> None:
        require_integer_field(self, "max_length", *POSITIVE)
        room = self.decoder.context_length - ENDS
        if self.max_length > room:
            raise InputError(
                f"max_length = {self.max_length}: the model has positions for texts of {room} "
                "tokens, give at most that"
            )
        if self.encoder.hidden_size != self.decoder.hidden_size:
            raise InputError(
                f"an encoder of width {self.encoder.hidden_size} and a decoder of width "
                f"{self.decoder.hidden_size}: make them of one masked language model"
            )

    @property
    def max_source_length(self) -> int:
        """The most tokens of a source's text."""
        return self.encoder.context_length - ENDS

    def init(self, key: jax.Array) -> dict:
        """Random parameters of all parts; the cross-attentions and the length's add nothing yet."""
        first, second = jax.random.split(key)
        encoder = init_params(Bert(self.encoder), first)
        decoder = init_params(Bert(self.decoder, cross_attention=True), second)
        return self.joined(encoder, decoder)

    def joined(self, encoder: dict, decoder: dict) -> dict:
        """The parameters of a denoiser of those of two models; all lengths are equally likely."""
        D, dtype = self.encoder.hidden_size, self.encoder.param_dtype
        offsets = self.max_length + self.max_source_length - 1
        length = {"kernel": jnp.zeros((D, offsets), dtype), "bias": jnp.zeros(offsets, dtype)}
        encoder = {name: part for name, part in encoder.items() if name != "head"}
        return {"encoder": encoder, "decoder": decoder, "length": length}

    def encode(self, params: Any, tokens: jax.Array, length: jax.Array) -> Context:
        """Reads sources, int32 [B, S], of so many tokens each, int32 [B]."""
        mask = _inside(tokens, length)
        states = Bert(self.encoder).apply({"params": params["encoder"]}, tokens, mask)
        return Context(jnp.asarray(states), mask)

    def logits(
        self, params: Any, tokens: jax.Array, length: jax.Array, context: Context | None
    ) -> jax.Array:
        """Predicts every token of targets from all others and the source.

        Args:
          params: of the denoiser.
          tokens: int32 [B, T], the ends included.
          length: int32 [B], tokens of each.
          context: of the sources; None: the decoder attends to nothing.

        Returns:
          float32 [B, T, V]; ids that are no text have -1e30.
        """
        model = Bert(self.decoder, cross_attention=True)
        mask = _inside(tokens, length)
        return _logits(model, self.vocabulary, params["decoder"], tokens, mask, context)

    def length_log_probs(self, params: Any, context: Context) -> jax.Array:
        """Log-probabilities of the lengths 1 to M of a target's text, float32 [B, M] nats."""
        own = jax.tree.map(all_gather_param, params["length"])
        seen = context.mask[..., None]
        count = context.mask.sum(-1)
        states = jnp.where(seen, context.states, 0).astype(jnp.float32)
        mean = states.sum(1) / count[:, None]
        scores = mean @ own["kernel"].astype(jnp.float32) + own["bias"].astype(jnp.float32)[None]
        source = jnp.maximum(count - ENDS, 1)
        lengths = 1 + jnp.arange(self.max_length)[None]
        place = lengths - source[:, None] + self.max_source_length - 1
        return jax.nn.log_softmax(jnp.take_along_axis(scores, place, 1))


def from_masked(masked: MaskedModel, parts: Parts | None = None) -> tuple[Denoiser, dict]:
    """Makes a denoiser of a masked language model.

    Args:
      masked: the masked language model.
      parts: what of it; `Parts()`, all of it, by default.

    Returns:
      The denoiser and its parameters.

    Raises:
      InputError: for more layers than the model has, and for targets longer than its positions.
    """
    parts, config = parts or Parts(), masked.model.config
    encoder, of_encoder = _first_layers(masked, "encoder_layers", parts.encoder_layers)
    decoder, of_decoder = _first_layers(masked, "decoder_layers", parts.decoder_layers)
    length = config.context_length - ENDS if parts.max_length is None else parts.max_length
    denoiser = Denoiser(encoder, decoder, vocabulary_of(masked), length)
    return denoiser, denoiser.joined(of_encoder, with_cross_attention(of_decoder, decoder))


def _first_layers(masked: MaskedModel, name: str, layers: int | None) -> tuple[BertConfig, dict]:
    """The sizes and parameters of a model without its upper layers."""
    config = masked.model.config
    there = config.num_hidden_layers
    layers = there if layers is None else layers
    if layers > there:
        raise InputError(
            f"{name} = {layers}: the masked language model has {there}, give at most that"
        )
    upper = {f"layer_{number}" for number in range(layers, there)}
    kept = {part: value for part, value in masked.params.items() if part not in upper}
    return dataclasses.replace(config, num_hidden_layers=layers), kept


def _inside(tokens: jax.Array, length: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1) < length[:, None]


def _logits(
    model: Bert,
    vocabulary: Vocabulary,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array,
    context: Context | None,
    widths: Sequence[int] | None = None,
) -> jax.Array:
    variables = {"params": params}
    hidden = model.apply(variables, tokens, mask, context, widths)
    logits = model.apply(variables, hidden, method="vocabulary_logits")
    return vocabulary.text_logits(jnp.asarray(logits))
