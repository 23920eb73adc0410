"""Sampling as two compiled programs: prefill, then a `lax.scan` over new tokens in donated caches.

A row's sample depends on its own prompt, id and the key, never on the rows beside it: the random
number of sample s of prompt id at step i comes from key folded with id, then s, then i.

B prompts, S samples of each, R = B S rows, N new tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from dinado_jax.data.batch import Array, rows_of
from dinado_jax.data.batching import bucket
from dinado_jax.data.sequences import check_tokens, pad
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import Carry, Policy
from dinado_jax.distributed.partitioning import replicate, shard_rows
from dinado_jax.errors import InputError
from dinado_jax.models.cache import scan_steps, update_where
from dinado_jax.utils.arguments import POSITIVE, require_integer, require_integer_field

Rows = TypeVar("Rows", bound=tuple)  # of arrays, a row each
_GROUP = 8  # a power of two


@struct.dataclass
class SamplingState:
    """What one step hands to the next."""

    token: jax.Array  # int32 [R], the newest token
    log_probs: "LogProbs"  # [R], of that token
    done: jax.Array  # bool [R], the row has ended
    streams: jax.Array  # [R] keys
    carry: Carry  # the policy's caches


class LogProbs(NamedTuple):
    """Log-probabilities of drawn tokens, float32 nats."""

    drawn: jax.Array  # as drawn: temperature and truncation included; nan if nothing can be drawn
    policy: jax.Array | None  # under the policy itself
    base: jax.Array | None  # under the base


class Samples(NamedTuple):
    """New tokens of every row, samples of one prompt together."""

    tokens: Array  # int32 [R, N]; eos, where drawn, is kept, and what follows it is eos too
    log_probs: Array  # float32 [R, N] nats, as drawn; 0 after the end; nan: nothing to draw
    length: Array  # int32 [R] new tokens, eos included
    finished: Array  # bool [R]: ended by eos, not cut at N
    # Of a sampler that scores, as log_probs, temperature and truncation aside; else None.
    log_policy: Array | None = None
    log_base: Array | None = None  # None too where the policy does not know the base


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Everything static about sampling; calls with equal shapes compile once."""

    policy: Policy
    method: Method
    eos_id: int
    max_new_tokens: int
    samples: int = 1  # per prompt, from one prefill
    mesh: Mesh | None = None  # devices that share the prompts out, a multiple of their number
    scores: bool = False  # whether samples carry log_policy and log_base

    def __post_init__(self):
        for name in ("max_new_tokens", "samples"):
            require_integer_field(self, name, *POSITIVE)

    def __call__(
        self,
        variables: Any,
        prompts: Array,
        lengths: Array,
        ids: Array,
        key: jax.Array,
        first: Array | int = 0,
        condition: Any = None,
    ) -> Samples:
        """Continues right-padded prompts.

        Args:
          variables: the policy's arrays.
          prompts: [B, T] int32.
          lengths: [B] int32, tokens of each prompt, >= 1.
          ids: [B] int32; their rows draw from streams of their own.
          key: typed PRNG key.
          first: [B] or [] int32, the number of the first of each prompt's samples.
          condition: pytree of [B, ...], what guides know of each prompt.
        """
        state = self.prefill(variables, prompts, lengths, ids, key, first, condition)
        return self.decode(variables, state)[1]

    @functools.partial(jax.jit, static_argnums=0)
    def prefill(
        self, variables, prompts, lengths, ids, key, first=0, condition=None
    ) -> SamplingState:
        """Reads the prompts once and draws the first token of every row."""
        first = jnp.broadcast_to(first, ids.shape)
        rows = prompts, lengths, ids, first, condition
        return shard_rows(self.mesh, self._prefill, (variables, key), rows)

    def _prefill(self, variables, key, prompts, lengths, ids, first, condition):
        S = self.samples
        logits, carry = self.policy.prefill(
            variables, prompts, lengths, S, self.max_new_tokens - 1, condition
        )
        ids = jnp.repeat(ids, S)
        numbers = jnp.repeat(first, S) + jnp.arange(len(ids), dtype=jnp.int32) % S
        streams = jax.vmap(lambda i, s: jax.random.fold_in(jax.random.fold_in(key, i), s))(
            ids, numbers
        )
        return self._drawn(logits, streams, 0, jnp.zeros(len(ids), bool), carry)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def decode(self, variables, state: SamplingState) -> tuple[SamplingState, Samples]:
        """All further tokens. The state is donated: its caches are written in place."""
        return shard_rows(self.mesh, self._decode, (variables,), (state,))

    def _decode(self, variables, state):
        def advance(state, index):
            logits, carry = self.policy.step(variables, state.carry, state.token)
            return self._drawn(logits, state.streams, index + 1, state.done, carry)

        def step(state, index):
            ended = state.done
            state = update_where(~ended.all(), lambda state: advance(state, index), state)
            return state, (state.token, state.log_probs, ended)

        first = state.token, state.log_probs, jnp.zeros_like(state.done)
        state, later = scan_steps(step, state, self.max_new_tokens - 1)
        tokens, log_probs, ended = jax.tree.map(
            lambda x, xs: jnp.concatenate([x[None], xs]).T, first, later
        )
        drawn, *scores = jax.tree.map(lambda x: jnp.where(ended, 0.0, x), log_probs)
        length = (~ended).sum(1, dtype=jnp.int32)
        return state, Samples(tokens, drawn, length, state.done, *scores)

    def _drawn(self, logits, streams, index, done, carry) -> SamplingState:
        uniform = jax.vmap(
            lambda k: jax.random.uniform(jax.random.fold_in(k, index), dtype=jnp.float32)
        )(streams)
        token, log_prob = self.method.draw(logits.policy, uniform)
        token = jnp.where(done, self.eos_id, token)
        log_probs = LogProbs(log_prob, None, None)
        if self.scores:
            scored = jax.tree.map(lambda x: _log_prob(x, token), logits)
            log_probs = LogProbs(log_prob, scored.policy, scored.base)
        return SamplingState(token, log_probs, done | (token == self.eos_id), streams, carry)


