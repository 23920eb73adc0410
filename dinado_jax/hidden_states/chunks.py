"""Hidden-state optimisation (Yoshida and Gimpel, arXiv 2112.08653): a text is read in chunks, and
what it has been read so far improves the cache with which the rest is predicted.

For each chunk of C tokens, in order:

    1. its targets are scored, given the cache as it is;
    2. g = d nats(chunk) / d (cached keys and values, the chunk's own among them);
    3. one step of Adam along -g on all of these (adam.py);
    4. the next chunk reads the updated cache.

A target is scored before it has a part in any gradient, so that scores stay log-probabilities of a
proper language model. Weights do not change.

A cache is as long as a window of the text, at most the model's context, and the next window starts
with an empty one. Learned positions have no place beyond the context. Rotary ones have, but a cache
whose first tokens are dropped is not what a model was trained with, and predicts badly (Xiao et
al., arXiv 2309.17453): windows are the same for all models, with updates and without.

B windows side by side, N chunks of C tokens, S = N C slots.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from dinado_jax.hidden_states.adam import adam_step, init_moments
from dinado_jax.models.cache import Cache, Segment, empty_prompts
from dinado_jax.models.protocol import Model
from dinado_jax.ops.vocab import token_log_probs


class Windows(NamedTuple):
    """What is read, and what each token predicts."""

    tokens: jax.Array  # int32 [B, S]
    targets: jax.Array  # int32 [B, S], the token after each
    counted: jax.Array  # bool [B, S], whether a target is scored, and in the loss


@functools.partial(jax.jit, static_argnames=("model", "chunk"))
def read_in_chunks(
    model: Model, params: Any, windows: Windows, step_size: jax.Array | float | None, chunk: int
) -> tuple[jax.Array, Cache]:
    """Scores windows chunk by chunk, and updates the cache after each.

    The loss of a chunk is the sum of its nats, per window: Adam does not see its scale. In 16 bits
    steps smaller than the rounding of the cache are lost.

    Args:
      model: a language model.
      params: of it.
      windows: to read.
      step_size: of Adam; None for no updates, which 0 equals at the cost of gradients.
      chunk: C, which divides S.

    Returns:
      Log-probabilities of the targets, float32 [B, S] nats, 0 where not counted; and the cache
      after the last chunk's update.
    """
    B, S = windows.tokens.shape
    chex.assert_equal_shape(windows)
    chex.assert_is_divisible(S, chunk)
    shapes = jax.eval_shape(model.apply, {"params": params}, windows.tokens[:, :chunk]).cache
    cache = empty_prompts(shapes, S)
    moments = None if step_size is None else init_moments(cache.prompt)

    def read(state: tuple[Cache, Any], part: Windows) -> tuple[tuple[Cache, Any], jax.Array]:
        cache, moments = state
        if step_size is None:
            log_probs, cache = score_chunk(model, params, part, cache)
            return (cache, moments), log_probs
        gradient, log_probs, cache = gradient_of_chunk(model, params, part, cache)
        # Momentum would go on in chunks of nothing but padding.
        size = jnp.where(part.counted.any(), step_size, 0.0)
        prompt, moments = adam_step(cache.prompt, gradient, moments, cache.lengths[0], size)
        return (dataclasses.replace(cache, prompt=prompt), moments), log_probs

    chunks = jax.tree.map(lambda x: x.reshape(B, -1, chunk).swapaxes(0, 1), windows)
    (cache, _), log_probs = jax.lax.scan(read, (cache, moments), chunks)
    return log_probs.swapaxes(0, 1).reshape(B, S), cache


def score_chunk(model: Model, params: Any, part: Windows, cache: Cache) -> tuple[jax.Array, Cache]:
    """Scores one chunk [B, C] after what is cached.

    Returns:
      Log-probabilities of its targets, float32 [B, C] nats, 0 where not counted; and the cache with
      the chunk's keys and values.
    """
    out = model.apply({"params": params}, part.tokens, cache)
    factors = (out.hidden, out.vocabulary, part.targets)
    log_probs = token_log_probs(*factors, excluded_ids=model.excluded_ids)
    return jnp.where(part.counted, log_probs, 0.0), out.cache


def gradient_of_chunk(
    model: Model, params: Any, part: Windows, cache: Cache
) -> tuple[Segment, jax.Array, Cache]:
    """As `score_chunk`, and first the gradient of the chunk's nats by all keys and values: those
    cached, and the chunk's own, each of which acts on the layers above it too.
    """

    def nats(prompt: Segment) -> tuple[jax.Array, tuple[jax.Array, Cache]]:
        given = dataclasses.replace(cache, prompt=prompt)
        log_probs, read = score_chunk(model, params, part, given)
        return -log_probs.sum(), (log_probs, read)

    # The chunk's own are added to slots of the cache, so that its slots have their gradient.
    gradient, (log_probs, read) = jax.grad(nats, has_aux=True)(cache.prompt)
    return gradient, log_probs, read
