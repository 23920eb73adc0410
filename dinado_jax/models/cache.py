"""Keys and values of the tokens that rows have seen: of prompts, which samples share, and then of
each row's own generated tokens.

    prompt      shared by the samples of a prompt; right-padded, `lengths` tokens count
    generated   the open segments, full except the last one, which holds `count` minus their slots
    reserved    segments that are allocated and not yet open: nothing attends to them

For 2 prompts of 3 and 5 tokens, 2 samples each, segments of 4, 4 and 8 slots, after 6 new tokens
(p prompt, g generated, . padding or not yet written):

               prompt         generated               reserved
    row 0   +-----------+ +---------+---------+ +-----------------+
    row 1   | p p p . . | | g g g g | g g . . | | . . . . . . . . |
            +-----------+ |         |         | |                 |
    row 2   | p p p p p | | g g g g | g g . . | | . . . . . . . . |
    row 3   +-----------+ +---------+---------+ +-----------------+
                                          ^
                                   slot = count - 4, where every row's next token goes
    position of that token: lengths + count = 9 in rows 0 and 1, 11 in rows 2 and 3

Every row writes at the same slot, so that a step updates one slice of each array, in place. A loop
over many tokens opens segments one after another, and attends to those alone: it pays for what is
filled. Each size is a program of its own to compile, so later segments are as long as all before.

A prompt may also be read in chunks. A cache without generated segments whose padding holds zeros
(`empty_prompts`) takes T tokens at once, into the slots from `lengths` on:

                 before               after a chunk of 4 tokens
    row 0   | p p p . . . . . |     | p p p p p p p . |
    row 1   | p p . . . . . . |     | p p p p p p . . |

The new keys and values are added to what their slots hold. So the gradient of a loss by the arrays
of the cache that was given has those of the chunk's own keys and values in it.

Rows that start at different times (row_cache.py) have no shared slot: `count` is then one number
per row, and each row writes at a slot of its own in the one open segment.

B prompts, S samples of each, R = B S rows, T prompt slots, H key/value heads, G query heads for
each, K head width, L layers. A row's heads lie in the leading axis, beside its slots: no product
over them needs a copy first.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from dinado_jax.models.layers import causal_attention

SEGMENT = 64  # slots of the first segment


class KV(NamedTuple):
    """One layer's keys and values, each [B H, slots, K] or [R H, slots, K]."""

    k: jax.Array
    v: jax.Array


Segment = tuple[KV, ...]  # a KV for each layer


class LayerCache(NamedTuple):
    """One layer of a cache."""

    prompt: KV
    generated: tuple[KV, ...]
    lengths: jax.Array  # int32 [B]
    slot: jax.Array | int  # int32 [] or [R], of the last segment: where the next token goes


@struct.dataclass
class Cache:
    """Of all layers; see the picture above."""

    prompt: Segment  # right-padded
    lengths: jax.Array  # int32 [B], slots of each prompt that count: a prefix and its tokens
    generated: tuple[Segment, ...] = ()  # the open segments
    reserved: tuple[Segment, ...] = ()  # not yet open
    count: jax.Array | int = 0  # int32 [] or [R], tokens in `generated`
    # Of the slots of every prompt, and of `lengths`: those of the model's prefix, which come first.
    prefix: int = struct.field(pytree_node=False, default=0)
    first: int = struct.field(pytree_node=False, default=0)  # position of a row's first token

    def positions(self, tokens: int) -> jax.Array:
        """[R, tokens] int32: the positions of each row's next tokens."""
        rows = self.lengths
        if self.generated:
            samples = self.generated[-1][0].k.shape[0] // self.prompt[0].k.shape[0]
            rows = jnp.repeat(rows, samples) + self.count
        rows += self.first - self.prefix
        return rows[:, None] + jnp.arange(tokens, dtype=jnp.int32)[None]

    def layer(self, index: int) -> LayerCache:
        """What one layer attends to and writes into."""
        if not self.generated:
            return LayerCache(self.prompt[index], (), self.lengths, 0)
        generated = tuple(segment[index] for segment in self.generated)
        slot = self.count - sum(kv.k.shape[1] for kv in generated[:-1])
        return LayerCache(self.prompt[index], generated, self.lengths, slot)

    def append(self, newest: Segment, tokens: int = 1) -> "Cache":
        """The cache after `tokens` more of every row, with its last open segment, or its prompts if
        there is none, as its layers returned them.
        """
        if not self.generated:
            return dataclasses.replace(self, prompt=newest, lengths=self.lengths + tokens)
        generated = (*self.generated[:-1], newest)
        return dataclasses.replace(self, generated=generated, count=self.count + 1)

    def open_next(self) -> "Cache":
        """The cache with its next reserved segment open."""
        opened, *rest = self.reserved
        generated = (*self.generated, opened)
        return dataclasses.replace(self, generated=generated, reserved=tuple(rest))


