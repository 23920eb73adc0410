"""How a token is drawn from logits: greedy, temperature, top-k, top-p; V logits are never sorted.

B rows, V vocabulary, K candidates (V, or top_k).
"""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.errors import InputError
from dinado_jax.ops.blocks import by_blocks

_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Method:
    """Temperature first, then top-k, then the nucleus within the k (static: hashable)."""

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0:  # nan is neither
            raise InputError(f"temperature = {self.temperature}: it must be 0 (greedy) or more")
        if self.top_k < 0:
            raise InputError(f"top_k = {self.top_k}: it must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p = {self.top_p}: it must lie in (0, 1]")

    def draw(self, logits: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws one token a row.

        Args:
          logits: [B, V] float32.
          uniform: [B] float32 in [0, 1), one random number a row.

        Returns tokens [B] int32 and their log-probability [B] (nats) under the distribution they
        were really drawn from, truncation and temperature included.
        """
        if self.temperature == 0:
            return logits.argmax(-1).astype(jnp.int32), jnp.zeros_like(uniform)
        scores = logits / self.temperature
        index = None
        if 0 < self.top_k < logits.shape[-1]:
            scores, index = jax.lax.top_k(scores, self.top_k)
        if self.top_p < 1:
            probs = jax.nn.softmax(scores)
            scores = jnp.where(probs >= nucleus_threshold(probs, self.top_p), scores, -jnp.inf)
        chosen, log_prob = inverse_cdf(scores, uniform)
        if index is not None:
            chosen = jnp.take_along_axis(index, chosen[:, None], 1)[:, 0]
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
    log-probability: [B, K], [B] -> [B], [B].

    One random number a row instead of one a token, and no array of probabilities: sums of blocks,
    then cumulative sums inside the chosen one, which also keeps rounding small. An index of
    probability 0 is never chosen.
    """
    K = scores.shape[-1]
    block = min(_BLOCK, K)
    most = scores.max(-1, keepdims=True)
    sums = by_blocks(jnp.exp(scores - most), block, jax.lax.add, 0.0)
    upto = jnp.cumsum(sums, axis=-1)
    below_one = 1 - 2**-23
    target = jnp.minimum(uniform, below_one)[:, None] * upto[:, -1:]
    which = (upto <= target).sum(-1)[:, None]
    before = jnp.take_along_axis(upto - sums, which, 1)
    column = which * block + jnp.arange(block)[None]
    inner = jnp.take_along_axis(scores, jnp.minimum(column, K - 1), 1)
    within = jnp.cumsum(jnp.where(column < K, jnp.exp(inner - most), 0), axis=-1)
    # Rounding may put the target a little outside its block.
    inside = jnp.clip(target - before, 0, within[:, -1:] * below_one)
    place = (within <= inside).sum(-1)[:, None]
    score = jnp.take_along_axis(inner, place, 1) - most
    return (which * block + place)[:, 0], (score - jnp.log(upto[:, -1:]))[:, 0]
