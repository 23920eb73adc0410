"""Sampling as two compiled programs: prefill, then a `lax.scan` over new tokens in donated caches.

N new tokens take one prefill and N - 1 steps, so caches have room for N - 1: nothing reads the last
token. A row ends with the first stop token that it draws, here eos as its third token, N = 5:

                       prefill   step 0   step 1   step 2   step 3
    reads              prompt    x_0      x_1      eos      any
    draws              x_0       x_1      eos      any      any
    tokens             x_0       x_1      eos      fill     fill
    had ended before   no        no       no       yes      yes
    log_probs          l_0       l_1      l_2      0        0       length 3, finished

The fill is the first of the stop tokens. Once all rows have ended, steps run no model and write no
cache.

A row's sample depends on its own prompt, id and the key, never on the rows beside it: the random
number of sample s of prompt id at step i comes from the key folded with id, then s, then i.

B prompts, S samples of each, R = B S rows, T prompt tokens, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from dinado_jax.data.batch import Array
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.decoding.batching import (
    check_finite,
    check_prompts,
    prompt_batches,
    restore_order,
)
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import Carry, NextLogits, Policy
from dinado_jax.distributed.partitioning import replicate, shard_rows
from dinado_jax.models.cache import scan_steps, update_where
from dinado_jax.ops.masks import among
from dinado_jax.utils.arguments import POSITIVE, require_integer, require_integer_field

_GROUP = 8
_SWITCH = 2**31 - 1  # folded into a row's key for its switch to the base; no step has this number


class LogProbs(NamedTuple):
    """Log-probabilities of the newest tokens, float32 [R] nats."""

    drawn: jax.Array  # under the distribution they were drawn from, temperature and truncation
    # included; nan if nothing can be drawn
    policy: jax.Array | None  # under the policy itself
    base: jax.Array | None  # under the base


@struct.dataclass
class SamplingState:
    """The carry of a step."""

    token: jax.Array  # int32 [R], the newest token
    log_probs: LogProbs  # of that token
    done: jax.Array  # bool [R], whether the row has ended
    streams: jax.Array  # [R] keys
    carry: Carry  # the policy's, with its caches


class Samples(NamedTuple):
    """New tokens of every row, the samples of one prompt together."""

    tokens: Array  # int32 [R, N]; after the stop token the sampler's first one
    log_probs: Array  # float32 [R, N] nats, as drawn; 0 after the end; nan: nothing to draw
    length: Array  # int32 [R] new tokens, the stop token included
    finished: Array  # bool [R]: ended by a stop token, not cut at N
    # Of a sampler with `scores`, else None: as log_probs, but without temperature and truncation.
    log_policy: Array | None = None
    log_base: Array | None = None  # None too where the policy does not know the base


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Everything static about sampling; calls with equal shapes compile once."""

    policy: Policy
    method: Method
    stop_ids: tuple[int, ...]  # a row ends with any of them; (-1,): all rows have N tokens
    max_new_tokens: int
    samples: int = 1  # per prompt, from one prefill
    mesh: Mesh | None = None  # devices that share the prompts of a call, a multiple of them
    scores: bool = False  # whether samples carry log_policy and log_base
    # Above 0: the first t tokens of a row are drawn from the policy and the others from the base,
    # with t uniform in [0, roll_in) per row. Only for policies that return the base's logits.
    roll_in: int = 0

    def __post_init__(self):
        for name in ("max_new_tokens", "samples"):
            require_integer_field(self, name, *POSITIVE)

    def __call__(
        self,
        variables: Any,
        prompts: Prompts,
        ids: Array,
        key: jax.Array,
        first: Array | int = 0,
    ) -> Samples:
        """Continues a batch of prompts.

        Args:
          variables: the policy's arrays.
          prompts: [B, T].
          ids: int32 [B]; prompts of different ids draw from independent streams.
          key: typed PRNG key.
          first: int32 [B] or [], the number of the first of each prompt's samples.

        Returns:
          [B S, max_new_tokens].
        """
        state = self.prefill(variables, prompts, ids, key, first)
        # Once rows are there, nothing depends on how many of them share a prompt.
        return dataclasses.replace(self, samples=1).decode(variables, state)[1]

    @functools.partial(jax.jit, static_argnums=0)
    def prefill(
        self,
        variables: Any,
        prompts: Prompts,
        ids: Array,
        key: jax.Array,
        first: Array | int = 0,
    ) -> SamplingState:
        """Reads the prompts once and draws the first token of every row; see `__call__`."""
        prompts.check()
        chex.assert_equal_shape([prompts.lengths, ids])
        rows = prompts, ids, jnp.broadcast_to(first, ids.shape)
        return shard_rows(self.mesh, self._prefill, (variables, key), rows)

    def _prefill(
        self, variables: Any, key: jax.Array, prompts: Prompts, ids: jax.Array, first: jax.Array
    ) -> SamplingState:
        S = self.samples
        with jax.named_scope("prefill"):
            logits, carry = self.policy.prefill(variables, prompts, S, self.max_new_tokens - 1)
        streams = row_streams(key, ids, first, S)
        return self._drawn(logits, streams, 0, jnp.zeros(len(streams), bool), carry)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def decode(self, variables: Any, state: SamplingState) -> tuple[SamplingState, Samples]:
        """Draws all further tokens. The state is donated: its caches are written in place."""
        return shard_rows(self.mesh, self._decode, (variables,), (state,))

    def step(
        self, variables: Any, state: SamplingState, index: jax.Array
    ) -> tuple[SamplingState, tuple[jax.Array, LogProbs, jax.Array]]:
        """Step `index` of the picture above: draws token index + 1 of every row.

        Returns:
          The new state, and token, log-probabilities and bool [R], whether the row had ended
          before.
        """

        def advance(state):
            with jax.named_scope("step"):
                logits, carry = self.policy.step(variables, state.carry, state.token)
            return self._drawn(logits, state.streams, index + 1, state.done, carry)

        ended = state.done
        state = update_where(~ended.all(), advance, state)
        return state, (state.token, state.log_probs, ended)

    def _decode(self, variables: Any, state: SamplingState) -> tuple[SamplingState, Samples]:
        step = functools.partial(self.step, variables)
        first = state.token, state.log_probs, jnp.zeros_like(state.done)
        state, later = scan_steps(step, state, self.max_new_tokens - 1)
        tokens, log_probs, ended = jax.tree.map(
            lambda x, xs: jnp.concatenate([x[None], xs]).T, first, later
        )
        tokens = jnp.where(ended, self.stop_ids[0], tokens)
        drawn, *scores = jax.tree.map(lambda x: jnp.where(ended, 0.0, x), log_probs)
        length = (~ended).sum(1, dtype=jnp.int32)
        return state, Samples(tokens, drawn, length, state.done, *scores)

    def _drawn(
        self,
        logits: NextLogits,
        streams: jax.Array,
        index: jax.Array | int,
        done: jax.Array,
        carry: Carry,
    ) -> SamplingState:
        """Draws token `index` of every row; that of a row that has ended before is ignored."""
        token, log_probs = self.draw(logits, streams, index)
        done |= among(token, self.stop_ids)
        return SamplingState(token, log_probs, done, streams, carry)

    @jax.named_scope("draw")
    def draw(
        self, logits: NextLogits, streams: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, LogProbs]:
        """Draws one token of every row.

        Args:
          logits: [R, V].
          streams: keys [R].
          index: int32 [] or [R], how many tokens each row has drawn before.

        Returns:
          The tokens int32 [R], and their log-probabilities.
        """
        uniform = jax.vmap(
            lambda k, i: jax.random.uniform(jax.random.fold_in(k, i), dtype=jnp.float32)
        )(streams, jnp.broadcast_to(index, streams.shape))
        token, log_prob = self.method.draw(self._drawn_from(logits, streams, index), uniform)
        if not self.scores:
            return token, LogProbs(log_prob, None, None)
        scored = jax.tree.map(lambda x: _log_prob(x, token), logits)
        return token, LogProbs(log_prob, scored.policy, scored.base)

    def _drawn_from(
        self, logits: NextLogits, streams: jax.Array, index: jax.Array | int
    ) -> jax.Array:
        """The logits to draw a token from, those of policy or base per row (`roll_in`): [R, V]."""
        if not self.roll_in:
            return logits.policy
        assert logits.base is not None, "the policy does not know the base"
        switch = jax.vmap(
            lambda k: jax.random.randint(jax.random.fold_in(k, _SWITCH), (), 0, self.roll_in)
        )(streams)
        return jnp.where((index >= switch)[:, None], logits.base, logits.policy)