def prefilled(presents: Sequence[KV], shape: tuple[int, int], prefix: int, first: int) -> Cache:
    """The cache of a prefill.

    Args:
      presents: of each layer.
      shape: rows, and tokens of each.
      prefix: slots ahead of them.
      first: position of the first token.
    """
    rows, length = shape
    lengths = jnp.full(rows, prefix + length, jnp.int32)
    return Cache(tuple(presents), lengths, prefix=prefix, first=first)


def empty_prompts(cache: Cache, slots: int) -> Cache:
    """Room for prompts that are read in chunks.

    Args:
      cache: of a prefill of B prompts, or its shapes.
      slots: T, tokens of the longest prompt.
    """

    def empty(x: jax.Array) -> jax.Array:
        return jnp.zeros((x.shape[0], slots, x.shape[2]), x.dtype)

    lengths = jnp.zeros(cache.lengths.shape, jnp.int32)
    return Cache(jax.tree.map(empty, cache.prompt), lengths)


def allocate(
    cache: Cache, lengths: jax.Array, samples: int, steps: int, segment: int = SEGMENT
) -> Cache:
    """Reserves room for generated tokens.

    Args:
      cache: of a prefill of B prompts.
      lengths: int32 [B], tokens of each prompt.
      samples: S, rows of each prompt.
      steps: tokens of each row.
      segment: slots of the first segment.
    """

    def empty(layer: KV, slots: int) -> KV:
        heads, _, width = layer.k.shape
        zeros = jnp.zeros((samples * heads, slots, width), layer.k.dtype)
        return KV(zeros, zeros)

    reserved = tuple(
        tuple(empty(layer, slots) for layer in cache.prompt) for slots in _sizes(steps, segment)
    )
    none, slots = jnp.zeros((), jnp.int32), lengths + cache.prefix
    return Cache(cache.prompt, slots, (), reserved, none, cache.prefix, cache.first)


def _sizes(steps: int, segment: int) -> list[int]:
    """The slots of each segment, every later one as many as there are before it: few loops to
    compile, at most half of the slots empty. One at least: a loop of no steps is traced too.
    """
    sizes, done = [], 0
    while done < max(1, steps):
        sizes.append(min(max(segment, done), max(1, steps) - done))
        done += sizes[-1]
    return sizes


def scan_steps(
    step: Callable[[Any, jax.Array], tuple[Any, Any]], state: Any, steps: int
) -> tuple[Any, Any]:
    """Runs `lax.scan` over steps that write one token into every cache of their state.

    Args:
      step: of (state, index), with index 0 .. steps - 1, to (state, output).
      state: a pytree; its caches are allocated, for at least `steps` tokens, and none is open yet.
      steps: tokens.

    Returns:
      The last state, and the outputs stacked along a leading axis [steps, ...].
    """
    caches = [leaf for leaf in jax.tree.leaves(state, is_leaf=_is_cache) if _is_cache(leaf)]
    sizes = [segment[0].k.shape[1] for segment in caches[0].reserved] if caches else [steps]
    outs, first = [], 0
    for slots in sizes:
        # More open segments are other shapes: one scan each.
        state = open_for(state, first)
        indices = jnp.arange(first, min(first + slots, steps), dtype=jnp.int32)
        state, out = jax.lax.scan(step, state, indices)
        outs.append(out)
        first += slots
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs)


