"""Drawing a token from logits: greedy, temperature, top-k, top-p, without sorting V logits.

B rows, V vocabulary, K candidates (V, or top_k).
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from dinado_jax.ops.blocks import block_reduce
from dinado_jax.utils.arguments import require_integer_field, require_number_field

_BLOCK = 256
# Temperatures outside draw as these: with them no float32 logit overflows.
_COLDEST, _HOTTEST = 1e-30, 1e30


@dataclasses.dataclass(frozen=True)
class Method:
    """Temperature first, then top-k, then the nucleus within the k. Static and hashable."""

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0

    def __post_init__(self):
        require_number_field(self, "temperature", "0 (greedy) or more, finite", lambda x: x >= 0)
        require_integer_field(self, "top_k", "0 (off) or more", lambda x: x >= 0)
        require_number_field(self, "top_p", "in (0, 1]", lambda x: 0 < x <= 1)

    def draw(self, logits: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws one token per row.

        Args:
          logits: [B, V] float32.
          uniform: [B] float32 in [0, 1), one random number per row.

        Returns:
          Tokens int32 [B], always in [0, V), and their log-probabilities float32 [B] nats under the
          distribution they were drawn from, truncation and temperature included; nan for a row
          from which nothing can be drawn, because its largest logit is nan or infinite (as in a row
          of -inf).
        """
        chex.assert_rank([logits, uniform], [2, 1])
        chex.assert_type([logits, uniform], jnp.float32)
        if self.temperature == 0:
            token = logits.argmax(-1)
            most = jnp.take_along_axis(logits, token[:, None], 1)[:, 0]
            return token.astype(jnp.int32), jnp.where(jnp.isfinite(most), 0, jnp.float32(jnp.nan))
        most = logits.max(-1, keepdims=True)
        index = None
        if 0 < self.top_k < logits.shape[-1]:
            logits, index = jax.lax.top_k(logits, self.top_k)
        # Subtracted before the division: the largest score is 0 at any temperature.
        scores = (logits - most) / min(max(self.temperature, _COLDEST), _HOTTEST)
        if self.top_p < 1:
            probs = jax.nn.softmax(scores)
            kept = (probs >= nucleus_threshold(probs, self.top_p)) | (scores == 0)
            scores = jnp.where(kept, scores, -jnp.inf)
        chosen, log_prob = inverse_cdf(scores, uniform)
        if index is not None:
            chosen = jnp.take_along_axis(index, chosen[:, None], 1)[:, 0]
        log_prob = jnp.where(jnp.isfinite(most[:, 0]), log_prob, jnp.nan)
        return chosen.astype(jnp.int32), log_prob


def nucleus_threshold(probs: jax.Array, top_p: float) -> jax.Array:
    """Finds the largest t with sum(probs[probs >= t]) >= top_p.

    A binary search over the bits of t (positive floats sort like their bit patterns) instead of a
    sort: exact, 31 sums. Tokens tied at the threshold all stay.

    Args:
      probs: float32 [B, K].
      top_p: in (0, 1).

    Returns:
      float32 [B, 1].
    """
    chex.assert_rank(probs, 2)
    chex.assert_type(probs, jnp.float32)

    def narrow(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        t = jax.lax.bitcast_convert_type(middle, jnp.float32)
        enough = jnp.where(probs >= t, probs, 0).sum(-1, keepdims=True) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    zeros = jnp.zeros((probs.shape[0], 1), jnp.int32)
    above_one = jax.lax.bitcast_convert_type(jnp.float32(1.5), jnp.int32)
    low, _ = jax.lax.fori_loop(0, 31, narrow, (zeros, jnp.full_like(zeros, above_one)))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def inverse_cdf(scores: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the first index whose cumulative probability under softmax(scores) exceeds uniform.

    One random number per row instead of one per token, and no array of probabilities: sums of
    blocks, then cumulative sums inside the chosen one, which also keeps rounding small. An index of
    probability 0 is never chosen, and none outside [0, K) whatever the scores.

    Args:
      scores: float32 [B, K] nats, the largest of a row about 0.
      uniform: float32 [B] in [0, 1).

    Returns:
      The index int32 [B] and its log-probability float32 [B] nats.
    """
    chex.assert_rank([scores, uniform], [2, 1])
    chex.assert_equal_shape_prefix([scores, uniform], 1)
    K = scores.shape[-1]
    block = min(_BLOCK, K)
    sums = block_reduce(jnp.exp(scores), block, jax.lax.add, 0.0)
    upto = jnp.cumsum(sums, axis=-1)
    below_one = 1 - 2**-23
    target = jnp.minimum(uniform, below_one)[:, None] * upto[:, -1:]
    which = _first(upto > target, sums, sums)
    before = jnp.take_along_axis(upto - sums, which, 1)
    column = which * block + jnp.arange(block, dtype=jnp.int32)[None]
    inner = jnp.take_along_axis(scores, jnp.minimum(column, K - 1), 1)
    inner = jnp.where(column < K, inner, -jnp.inf)
    weights = jnp.exp(inner)
    within = jnp.cumsum(weights, axis=-1)
    # Rounding may put the target a little outside its block.
    inside = jnp.clip(target - before, 0, within[:, -1:] * below_one)
    place = _first(within > inside, weights, inner)
    score = jnp.take_along_axis(inner, place, 1)
    return (which * block + place)[:, 0], (score - jnp.log(upto[:, -1:]))[:, 0]


def _first(beyond: jax.Array, weights: jax.Array, order: jax.Array) -> jax.Array:
    """The first index that is beyond and has weight; where rounding leaves none, the largest in
    order: [B, n] each -> [B, 1].

    A compiler may sum in parts, so that cumulative sums fall, or rise where nothing was added:
    counting the indices that are not beyond could end at a weight of 0, or past the last one.
    """
    return jnp.where(beyond & (weights > 0), jnp.inf, order).argmax(-1, keepdims=True)