def row_streams(key: jax.Array, ids: jax.Array, first: jax.Array, samples: int) -> jax.Array:
    """The stream of every row: keys [B S].

    Args:
      key: typed PRNG key.
      ids: int32 [B], of the prompts.
      first: int32 [B], the number of the first of each prompt's samples.
      samples: S.
    """
    ids = jnp.repeat(ids, samples)
    numbers = jnp.repeat(first, samples) + jnp.arange(len(ids), dtype=jnp.int32) % samples
    return jax.vmap(lambda i, s: jax.random.fold_in(jax.random.fold_in(key, i), s))(ids, numbers)


def _log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
    """The log-softmax at one token per row: [R, V], [R] -> [R]."""
    chosen = jnp.take_along_axis(logits, token[:, None], 1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def iter_samples(
    sampler: Sampler,
    variables: Any,
    prompts: TokenizedPrompts,
    key: jax.Array,
    batch: int,
    first: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, Samples]]:
    """Samples any number of prompts; the device draws a batch while the caller reads the last one.

    Args:
      sampler: draws `sampler.samples` rows of each prompt.
      variables: the policy's arrays.
      prompts: checked against vocabulary and context.
      key: typed PRNG key.
      batch: rows drawn at once.
      first: int [N], the number of the first of each prompt's samples; 0 by default.

    Yields:
      Host arrays as they come: row numbers, counted prompt by prompt, and the samples.

    Raises:
      InputError: when the first batch is asked for, for bad prompts or a bad batch; and for a
        prompt after which nothing can be drawn.
    """
    variables = replicate(sampler.mesh, variables)
    ids = prompts.stream_ids()
    first = np.zeros(len(prompts), np.int32) if first is None else first.astype(np.int32)
    waiting: list[tuple[np.ndarray, Samples]] = []
    for part in prompt_batches(sampler, prompts, batch, sampler.samples):
        drawn = sampler(variables, part.prompts, ids[part.filled], key, first[part.filled])
        if waiting:
            yield _to_host(sampler.samples, prompts, *waiting.pop())
        waiting.append((part.index, drawn))
    yield _to_host(sampler.samples, prompts, *waiting.pop())


