"""Keys and values of what rows have seen: prompts, shared by samples, then tokens of their own.

B prompts, S samples of each, R = B S rows, H heads, K head width, L layers. A row's heads lie in
the leading axis, beside its slots: no product over them needs a copy first.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

_SEGMENT = 64  # slots of the rows' own that open first


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
    own: tuple[Segment, ...] = ()  # the rows' own, full but for the last
    ahead: tuple[Segment, ...] = ()  # not yet open
    count: jax.Array | int = 0  # int32, tokens in `own`

    @property
    def positions(self) -> jax.Array:
        """[R, 1] int32: where each row's next token stands."""
        samples = self.own[-1][0].k.shape[0] // self.prompt[0].k.shape[0]
        return jnp.repeat(self.lengths, samples)[:, None] + self.count

    def layer(self, index: int) -> "Past":
        """What one layer attends to and writes into."""
        own = tuple(segment[index] for segment in self.own)
        slot = self.count - sum(kv.k.shape[1] for kv in own[:-1])
        return Past(self.prompt[index], own, self.lengths, slot)

    def written(self, newest: Segment) -> "Cache":
        """After one more token of every row, with the last open segment as its layers left it."""
        return self.replace(own=(*self.own[:-1], newest), count=self.count + 1)


class Past(NamedTuple):
    """One layer of a cache."""

    prompt: KV
    own: tuple[KV, ...]
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


def prepared(cache: Cache, lengths: jax.Array, samples: int, steps: int) -> Cache:
    """The cache of a prefill, with room for `steps` tokens of `samples` rows a prompt."""

    def empty(layer, slots):
        heads, _, width = layer.k.shape
        zeros = jnp.zeros((samples * heads, slots, width), layer.k.dtype)
        return KV(zeros, zeros)

    ahead = tuple(tuple(empty(layer, slots) for layer in cache.prompt) for slots in _sizes(steps))
    return Cache(cache.prompt, lengths, (), ahead, jnp.zeros((), jnp.int32))


def _is_cache(leaf: Any) -> bool:
    return isinstance(leaf, Cache)


def scan(step: Callable, state: Any, steps: int) -> tuple[Any, Any]:
    """`lax.scan` of step(state, index), index 0 .. steps - 1, with one token a step written into
    every cache in the state: their segments open one after another."""

    def open_next(leaf):
        if not _is_cache(leaf):
            return leaf
        return leaf.replace(own=(*leaf.own, leaf.ahead[0]), ahead=leaf.ahead[1:])

    outs, first = [], 0
    for slots in _sizes(steps):
        state = jax.tree.map(open_next, state, is_leaf=_is_cache)
        indices = jnp.arange(first, min(first + slots, steps), dtype=jnp.int32)
        state, out = jax.lax.scan(step, state, indices)
        outs.append(out)
        first += slots
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs)


def when(wanted: jax.Array, change: Callable, state: Any) -> Any:
    """change(state) if wanted, else state. A loop of at most one round: in place, as `lax.cond`,
    which copies the caches, is not."""
    begun = wanted, state
    return jax.lax.while_loop(
        lambda it: it[0], lambda it: (jnp.bool_(False), change(it[1])), begun
    )[1]


def chosen(tree: Any, rows: jax.Array) -> Any:
    """A tree of arrays [R, ..] and caches, each row replaced by the one `rows` [R] names: another
    of the same prompt."""

    def of_rows(x):
        return x[rows]

    def of_heads(x):
        return x.reshape(len(rows), -1, *x.shape[1:])[rows].reshape(x.shape)

    def change(leaf):
        if not _is_cache(leaf):
            return of_rows(leaf)
        return leaf.replace(own=jax.tree.map(of_heads, leaf.own))

    return jax.tree.map(change, tree, is_leaf=_is_cache)


def flat(x: jax.Array) -> jax.Array:
    """Heads beside their rows: [B, T, H, K] -> [B H, T, K]."""
    B, T, H, K = x.shape
    return x.swapaxes(1, 2).reshape(B * H, T, K)


def attend(q: jax.Array, new: KV, past: Past) -> tuple[jax.Array, KV]:
    """One new token a row, which sees its prompt, its own tokens and itself.

    q and new: [R H, 1, K]. Returns the attended values [R H, 1, K] and the last segment with the
    token written.
    """
    prompt, own, lengths, slot = past
    newest = KV(*(jax.lax.dynamic_update_slice_in_dim(x, n, slot, 1) for x, n in zip(own[-1], new)))
    own = (*own[:-1], newest)
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
    parts += [scores(q, segment.k) for segment in own]
    filled = jnp.arange(newest.k.shape[1])[None, None] <= slot
    parts[-1] = jnp.where(filled, parts[-1], -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate(parts, axis=-1))
    starts = itertools.accumulate((segment.k.shape[1] for segment in own[:-1]), initial=T)
    of_prompt, *of_own = jnp.split(weights, list(starts), axis=-1)
    out = by_row(mixed(by_prompt(of_prompt), prompt.v))
    out += sum(mixed(part, segment.v) for part, segment in zip(of_own, own))
    return out.astype(q.dtype), newest