def open_for(state: Any, count: int) -> Any:
    """A state whose caches have room for the token that follows `count` generated ones: it opens
    their next segment where those that are open are full.
    """

    def opened(leaf: Any) -> Any:
        if not _is_cache(leaf):
            return leaf
        slots = sum(segment[0].k.shape[1] for segment in leaf.generated)
        return leaf.open_next() if count == slots else leaf

    return jax.tree.map(opened, state, is_leaf=_is_cache)


def _is_cache(leaf: Any) -> bool:
    return isinstance(leaf, Cache)


def update_where(wanted: jax.Array, change: Callable[[Any], Any], state: Any) -> Any:
    """change(state) if `wanted` [] bool, else state.

    A loop of at most one round, because its carry is updated in place; `lax.cond` would copy the
    caches.
    """
    begun = wanted, state
    return jax.lax.while_loop(
        lambda it: it[0], lambda it: (jnp.bool_(False), change(it[1])), begun
    )[1]


def reorder(tree: Any, rows: jax.Array) -> Any:
    """Replaces each row by another one of the same prompt, in a pytree of arrays [R, ...] and
    caches.

    Args:
      tree: the pytree; prompts, which rows share, stay.
      rows: int32 [R], the row that each one becomes.
    """

    def of_heads(x: jax.Array) -> jax.Array:
        return x.reshape(len(rows), -1, *x.shape[1:])[rows].reshape(x.shape)

    def change(leaf: Any) -> Any:
        if not _is_cache(leaf):
            return leaf[rows]
        return dataclasses.replace(leaf, generated=jax.tree.map(of_heads, leaf.generated))

    return jax.tree.map(change, tree, is_leaf=_is_cache)


def fold_heads(x: jax.Array) -> jax.Array:
    """Heads beside their rows: [B, T, H, K] -> [B H, T, K]."""
    B, T, H, K = x.shape
    return x.swapaxes(1, 2).reshape(B * H, T, K)


def unfold_heads(x: jax.Array, rows: int) -> jax.Array:
    """The inverse: [B H, T, K] -> [B, T, H, K]."""
    return x.reshape(rows, -1, *x.shape[1:]).swapaxes(1, 2)