def _log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
    """Log-softmax at one token per row: [R, V], [R] -> [R]."""
    chosen = jnp.take_along_axis(logits, token[:, None], 1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def prompt_batches(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    fill: int,
    batch: int,
    each: int,
    mesh: Mesh | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Any number of prompts, as many at a time as make `batch` rows of `each` a prompt (one for
    each device at least), those of similar length together.

    Yields numbers of prompts, the same filled up to that count so that nothing recompiles, and of
    those right-padded tokens [count, T] and lengths [count]. InputError for a batch below 1, and
    for prompts that do not fit vocabulary or context.
    """
    batch = require_integer("batch", batch, *POSITIVE)
    devices = mesh.size if mesh else 1
    count = max(1, batch // each // devices) * devices
    check_prompts(policy, prompts, max_new_tokens)
    limit = policy.context_length - max_new_tokens
    widths = np.array([bucket(len(prompt), limit) for prompt in prompts])
    for width in np.unique(widths):
        members = np.flatnonzero(widths == width)
        for start in range(0, len(members), count):
            part = members[start : start + count]
            filled = np.resize(part, count)
            tokens = pad([prompts[i] for i in filled], fill, int(width))
            yield part, filled, tokens, np.array([len(prompts[i]) for i in filled], np.int32)


def check_prompts(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    where: Sequence[str] | None = None,
) -> None:
    """InputError if there are none, or for one that does not fit vocabulary or context.

    where: what messages call each prompt, such as "prompts.txt:3"; "prompt 0" and so on when
    absent.
    """
    if not len(prompts):
        raise InputError("there are no prompts: give at least one")
    check_tokens(prompts, policy.vocab_size, "prompt")
    for index, prompt in enumerate(prompts):
        name = where[index] if where else f"prompt {index}"
        if not prompt:
            raise InputError(f"{name} is empty: begin it with the end-of-text token")
        over = len(prompt) + max_new_tokens - policy.context_length
        if over > 0:
            raise InputError(
                f"{name} has {len(prompt)} tokens and max_new_tokens is {max_new_tokens}, {over} "
                f"more than the context of {policy.context_length} holds: shorten one of them"
            )


def iter_samples(
    sampler: Sampler,
    variables: Any,
    prompts: Sequence[Sequence[int]],
    key: jax.Array,
    batch: int,
    ids: Sequence[int] | np.ndarray | None = None,
    first: Sequence[int] | np.ndarray | None = None,
    condition: Any = None,
) -> Iterator[tuple[np.ndarray, Samples]]:
    """Samples any number of prompts, `batch` rows at a time.

    Args:
      prompts: token ids; checked against vocabulary and context.
      ids: what numbers the rows' random streams; 0, 1, 2, .. when absent.
      first: the number of the first of each prompt's samples; 0 when absent.
      condition: pytree of arrays with a row per prompt, what guides know of it.

    Yields host arrays as they come: row numbers, counted prompt by prompt, and the samples. The
    device draws the next ones while the caller reads these. InputError for bad prompts or batch,
    once the first are asked for, and for a prompt after which nothing can be drawn.
    """
    S = sampler.samples
    variables = replicate(sampler.mesh, variables)
    stream = np.arange(len(prompts)) if ids is None else np.asarray(ids)
    start = np.zeros(len(prompts)) if first is None else np.asarray(first)
    waiting: list[tuple[np.ndarray, Samples]] = []
    for part, filled, tokens, lengths in prompt_batches(
        sampler.policy, prompts, sampler.max_new_tokens, sampler.eos_id, batch, S, sampler.mesh
    ):
        streams, begin = (x[filled].astype(np.int32) for x in (stream, start))
        known = rows_of(condition, filled)
        drawn = sampler(variables, tokens, lengths, streams, key, begin, known)
        # One batch late: the device is at work on this one meanwhile.
        if waiting:
            yield _on_host(S, *waiting.pop())
        waiting.append((part, drawn))
    yield _on_host(S, *waiting.pop())


def _on_host(samples: int, part: np.ndarray, drawn: Samples) -> tuple[np.ndarray, Samples]:
    """Row numbers and samples of the prompts in `part`, without what filled the batch."""
    rows = (part[:, None] * samples + np.arange(samples)).ravel()
    drawn = jax.tree.map(lambda x: x[: len(rows)], jax.device_get(drawn))
    check_finite(rows // samples, drawn.log_probs)
    return rows, drawn


def check_finite(numbers: np.ndarray, log_probs: np.ndarray) -> None:
    """InputError for the first prompt with a nan: its number of every row, and the row's
    log-probabilities."""
    bad = np.isnan(log_probs.reshape(len(numbers), -1)).any(1)
    if bad.any():
        raise InputError(
            f"prompt {numbers[bad].min()}: no token can be drawn after it, the model's logits are "
            "nan or infinite; check the model's weights, or load it with dtype float32"
        )


def sample_prompts(
    sampler: Sampler,
    variables: Any,
    prompts: Sequence[Sequence[int]],
    key: jax.Array,
    batch: int,
    ids: Sequence[int] | np.ndarray | None = None,
    condition: Any = None,
) -> Samples:
    """All that `iter_samples` yields, as host arrays in the order of the prompts."""
    drawn = iter_samples(sampler, variables, prompts, key, batch, ids, condition=condition)
    return restore_order(*zip(*drawn))


def sample_in_groups(
    sampler: Sampler,
    variables: Any,
    prompts: Sequence[Sequence[int]],
    key: jax.Array,
    batch: int,
    condition: Any = None,
) -> Samples:
    """The same samples, those of a prompt in groups of 8, 4, 2 or 1, each from a prefill of its
    own: no program depends on how many there are."""
    batch = require_integer("batch", batch, *POSITIVE)
    check_prompts(sampler.policy, prompts, sampler.max_new_tokens)  # by their own numbers
    group = math.gcd(sampler.samples, _GROUP)
    each = sampler.samples // group
    grouped = dataclasses.replace(sampler, samples=group)
    again = [prompt for prompt in prompts for _ in range(each)]
    ids = np.repeat(np.arange(len(prompts)), each)
    first = np.tile(np.arange(each) * group, len(prompts))
    condition = rows_of(condition, ids)
    drawn = iter_samples(grouped, variables, again, key, batch, ids, first, condition)
    return restore_order(*zip(*drawn))


def restore_order(rows: Sequence[np.ndarray], parts: Sequence[Rows]) -> Rows:
    """Joins tuples of arrays, a part of the rows each, in the order of the row numbers."""
    order = np.argsort(np.concatenate(rows))
    return jax.tree.map(lambda *column: np.concatenate(column)[order], *parts)
