"""Losses of a denoiser: SUNDAE's, that of the length, and a masked language model's.

SUNDAE (Savinov et al., arXiv 2112.06749): a corrupted text x0 is denoised to f(x0),
x1 ~ f(x0) is drawn without gradient, denoised in turn, and so on. The loss is the mean over these
unrolls of the cross-entropy of the whole text,

    L = 1/n sum_{k < n} -log f(y | x_k),    x_{k+1} ~ f(x_k)

so that the model learns to correct its own output. A masked language model is the special case
of a single unroll (n = 1) whose x0 has the mask token, scored where it has.

Shapes: B rows, T tokens of a target, S of a source, V vocabulary, M lengths.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dinado_jax.data.batch import Array
from dinado_jax.decoding.methods import Method
from dinado_jax.denoising.corruption import corrupt_at_random, masked_positions
from dinado_jax.denoising.model import Denoiser, MaskedLM, Text
from dinado_jax.denoising.noise import fold_in, row_keys, uniforms
from dinado_jax.objectives.sft import NoisyBatch
from dinado_jax.objectives.terms import Term

_LENGTH_WEIGHT = 0.1  # of the loss of lengths (nats per row) relative to that of tokens

LogitsOf = Callable[[jax.Array], jax.Array]  # tokens [B, T] -> float32 [B, T, V]


@struct.dataclass(kw_only=True)
class Pairs(NoisyBatch):
    """Targets with their sources, both between the begin and the end token."""

    source: Array  # int32 [B, S], right-padded
    source_length: Array  # int32 [B], tokens, those at the ends included


def text_positions(text: Text) -> jax.Array:
    """Marks the tokens of texts, without those at the ends: bool [B, T]."""
    column = jax.lax.broadcasted_iota(jnp.int32, text.tokens.shape, 1)
    return (column > 0) & (column < text.length[:, None] - 1)


def unrolled_nats(
    logits_of: LogitsOf,
    start_BT: jax.Array,
    target_BT: jax.Array,
    text_BT: jax.Array,
    keys_B: jax.Array,
    unrolls: int,
) -> jax.Array:
    """Computes the negative log-likelihood of each token, averaged over unrolls.

    Args:
      logits_of: the denoiser, of tokens [B, T].
      start_BT: int32, x0.
      target_BT: int32, y.
      text_BT: bool, the positions that are drawn again in x1, x2, ..; others stay.
      keys_B: a key of each row.
      unrolls: n, at least 1.

    Returns:
      float32 [B, T] nats.
    """
    tokens_BT, nats_BT = start_BT, jnp.zeros(start_BT.shape, jnp.float32)
    for number in range(unrolls):
        logits_BTV = logits_of(tokens_BT)
        nats_BT += _nats(logits_BTV, target_BT)
        if number + 1 < unrolls:
            drawn_BT, _ = draw(Method(), logits_BTV, fold_in(keys_B, number))
            tokens_BT = jnp.where(text_BT, drawn_BT, tokens_BT)
    return nats_BT / unrolls


def _nats(logits_BTV: jax.Array, target_BT: jax.Array) -> jax.Array:
    log_probs_BTV = jax.nn.log_softmax(logits_BTV)
    return -jnp.take_along_axis(log_probs_BTV, target_BT[..., None], 2)[..., 0]


def draw(method: Method, logits_BTV: jax.Array, keys_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws a token at each position, without gradient: int32 [B, T], and their log-probabilities
    under the distribution they were drawn from, float32 [B, T] nats.
    """
    (B, T, V), logits_BTV = logits_BTV.shape, jax.lax.stop_gradient(logits_BTV)
    uniform_N = uniforms(keys_B, T).reshape(-1)
    tokens_N, log_probs_N = method.draw(logits_BTV.reshape(-1, V), uniform_N)
    return tokens_N.reshape(B, T), log_probs_N.reshape(B, T)


def denoising_terms(
    denoiser: Denoiser, unrolls: int, params: Any, frozen: Any, batch: Pairs
) -> dict[str, Term]:
    """Computes SUNDAE's loss on a batch, summed over the tokens of its texts, and the cross-entropy
    of their lengths.

    Both reach the encoder. The length's weight, a tenth, was chosen here.

    Args:
      denoiser: the model.
      unrolls: n, at least 1.
      params: of the denoiser.
      frozen: not read.
      batch: pairs.
    """
    keys_B, text_BT = row_keys(batch.noise), text_positions(Text(batch.tokens, batch.length))
    context = denoiser.encode(params, batch.source, batch.source_length)

    def logits_of(tokens_BT: jax.Array) -> jax.Array:
        return denoiser.logits(params, tokens_BT, batch.length, context)

    start_BT = corrupt_at_random(denoiser.vocabulary, batch.tokens, text_BT, fold_in(keys_B, 0))
    draws_B = fold_in(keys_B, 1)
    nats_BT = unrolled_nats(logits_of, start_BT, batch.tokens, text_BT, draws_B, unrolls)
    lengths_BM = denoiser.length_log_probs(params, context)
    chosen_B = jnp.take_along_axis(lengths_BM, batch.length[:, None] - 3, 1)[:, 0]
    tokens = text_BT.sum().astype(jnp.float32)
    rows = jnp.float32(len(chosen_B))
    return {
        "nll": Term(jnp.where(text_BT, nats_BT, 0).sum(), tokens),
        "length_nll": Term(-chosen_B.sum(), rows, _LENGTH_WEIGHT),
    }


def masked_terms(
    model: MaskedLM, rate: float, params: Any, frozen: Any, batch: NoisyBatch
) -> dict[str, Term]:
    """Computes the loss of a masked language model: one unroll from masked tokens, scored where
    they are. Every chosen token is masked, as a denoiser's are all random; BERT leaves a tenth as
    they are and makes a tenth random. Pairs are one row each, and tokens of both sides are masked.

    Args:
      model: the masked language model.
      rate: share of tokens that are masked.
      params: of the model.
      frozen: not read.
      batch: texts between the begin and the end token, or `Pairs`.
    """
    keys_B, texts = row_keys(batch.noise), [Text(batch.tokens, batch.length)]
    if isinstance(batch, Pairs):
        texts.append(Text(batch.source, batch.source_length))
    shown, chosen = [], []
    for number, text in enumerate(texts):
        masked_BT = masked_positions(rate, text_positions(text), fold_in(keys_B, number))
        tokens_BT = jnp.where(masked_BT, model.vocabulary.mask_id, text.tokens)
        shown.append(Text(tokens_BT, text.length))
        chosen.append(masked_BT)
    chosen_BT = jnp.concatenate(chosen, 1)
    target_BT = jnp.concatenate([text.tokens for text in texts], 1)
    nats_BT = _nats(model.logits(params, *shown), target_BT)
    nats = jnp.where(chosen_BT, nats_BT, 0).sum()
    return {"nll": Term(nats, chosen_BT.sum().astype(jnp.float32))}
