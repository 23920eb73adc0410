"""Dropout in training: noise of mean 1 on activations, at sites that each have a rate of their own.

A third collection, "dropout", holds the noise of a call under the paths of its sites, as in
{"h_0": {"attn": {"probs": Noise}}}. A site that it lacks, and every site of a call without the
collection, adds nothing to the program: evaluation and decoding never pass one.

Shapes: B rows, T tokens, H key/value heads, G query heads for each, K head width.
"""

import dataclasses
import math
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from dinado_jax.models.params import nested

_LEVELS = 256  # of a rate: a mask's value takes a byte
LEAST_RATE = 1 / _LEVELS


@struct.dataclass
class Noise:
    """The factors of one site: Bernoulli, 0 at the rate p and 1 / (1 - p) else (Srivastava et al.,
    JMLR 2014), with p a multiple of 1/256; or normal with the same mean 1 and variance p / (1 - p)
    (section 10 there).
    """

    keys: jax.Array  # [B] typed PRNG keys, one for each row: devices may hold any part of them
    rate: float | jax.Array  # p in [0, 1)
    gaussian: bool = struct.field(pytree_node=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, ...] times independent factors, in the dtype of x."""

        def factors(key: jax.Array) -> jax.Array:
            if self.gaussian:
                deviation = (self.rate / (1 - self.rate)) ** 0.5
                return 1 + deviation * jax.random.normal(key, x.shape[1:])
            return _kept(key, self.rate, x.shape[1:])

        return (x * jax.vmap(factors)(self.keys)).astype(x.dtype)


def _kept(key: jax.Array, rate: float | jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Bernoulli factors of mean 1, float32 of a shape."""
    dropped = jnp.clip(jnp.round(rate * _LEVELS), 0, _LEVELS - 1).astype(jnp.uint32)
    # Four values of each word, by shifts: random words are most of the work, and XLA is slow to
    # split them into uint8.
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 4), 1))
    levels = (words >> jnp.arange(0, 32, 8, dtype=jnp.uint32)[None]) & (_LEVELS - 1)
    kept = (levels >= dropped).reshape(-1)[:size].reshape(shape)
    return kept * (_LEVELS / (_LEVELS - dropped.astype(jnp.float32)))


@dataclasses.dataclass(frozen=True)
class Dropout:
    """The rates of a model's sites, by path. Static and hashable."""

    rates: tuple[tuple[str, float], ...]  # of `BaseModel.dropout_sites`, each in [0, 1)
    gaussian: bool = False

    def noise(self, seeds: jax.Array) -> dict:
        """The collection "dropout" of a call.

        Args:
          seeds: [B, 2] uint32, of each row in this step. Every site draws from a key of its own.
        """
        rows = jax.random.wrap_key_data(seeds, impl="threefry2x32")
        at_site = jax.vmap(jax.random.fold_in, (0, None))
        noise = {
            site: Noise(at_site(rows, number), rate, self.gaussian)
            for number, (site, rate) in enumerate(self.rates)
            if rate
        }
        return nested(noise)


def uniform(sites: Iterable[str], rate: float, gaussian: bool = False) -> Dropout:
    """The same rate, in [0, 1), at all sites."""
    return Dropout(tuple((site, rate) for site in sites), gaussian)


def dropout(module: nn.Module, site: str, x: jax.Array) -> jax.Array:
    """x [B, ...] with the noise of a site of this module, if the call has any."""
    noise = noise_at(module, site)
    return x if noise is None else noise(x)


def noise_at(module: nn.Module, site: str) -> Noise | None:
    """The noise of a site of this module; None if the call has none."""
    return module.get_variable("dropout", site)


def noisy_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, noise: Noise, window: int | None = None
) -> jax.Array:
    """Causal attention with noise on its probabilities, which fused attention never shows.

    Args:
      q: [B, T, H G, K], the heads of a group side by side.
      k, v: [B, P + T, H, K], those of P positions before the T tokens first.
      noise: of the probabilities [B, H, G, T, P + T].
      window: tokens that a token sees, itself included; None for all.

    Returns:
      [B, T, H G, K].
    """
    B, S, H, K = k.shape
    T = q.shape[1]
    groups = q.reshape(B, T, H, -1, K)
    scores = jnp.einsum("bthgk,bshk->bhgts", groups, k, preferred_element_type=jnp.float32)
    back = jnp.arange(S - T, S)[:, None] - jnp.arange(S)[None]
    seen = (back >= 0) & (back < (S if window is None else window))
    scores = jnp.where(seen[None, None, None], scores * K**-0.5, -jnp.inf)
    probs = noise(jax.nn.softmax(scores)).astype(v.dtype)
    return jnp.einsum("bhgts,bshk->bthgk", probs, v).reshape(q.shape)
