"""Sampling many prompts with rows that stay busy: a row that ends takes the next sample at once.

A queue holds b prompts that have been prefilled, each with the first token of its S samples. The
R = b S rows draw the further tokens in a loop of steps that ends when all samples of the queue have
rows. Rows still at work go on in the next queue's loop; the host has prefilled that one by then.
Four rows, two queues (a letter is a sample, in lower case where it ends, . a row without one):

    queue 1: A B C D, queue 2: E F G H
    step     0   1   2   3   4 | 5   6   7
    row 0    A   A   A   A   a | H   H   h      steps before the bar: the loop of queue 2, at whose
    row 1    B   b   E   E   E | E   e   .      end H takes row 0; that of queue 1 has none, all its
    row 2    C   C   C   c   F | f   .   .      samples find rows at once. A third queue would begin
    row 3    D   D   D   d   G | G   g   .      at the bar, and its first sample take row 2.

Batch by batch, the same samples take as many steps as the longest of each batch has: 5 + 5.
After the last queue the loop ends when all rows have ended; only then are rows idle.

Rows are at different positions of their samples, so each has slots of its own in the caches
(models/row_cache.py). To take a sample, a row copies what the prefill left of its prompt; an eighth
of the rows can do so at once, about as many as end in one step. A step in which none ends copies
nothing, and all writes into the caches are in place.

A log keeps what each step drew, and the host sorts it by sample. A sample depends on its prompt,
its id and the key alone: streams and draws are those of sampler.py. With equal shapes it is the
same to the bit on a CPU, whatever its row and its neighbours. Attention in sampler.py sums in
another order: log-probabilities differ by rounding, and where a random number lies that close to
the border of two tokens, another one is drawn, in about one sample of 10,000, as with another batch
size.

b prompts of a queue, S samples of each, R rows, N new tokens, V vocabulary.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.decoding.batching import PromptBatch, check_finite, prompt_batches
from dinado_jax.decoding.policy import Carry
from dinado_jax.decoding.sampler import LogProbs, Sampler, Samples, row_streams
from dinado_jax.distributed.partitioning import replicate, shard_rows
from dinado_jax.models.row_cache import empty_rows, replace_rows
from dinado_jax.ops.masks import among

_SHARE = 8  # a refill takes at most R / 8 samples at once
_NONE = -1  # as number of a sample


@struct.dataclass
class Log:
    """What was drawn: [R], or [R, steps]."""

    sample: jax.Array  # int32, the number of the sample; -1: none
    index: jax.Array  # int32, of the token in the sample
    token: jax.Array  # int32
    ended: jax.Array  # bool, whether it is the last one
    log_probs: LogProbs  # float32 nats, of the token


@struct.dataclass
class Queue:
    """Samples that wait for a row."""

    first: Log  # [R], the first token of each; -1 fills up
    streams: jax.Array  # keys [R]
    carry: Carry  # the policy's after each of the b prompts


@struct.dataclass
class Rows:
    """The carry of a step."""

    sample: jax.Array  # int32 [R], the number of the sample that each row draws; -1: none
    index: jax.Array  # int32 [R], of its newest token
    token: jax.Array  # int32 [R], that token
    streams: jax.Array  # keys [R]
    carry: Carry  # the policy's, with slots of its own for every row


class RowSteps(NamedTuple):
    """Steps of single rows, summed."""

    run: int  # all that were computed
    used: int  # those that drew a token of a sample


class Drawn(NamedTuple):
    """One batch of prompts, all of whose samples have ended."""

    rows: np.ndarray  # int64 [n S], numbers of the samples, counted prompt by prompt
    samples: Samples  # host arrays
    row_steps: RowSteps  # since the batch before


@functools.partial(jax.jit, static_argnums=0)
def prefill_queue(
    sampler: Sampler, variables: Any, prompts: Prompts, ids: Any, numbers: Any, key: jax.Array
) -> Queue:
    """Reads the prompts of a queue and draws the first token of every sample.

    Args:
      sampler: of S samples per prompt.
      variables: the policy's arrays.
      prompts: [b, T].
      ids: int32 [b]; prompts of different ids draw from independent streams.
      numbers: int32 [b], the number of each prompt; -1: it only fills up the queue.
      key: typed PRNG key.
    """
    prompts.check()
    chex.assert_equal_shape([prompts.lengths, ids, numbers])
    S, N = sampler.samples, sampler.max_new_tokens

    def prefill(
        variables: Any, key: jax.Array, prompts: Prompts, ids: jax.Array, numbers: jax.Array
    ) -> Queue:
        with jax.named_scope("prefill"):
            logits, carry = sampler.policy.prefill(variables, prompts, 1, N - 1)
        streams = row_streams(key, ids, jnp.zeros_like(ids), S)
        per_sample = jax.tree.map(lambda x: jnp.repeat(x, S, 0), logits)
        token, log_probs = sampler.draw(per_sample, streams, 0)
        numbers = jnp.repeat(numbers, S)
        sample = numbers * S + jnp.arange(len(numbers), dtype=jnp.int32) % S
        sample = jnp.where(numbers < 0, _NONE, sample)
        ended = among(token, sampler.stop_ids) | (N == 1)
        return Queue(Log(sample, jnp.zeros_like(token), token, ended, log_probs), streams, carry)

    return shard_rows(sampler.mesh, prefill, (variables, key), (prompts, ids, numbers))


@functools.partial(jax.jit, static_argnums=0)
def start_rows(sampler: Sampler, queue: Queue) -> Rows:
    """Allocates as many rows as a queue has samples; none draws anything yet."""

    def start(queue: Queue) -> Rows:
        carry = empty_rows(queue.carry, len(queue.streams), max(1, sampler.max_new_tokens - 1))
        zeros = jnp.zeros_like(queue.first.sample)
        return Rows(zeros + _NONE, zeros, zeros, queue.streams, carry)

    return shard_rows(sampler.mesh, start, (), (queue,))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def draw_queue(
    sampler: Sampler, variables: Any, rows: Rows, queue: Queue, last: Any
) -> tuple[Rows, Log, jax.Array]:
    """Draws until every sample of the queue has a row, or if it is the last, has ended.

    Args:
      sampler: that has prefilled the queue.
      variables: the policy's arrays.
      rows: donated, their caches are written in place.
      queue: the next one.
      last: bool [], whether no other comes after it.

    Returns:
      The rows; what they have drawn, [R, 3 (N - 1)]; int32 [R] steps that each row has run.
    """
    # Until the queue is empty all rows are busy, with what they had left and with its samples: for
    # 2 (N - 1) steps at most. N - 1 more end all samples.
    limit = 3 * max(1, sampler.max_new_tokens - 1)

    def draw(variables: Any, rows: Rows, queue: Queue, last: jax.Array) -> Any:
        waits = (queue.first.sample >= 0) & ~queue.first.ended
        total = waits.sum(dtype=jnp.int32)
        order = _indices(waits, len(waits), 0)

        def refill(rows: Rows, taken: jax.Array) -> tuple[Rows, jax.Array]:
            return _refill(sampler.samples, rows, queue, order, (taken, total))

        def unfinished(loop: Any) -> jax.Array:
            rows, taken, _, _ = loop
            return (taken < total) | (last & (rows.sample >= 0).any())

        def advance(loop: Any) -> Any:
            rows, taken, log, step = loop
            rows, drawn = _step(sampler, variables, rows)
            log = jax.tree.map(
                lambda x, new: jax.lax.dynamic_update_slice(x, new[:, None], (0, step)), log, drawn
            )
            return *refill(rows, taken), log, step + 1

        empty = jax.tree.map(lambda x: jnp.zeros((len(waits), limit), x.dtype), queue.first)
        log = empty.replace(sample=empty.sample + _NONE)
        loop = *refill(rows, jnp.int32(0)), log, jnp.int32(0)
        rows, _, log, steps = jax.lax.while_loop(unfinished, advance, loop)
        return rows, log, jnp.full(len(waits), steps)

    return shard_rows(sampler.mesh, draw, (variables,), (rows, queue, last))


def _step(sampler: Sampler, variables: Any, rows: Rows) -> tuple[Rows, Log]:
    """Draws one more token of every row."""
    with jax.named_scope("step"):
        logits, carry = sampler.policy.step(variables, rows.carry, rows.token)
    index = rows.index + 1
    token, log_probs = sampler.draw(logits, rows.streams, index)
    ended = among(token, sampler.stop_ids) | (index == sampler.max_new_tokens - 1)
    drawn = Log(rows.sample, index, token, ended, log_probs)
    sample = jnp.where(ended, _NONE, rows.sample)
    return Rows(sample, index, token, rows.streams, carry), drawn


@jax.named_scope("refill")
def _refill(
    samples: int, rows: Rows, queue: Queue, order: jax.Array, counts: tuple[jax.Array, jax.Array]
) -> tuple[Rows, jax.Array]:
    """Gives samples to rows that have none, as long as there are both.

    Args:
      samples: S.
      rows: R of them.
      queue: of R samples.
      order: int32 [R], which of its samples wait for a row, first.
      counts: how many of these have got one, and how many there are.

    Returns:
      The rows, and how many samples have got one.
    """
    R, (taken, total) = len(order), counts
    some = max(1, R // _SHARE)

    def wanted(loop: tuple[Rows, jax.Array]) -> jax.Array:
        rows, taken = loop
        return (taken < total) & (rows.sample < 0).any()

    def take(loop: tuple[Rows, jax.Array]) -> tuple[Rows, jax.Array]:
        rows, taken = loop
        waiting = taken + jnp.arange(some, dtype=jnp.int32)
        free = jnp.where(waiting < total, _indices(rows.sample < 0, some, R), R)
        which = order[jnp.minimum(waiting, R - 1)]
        first = queue.first

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            return old.at[free].set(new[which], mode="drop")

        taken += (free < R).sum(dtype=jnp.int32)
        return Rows(
            put(rows.sample, first.sample),
            put(rows.index, first.index),
            put(rows.token, first.token),
            put(rows.streams, queue.streams),
            replace_rows(rows.carry, free, queue.carry, which // samples),
        ), taken

    return jax.lax.while_loop(wanted, take, (rows, taken))


def _indices(mask: jax.Array, count: int, fill: int) -> jax.Array:
    """The indices of the first `count` true values, int32 [count]; `fill` after the last."""
    return jnp.nonzero(mask, size=count, fill_value=fill)[0].astype(jnp.int32)


def iter_refilled(
    sampler: Sampler, variables: Any, prompts: TokenizedPrompts, key: jax.Array, batch: int
) -> Iterator[Drawn]:
    """Yields what `iter_samples` yields, in the same order, and how busy the rows were.

    The device draws from one queue while the caller reads what the one before has given.

    Args:
      sampler: draws `sampler.samples` rows of each prompt.
      variables: the policy's arrays.
      prompts: checked against vocabulary and context.
      key: typed PRNG key.
      batch: rows drawn at once.

    Raises:
      InputError: as `iter_samples` does.
    """
    variables = replicate(sampler.mesh, variables)
    ids = prompts.stream_ids()
    host = _Host(sampler, prompts)
    rows, waiting = None, None
    parts = prompt_batches(sampler, prompts, batch, sampler.samples)
    part = next(parts, None)
    while part is not None:
        following = next(parts, None)
        # Caches are as wide as the prompts: rows must end before wider ones come.
        width = part.prompts.tokens.shape
        last = following is None or following.prompts.tokens.shape != width
        numbers = np.where(np.arange(len(part.filled)) < len(part.index), part.filled, _NONE)
        numbers = numbers.astype(np.int32)
        queue = prefill_queue(sampler, variables, part.prompts, ids[part.filled], numbers, key)
        rows = start_rows(sampler, queue) if rows is None else rows
        rows, log, steps = draw_queue(sampler, variables, rows, queue, np.bool_(last))
        rows = None if last else rows
        if waiting:
            yield from host.read(*waiting)
        waiting, part = (part, queue.first, log, steps), following
    if waiting:
        yield from host.read(*waiting)


class _Host:
    """Sorts logs by sample."""

    def __init__(self, sampler: Sampler, prompts: TokenizedPrompts):
        self._sampler, self._prompts = sampler, prompts
        count, N = len(prompts) * sampler.samples, sampler.max_new_tokens
        self._tokens = np.full((count, N), sampler.stop_ids[0], np.int32)
        self._length = np.zeros(count, np.int32)
        self._ended = np.zeros(count, bool)
        self._scores: Any = None  # LogProbs, float32 [count, N]
        self._open: list[np.ndarray] = []  # samples of the batches that have not ended, in order
        self._run = self._used = 0  # row-steps

    def read(self, part: PromptBatch, first: Log, log: Log, steps: Any) -> Iterator[Drawn]:
        """Yields the batches that have ended by the end of a log.

        Args:
          part: the batch of the queue.
          first: the queue's.
          log: of the queue.
          steps: int32 [R], run by each row.
        """
        S = self._sampler.samples
        self._open.append((part.index[:, None] * S + np.arange(S)).ravel())
        first, log, steps = jax.device_get((first, log, steps))
        self._write(first)
        self._used += self._write(log)
        self._run += int(steps.sum())
        while self._open and self._ended[self._open[0]].all():
            rows = self._open.pop(0)
            row_steps = RowSteps(self._run, self._used)
            self._run = self._used = 0
            yield Drawn(rows, self._samples(rows), row_steps)

    def _write(self, log: Log) -> int:
        """Keeps the tokens of a log; returns how many there are."""
        there = log.sample >= 0
        sample, index = log.sample[there], log.index[there]
        if self._scores is None:
            shape = self._tokens.shape
            self._scores = jax.tree.map(lambda x: np.zeros(shape, x.dtype), log.log_probs)
        self._tokens[sample, index] = log.token[there]
        for kept, new in zip(jax.tree.leaves(self._scores), jax.tree.leaves(log.log_probs)):
            kept[sample, index] = new[there]
        last = log.ended[there]
        self._length[sample[last]] = index[last] + 1
        self._ended[sample[last]] = True
        return len(sample)

    def _samples(self, rows: np.ndarray) -> Samples:
        drawn, *scores = jax.tree.map(lambda x: x[rows], self._scores)
        check_finite(self._prompts, rows // self._sampler.samples, drawn)
        tokens, length = self._tokens[rows], self._length[rows]
        newest = np.take_along_axis(tokens, length[:, None] - 1, 1)[:, 0]
        return Samples(tokens, drawn, length, np.isin(newest, self._sampler.stop_ids), *scores)
