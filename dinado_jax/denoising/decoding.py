"""Texts by denoising: the likeliest lengths, random tokens, and a few parallel steps.

A text begins as uniformly random tokens of a length that the length head gives it. Each of N steps
computes the distribution of every position at once, given all others, and draws some of them again:

    first step       all positions, for the start says nothing
    steps between    a share of each text's positions
    last step        all positions, the likeliest token of each

The steps are one compiled scan, so that the number of passes does not depend on the lengths.
Low temperatures, ten steps or so and several lengths are the paper's (arXiv 2112.06749); which
positions are drawn again, of the two ways here, and the score were chosen here.

Shapes: B rows, K candidates of each, R = B K, T tokens, S of a source, N steps, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dinado_jax.decoding.methods import Method
from dinado_jax.denoising.corruption import random_tokens
from dinado_jax.denoising.model import Context, Denoiser
from dinado_jax.denoising.noise import fold_in, uniforms
from dinado_jax.denoising.objective import draw
from dinado_jax.denoising.settings import Decoding


class Lengths(NamedTuple):
    """What is known of a prompt's texts before they are written."""

    context: Context  # of the sources
    lengths: jax.Array  # int32 [B, K], tokens of each text, the likeliest length first
    log_probs: jax.Array  # float32 [B, K] nats


class Drawn(NamedTuple):
    """Texts of R rows."""

    tokens: jax.Array  # int32 [R, T], between the begin and the end token
    # float32 [N, R] nats: of what a step leaves, summed over a text's tokens, under the
    # distributions (of temperature 1) that it computed. The last is the score of a text.
    log_probs: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def choose_lengths(
    denoiser: Denoiser, decoding: Decoding, params: Any, source: jax.Array, length: jax.Array
) -> Lengths:
    """Reads sources and chooses the lengths of their texts.

    Args:
      denoiser: the model.
      decoding: of whose `candidates` there are at most as many lengths as the denoiser writes.
      params: of the denoiser.
      source: int32 [B, S].
      length: int32 [B], tokens of each.
    """
    context = denoiser.encode(params, source, length)
    log_probs, index = jax.lax.top_k(denoiser.length_log_probs(params, context), decoding.lengths)
    repeat = functools.partial(jnp.repeat, repeats=decoding.samples, axis=1)
    return Lengths(context, repeat(index + 1), repeat(log_probs))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def denoise(
    denoiser: Denoiser,
    decoding: Decoding,
    width: int,
    params: Any,
    found: Lengths,
    keys: jax.Array,
) -> Drawn:
    """Writes the candidates of B prompts, row by row: R = B K of them.

    A row depends neither on the other rows nor on the width, up to rounding.

    Args:
      denoiser: the model.
      decoding: how.
      width: T, at least the longest length and 2.
      params: of the denoiser.
      found: by `choose_lengths`.
      keys: [B], of each prompt.
    """
    K, vocabulary = decoding.candidates, denoiser.vocabulary
    context = jax.tree.map(lambda x: jnp.repeat(x, K, 0), found.context)
    total = found.lengths.reshape(-1) + 2
    own = jax.vmap(lambda key: jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(K)))
    keys = own(keys).reshape(-1)
    column = jnp.arange(width)[None]
    text = (column > 0) & (column < total[:, None] - 1)
    ends = jnp.where(column == 0, vocabulary.begin_id, vocabulary.pad_id)
    ends = jnp.where(column == total[:, None] - 1, vocabulary.end_id, ends)
    start = jnp.where(text, random_tokens(vocabulary, fold_in(keys, 0), width), ends)

    def drawn(logits: jax.Array, keys: jax.Array) -> jax.Array:
        return draw(Method(decoding.temperature), logits, keys)[0]

    def step(tokens: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = denoiser.logits(params, tokens, total, context)
        last, own = number == decoding.steps, fold_in(keys, number)
        proposed = jax.lax.cond(last, _likeliest, drawn, logits, fold_in(own, 0))
        log_probs = jax.nn.log_softmax(logits)
        again = text
        if decoding.share < 1:
            chosen = _chosen(decoding, log_probs, tokens, text, fold_in(own, 1))
            again &= chosen | (number == 1) | last
        tokens = jnp.where(again, proposed, tokens)
        return tokens, jnp.where(text, _at(log_probs, tokens), 0).sum(-1)

    tokens, log_probs = jax.lax.scan(step, start, jnp.arange(1, decoding.steps + 1))
    return Drawn(tokens, log_probs)


def _likeliest(logits: jax.Array, keys: jax.Array) -> jax.Array:
    return logits.argmax(-1).astype(jnp.int32)


def _chosen(
    decoding: Decoding, log_probs: jax.Array, tokens: jax.Array, text: jax.Array, keys: jax.Array
) -> jax.Array:
    """The positions that a step between draws again: that share of each text, rounded up, bool
    [R, T].
    """
    if decoding.order == "random":
        value = uniforms(keys, tokens.shape[1])
    else:
        value = _at(log_probs, tokens)
    value = jnp.where(text, value, jnp.inf)
    rank = jnp.argsort(jnp.argsort(value, -1, stable=True), -1)
    wanted = jnp.ceil(decoding.share * text.sum(-1, keepdims=True)).astype(jnp.int32)
    return rank < wanted


def _at(log_probs: jax.Array, tokens: jax.Array) -> jax.Array:
    """Of each token: [R, T, V], [R, T] -> [R, T]."""
    return jnp.take_along_axis(log_probs, tokens[..., None], 2)[..., 0]