def _to_host(
    samples: int, prompts: TokenizedPrompts, index: np.ndarray, drawn: Samples
) -> tuple[np.ndarray, Samples]:
    """Row numbers and samples of the prompts numbered `index`, without what filled the batch."""
    rows = (index[:, None] * samples + np.arange(samples)).ravel()
    drawn = jax.tree.map(lambda x: x[: len(rows)], jax.device_get(drawn))
    check_finite(prompts, rows // samples, drawn.log_probs)
    return rows, drawn


def sample_prompts(
    sampler: Sampler, variables: Any, prompts: TokenizedPrompts, key: jax.Array, batch: int
) -> Samples:
    """All that `iter_samples` yields, as host arrays in the order of the prompts."""
    return restore_order(*zip(*iter_samples(sampler, variables, prompts, key, batch)))


def sample_in_groups(
    sampler: Sampler, variables: Any, prompts: TokenizedPrompts, key: jax.Array, batch: int
) -> Samples:
    """The same samples as `sample_prompts`, those of a prompt in groups of 8, or of 1 where their
    number is no multiple of 8, each from a prefill of its own: no program depends on the number of
    samples.
    """
    batch = require_integer("batch", batch, *POSITIVE)
    check_prompts(sampler.policy, prompts, sampler.max_new_tokens)
    grouped, repeated, first = in_groups(sampler, prompts)
    drawn = iter_samples(grouped, variables, repeated, key, batch, first)
    return restore_order(*zip(*drawn))


def in_groups(
    sampler: Sampler, prompts: TokenizedPrompts
) -> tuple[Sampler, TokenizedPrompts, np.ndarray]:
    """The sampler of a group of samples, the prompt of each group, and int [groups], the number of
    its first sample: together the same rows in the same order.
    """
    # A single group is not worth a program of its own.
    several = len(prompts) * sampler.samples > _GROUP
    group = _GROUP if several and sampler.samples % _GROUP == 0 else 1
    groups = sampler.samples // group
    repeated = prompts.select(np.repeat(np.arange(len(prompts)), groups))
    first = np.tile(np.arange(groups, dtype=np.int32) * group, len(prompts))
    return dataclasses.replace(sampler, samples=group), repeated, first
