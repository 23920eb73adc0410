"""Keys and values of what rows have seen: prompts, shared by samples, then tokens of their
generated.

B prompts, S samples of each, R = B S rows, H heads, K head width, L layers. A row's heads lie in
the leading axis, beside its slots: no product over them needs a copy first.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

_SEGMENT = 64  # slots of the rows' generated that open first


class KV(NamedTuple):
    """One layer's keys and values, each [B H, slots, K] or [R H, slots, K]."""

    k: jax.Array
    v: jax.Array


Segment = tuple[KV, ...]  # a KV for each layer


@flax.struct.dataclass
class Cache:
    """Rows write their tokens at the same slot, and attend to open segments only: a loop over many
    tokens opens them one after another, and pays for what is filled."""

    prompt: Segment  # right-padded
    lengths: jax.Array  # [B] int32 tokens of each prompt
    generated: tuple[Segment, ...] = ()  # the rows' generated, full except for the last
    reserved: tuple[Segment, ...] = ()  # not yet open
    count: jax.Array | int = 0  # int32, tokens in `generated`

    @property
    def positions(self) -> jax.Array:
        """[R, 1] int32: where each row's next token stands."""
        samples = self.generated[-1][0].k.shape[0] // self.prompt[0].k.shape[0]
        return jnp.repeat(self.lengths, samples)[:, None] + self.count

    def layer(self, index: int) -> "LayerCache":
        """What one layer attends to and writes into."""
        generated = tuple(segment[index] for segment in self.generated)
        slot = self.count - sum(kv.k.shape[1] for kv in generated[:-1])
        return LayerCache(self.prompt[index], generated, self.lengths, slot)

    def append(self, newest: Segment) -> "Cache":
        """After one more token of every row, with the last open segment as its layers left it."""
        return self.replace(generated=(*self.generated[:-1], newest), count=self.count + 1)


class LayerCache(NamedTuple):
    """One layer of a cache."""

    prompt: KV
    generated: tuple[KV, ...]
    lengths: jax.Array  # [B]
    slot: jax.Array  # int32, of the last segment: where the next token goes


def _sizes(steps: int) -> list[int]:
    """The slots of each segment, every later one as many as there are before it: few loops to
    compile, at most half of the slots empty. One at least: a loop of no steps is traced too."""
    sizes, done = [], 0
    while done < max(1, steps):
        sizes.append(min(max(_SEGMENT, done), max(1, steps) - done))
        done += sizes[-1]
    return sizes


def allocate(cache: Cache, lengths: jax.Array, samples: int, steps: int) -> Cache:
    """The cache of a prefill, with room for `steps` tokens of `samples` rows per prompt."""

    def empty(layer, slots):
        heads, _, width = layer.k.shape
        zeros = jnp.zeros((samples * heads, slots, width), layer.k.dtype)
        return KV(zeros, zeros)

    reserved = tuple(
        tuple(empty(layer, slots) for layer in cache.prompt) for slots in _sizes(steps)
    )
    return Cache(cache.prompt, lengths, (), reserved, jnp.zeros((), jnp.int32))


def _is_cache(leaf: Any) -> bool:
    return isinstance(leaf, Cache)


def scan_steps(step: Callable, state: Any, steps: int) -> tuple[Any, Any]:
    """`lax.scan` of step(state, index), index 0 .. steps - 1, with one token per step written into
    every cache in the state: their segments open one after another."""

    def open_next(leaf):
        if not _is_cache(leaf):
            return leaf
        return leaf.replace(
            generated=(*leaf.generated, leaf.reserved[0]), reserved=leaf.reserved[1:]
        )

    outs, first = [], 0
    for slots in _sizes(steps):
        state = jax.tree.map(open_next, state, is_leaf=_is_cache)
        indices = jnp.arange(first, min(first + slots, steps), dtype=jnp.int32)
        state, out = jax.lax.scan(step, state, indices)
        outs.append(out)
        first += slots
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs)


def update_where(wanted: jax.Array, change: Callable, state: Any) -> Any:
    """change(state) if wanted, else state. A loop of at most one round: in place, as `lax.cond`,
    which copies the caches, is not."""
    begun = wanted, state
    return jax.lax.while_loop(
        lambda it: it[0], lambda it: (jnp.bool_(False), change(it[1])), begun
    )[1]


def reorder(tree: Any, rows: jax.Array) -> Any:
    """A tree of arrays [R, ..] and caches, each row replaced by the one `rows` [R] names: another
    of the same prompt."""

    def of_rows(x):
        return x[rows]

    def of_heads(x):
        return x.reshape(len(rows), -1, *x.shape[1:])[rows].reshape(x.shape)

    def change(leaf):
        if not _is_cache(leaf):
            return of_rows(leaf)
        return leaf.replace(generated=jax.tree.map(of_heads, leaf.generated))

    return jax.tree.map(change, tree, is_leaf=_is_cache)


def fold_heads(x: jax.Array) -> jax.Array:
    """Heads beside their rows: [B, T, H, K] -> [B H, T, K]."""
    B, T, H, K = x.shape
    return x.swapaxes(1, 2).reshape(B * H, T, K)


def attend(q: jax.Array, new: KV, past: LayerCache) -> tuple[jax.Array, KV]:
    """One new token per row, which sees its prompt, its generated tokens and itself.

    q and new: [R H, 1, K]. Returns the attended values [R H, 1, K] and the last segment with the
    token written.
    """
    prompt, generated, lengths, slot = past
    newest = KV(
        *(jax.lax.dynamic_update_slice_in_dim(x, n, slot, 1) for x, n in zip(generated[-1], new))
    )
    generated = (*generated[:-1], newest)
    B, (BH, T, K) = len(lengths), prompt.k.shape
    H, S = BH // B, len(q) // BH

    def by_prompt(x):
        """[R H, 1, n] -> [B H, S, n]: the samples of a prompt as one product."""
        return x.reshape(B, S, H, -1).swapaxes(1, 2).reshape(BH, S, -1)

    def by_row(x):
        return x.reshape(B, H, S, -1).swapaxes(1, 2).reshape(BH * S, 1, -1)

    def scores(q, k):
        return jnp.einsum("rtk,rsk->rts", q, k, preferred_element_type=jnp.float32) * K**-0.5

    def mixed(weights, v):
        weights = weights.astype(v.dtype)
        return jnp.einsum("rts,rsk->rtk", weights, v, preferred_element_type=jnp.float32)

    inside = jnp.arange(T)[None] < lengths[:, None]
    inside = jnp.repeat(inside, S * H, axis=0)[:, None]
    parts = [jnp.where(inside, by_row(scores(by_prompt(q), prompt.k)), -jnp.inf)]
    parts += [scores(q, segment.k) for segment in generated]
    filled = jnp.arange(newest.k.shape[1])[None, None] <= slot
    parts[-1] = jnp.where(filled, parts[-1], -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate(parts, axis=-1))
    starts = itertools.accumulate((segment.k.shape[1] for segment in generated[:-1]), initial=T)
    of_prompt, *of_own = jnp.split(weights, list(starts), axis=-1)
    out = by_row(mixed(by_prompt(of_prompt), prompt.v))
    out += sum(mixed(part, segment.v) for part, segment in zip(of_own, generated))
    return out.astype(q.dtype), newest