def attend_chunk(
    q: jax.Array, new: KV, past: LayerCache, window: int | None = None
) -> tuple[jax.Array, KV]:
    """Attention of T new tokens per row, each of which sees its row's prompt, the tokens of the
    chunk before it and itself.

    Args:
      q: [B, T, G H, K], queries; those of a head's group lie side by side.
      new: [B H, T, K], the tokens' keys and values.
      past: one layer of a cache without generated tokens, with room for T more.
      window: how many tokens are seen, the token itself included; None for all.

    Returns:
      The attended values [B, T, G H, K], and the prompts with the tokens written.
    """
    B, starts = len(q), jnp.repeat(past.lengths, len(new.k) // len(q))
    written = KV(*(jax.vmap(_add)(x, n, starts) for x, n in zip(past.prompt, new)))
    k, v = (unfold_heads(x, B) for x in written)
    return causal_attention(q, k, v, window, past.lengths), written


def _add(x: jax.Array, new: jax.Array, start: jax.Array) -> jax.Array:
    """Adds `new` [T, K] to the slots of x [S, K] from `start` on; what has no slot is dropped."""
    slots = start + jnp.arange(len(new), dtype=jnp.int32)
    return x.at[slots].add(new, mode="drop")


def attend(
    q: jax.Array, new: KV, past: LayerCache, window: int | None = None
) -> tuple[jax.Array, KV]:
    """Attention of one new token per row, which sees its prompt, its generated tokens and itself.

    The queries of a group share one product with their head, as the samples of a prompt do.

    Args:
      q: [R H, G, K], queries.
      new: [R H, 1, K], the token's key and value.
      past: one layer of the cache.
      window: how many tokens are seen, the new one included; None for all.

    Returns:
      The attended values [R H, G, K] in q's dtype, and the last segment with the token written.
    """
    prompt, generated, lengths, slot = past
    newest = KV(*(_write(x, n, slot) for x, n in zip(generated[-1], new)))
    generated = (*generated[:-1], newest)
    B, (BH, T, K) = len(lengths), prompt.k.shape
    H, S, G = BH // B, len(q) // BH, q.shape[1]

    def by_prompt(x: jax.Array) -> jax.Array:
        """[R H, G, n] -> [B H, S G, n]: the samples of a prompt as one product."""
        return x.reshape(B, S, H, G, -1).swapaxes(1, 2).reshape(BH, S * G, -1)

    def by_row(x: jax.Array) -> jax.Array:
        """[B H, S G, n] -> [R H, G, n], the inverse."""
        return x.reshape(B, H, S, G, -1).swapaxes(1, 2).reshape(BH * S, G, -1)

    def scores(q: jax.Array, k: jax.Array) -> jax.Array:
        return jnp.einsum("rtk,rsk->rts", q, k, preferred_element_type=jnp.float32) * K**-0.5

    def mix(weights: jax.Array, v: jax.Array) -> jax.Array:
        weights = weights.astype(v.dtype)
        return jnp.einsum("rts,rsk->rtk", weights, v, preferred_element_type=jnp.float32)

    starts = list(itertools.accumulate((kv.k.shape[1] for kv in generated), initial=0))
    count = starts[-2] + slot  # of the row's generated tokens, without the new one
    if jnp.ndim(slot):
        count = jnp.repeat(count, H)[:, None, None]
    length, slots = jnp.repeat(lengths, S * H)[:, None, None], jnp.arange(T)[None, None]
    of_prompt = jnp.where(slots < length, by_row(scores(by_prompt(q), prompt.k)), -jnp.inf)
    parts = [_within(window, of_prompt, length + count - slots)]
    for segment, start in zip(generated, starts):
        slots = start + jnp.arange(segment.k.shape[1])[None, None]
        parts.append(_within(window, scores(q, segment.k), count - slots))
    # The slots after the new token's are not yet written.
    parts[-1] = jnp.where(slots <= count, parts[-1], -jnp.inf)
    # One softmax over all parts; segments are never concatenated themselves, which would copy them.
    weights = jax.nn.softmax(jnp.concatenate(parts, axis=-1))
    of_prompt, *of_own = jnp.split(weights, [T + start for start in starts[:-1]], axis=-1)
    out = by_row(mix(by_prompt(of_prompt), prompt.v))
    out += sum(mix(part, segment.v) for part, segment in zip(of_own, generated))
    return out.astype(q.dtype), newest


def _within(window: int | None, scores: jax.Array, age: jax.Array) -> jax.Array:
    """Scores [.., slots], -inf where a token's age, in tokens before the new one, is beyond."""
    return scores if window is None else jnp.where(age < window, scores, -jnp.inf)


def _write(x: jax.Array, new: jax.Array, slot: jax.Array | int) -> jax.Array:
    """Writes one token of every row, [R H, 1, K], into a segment [R H, slots, K]: at one slot, or
    at one per row [R], where a slot past the end writes nothing.
    """
    if isinstance(slot, int) or not slot.ndim:
        return jax.lax.dynamic_update_slice_in_dim(x, new, slot, 1)
    R = len(slot)
    rows = jnp.arange(R, dtype=jnp.int32)
    by_row = x.reshape(R, -1, *x.shape[1:])
    new = new.reshape(R, -1, new.shape[-1])
    return by_row.at[rows, :, slot].set(new, mode="drop").reshape(x.shape)
