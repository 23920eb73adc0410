"""How a token is drawn from logits: greedy, temperature, top-k, top-p; V logits are never sorted.

B rows, V vocabulary, K candidates (V, or top_k).
"""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.ops.blocks import block_reduce
from dinado_jax.utils.arguments import require_integer_field, require_number_field

_BLOCK = 256
# Colder or hotter ones draw as these do, whose arithmetic no float32 logit takes out of range.
_COLDEST, _HOTTEST = 1e-30, 1e30


@dataclasses.dataclass(frozen=True)
class Method:
    """Temperature first, then top-k, then the nucleus within the k (static: hashable)."""

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

        Returns tokens [B] int32 and their log-probability [B] (nats) under the distribution they
        were really drawn from, truncation and temperature included. A token is always in [0, V). A
        row from which nothing can be drawn, because its largest logit is nan or infinite (that of
        a row of -inf is), has the log-probability nan.
        """
        if self.temperature == 0:
            token = logits.argmax(-1)
            most = jnp.take_along_axis(logits, token[:, None], 1)[:, 0]
            return token.astype(jnp.int32), jnp.where(jnp.isfinite(most), 0, jnp.float32(jnp.nan))
        most = logits.max(-1, keepdims=True)
        index = None
        if 0 < self.top_k < logits.shape[-1]:
            logits, index = jax.lax.top_k(logits, self.top_k)
        # Differences first: the largest score is 0 at any temperature.
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
    """The largest t with sum(probs[probs >= t]) >= top_p, per row: [B, K] -> [B, 1].

    A binary search over the bits of t (positive floats sort like their bit patterns) instead of a
    sort: exact, 31 sums. Tokens tied at the threshold all stay.
    """

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
    """Of softmax(scores) the first index whose cumulative probability exceeds uniform, and its
    log-probability: [B, K], [B] -> [B], [B]. The largest score of a row is about 0.

    One random number per row instead of one per token, and no array of probabilities: sums of
    blocks, then cumulative sums inside the chosen one, which also keeps rounding small. An index of
    probability 0 is never chosen, and none outside [0, K) whatever the scores.
    """
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

    Cumulative sums that a compiler rounds by parts may fall, or rise where nothing was added:
    counting those that are not beyond could end at a weight of 0, or behind the last.
    """
    return jnp.where(beyond & (weights > 0), jnp.inf, order).argmax(-1, keepdims=True)
