"""Sampling as one compiled program: prefill, then a `lax.scan` over new tokens.

A row's sample depends on its own prompt, id and the key, never on the rows beside it: the random
number of sample s of prompt id at step i comes from key folded with id, then s, then i.

B prompts, S samples of each, R = B S rows, N new tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.data import bucket
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import Carry, Policy
from dinado_jax.errors import InputError
from dinado_jax.text import check_tokens, pad


@flax.struct.dataclass
class SamplingState:
    """What one step hands to the next; all [R]."""

    token: jax.Array  # int32, the newest token
    position: jax.Array  # int32, where it stands in its row
    done: jax.Array  # bool, the row has ended
    carry: Carry  # the policy's cache


class Samples(NamedTuple):
    """New tokens of every row, samples of one prompt together."""

    tokens: jax.Array  # int32 [R, N]; eos, where drawn, is kept, and what follows it is eos too
    log_probs: jax.Array  # float32 [R, N] nats, as drawn; 0 after the end
    length: jax.Array  # int32 [R] new tokens, eos included
    finished: jax.Array  # bool [R]: ended by eos, not cut at N


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Everything static about sampling; calls with equal shapes compile once."""

    policy: Policy
    method: Method
    eos_id: int
    max_new_tokens: int
    samples: int = 1  # per prompt, from one prefill

    def __post_init__(self):
        for name in ("max_new_tokens", "samples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: it must be at least 1")

    @functools.partial(jax.jit, static_argnums=0)
    def __call__(
        self, variables: Any, prompts: jax.Array, lengths: jax.Array, ids: jax.Array, key: jax.Array
    ) -> Samples:
        """Continues right-padded prompts.

        Args:
          variables: the policy's arrays.
          prompts: [B, T] int32.
          lengths: [B] int32, tokens of each prompt, >= 1.
          ids: [B] int32; their rows draw from streams of their own.
          key: typed PRNG key.
        """
        S, N = self.samples, self.max_new_tokens
        logits, carry = self.policy.prefill(variables, prompts, lengths, prompts.shape[1] + N)
        logits, carry, lengths, ids = jax.tree.map(
            lambda x: jnp.repeat(x, S, 0), (logits, carry, lengths, ids)
        )
        numbers = jnp.arange(ids.shape[0]) % S
        keys = jax.vmap(lambda i, s: jax.random.fold_in(jax.random.fold_in(key, i), s))(
            ids, numbers
        )

        def draw(logits, done, index):
            uniform = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, index)))(keys)
            token, log_prob = self.method.draw(logits, uniform)
            token = jnp.where(done, self.eos_id, token)
            return token, jnp.where(done, 0.0, log_prob), done | (token == self.eos_id)

        def step(state: SamplingState, index):
            logits, carry = self.policy.step(variables, state.carry, state.token, state.position)
            token, log_prob, done = draw(logits, state.done, index)
            position = state.position + jnp.where(state.done, 0, 1)
            return SamplingState(token, position, done, carry), (token, log_prob, state.done)

        token, log_prob, done = draw(logits, jnp.zeros(ids.shape, bool), 0)
        state = SamplingState(token, lengths, done, carry)
        state, later = jax.lax.scan(step, state, jnp.arange(1, N))
        first = (token, log_prob, jnp.zeros_like(done))
        tokens, log_probs, ended = jax.tree.map(
            lambda x, xs: jnp.concatenate([x[None], xs]).T, first, later
        )
        return Samples(tokens, log_probs, (~ended).sum(1), state.done)


def sample_prompts(
    sampler: Sampler,
    variables: Any,
    prompts: Sequence[Sequence[int]],
    key: jax.Array,
    batch: int,
    ids: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> Samples:
    """Samples any number of prompts, `batch` rows at a time, prompts of similar length together.

    Args:
      prompts: token ids; checked against vocabulary and context.
      ids: what numbers the rows' random streams; 0, 1, 2, .. when absent.
      advance: told the number of rows after each batch.

    Returns host arrays in the order of the prompts. InputError for bad prompts or batch.
    """
    S, N = sampler.samples, sampler.max_new_tokens
    if batch < 1:
        raise InputError(f"batch = {batch}: it must be at least 1")
    check_tokens(prompts, sampler.policy.vocab_size, "prompt")
    limit = sampler.policy.n_positions - N
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {index} is empty: begin it with the end-of-text token")
        if len(prompt) > limit:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens and max_new_tokens is {N}: the context "
                f"holds {sampler.policy.n_positions}, shorten one of them"
            )
    if not len(prompts):
        raise InputError("there are no prompts: give at least one")
    ids = np.arange(len(prompts)) if ids is None else np.asarray(ids)
    per_call = max(1, batch // S)
    widths = np.array([bucket(len(prompt), limit) for prompt in prompts])
    out = Samples(
        np.full((len(prompts), S, N), sampler.eos_id, np.int32),
        np.zeros((len(prompts), S, N), np.float32),
        np.zeros((len(prompts), S), np.int32),
        np.zeros((len(prompts), S), bool),
    )
    for width in np.unique(widths):
        members = np.flatnonzero(widths == width)
        for start in range(0, len(members), per_call):
            part = members[start : start + per_call]
            # A short last batch is filled up with its own rows, so that nothing recompiles.
            filled = np.resize(part, per_call)
            tokens = pad([prompts[i] for i in filled], sampler.eos_id, int(width))
            lengths = np.array([len(prompts[i]) for i in filled], np.int32)
            drawn = sampler(variables, tokens, lengths, ids[filled].astype(np.int32), key)
            for whole, piece in zip(out, jax.device_get(drawn)):
                whole[part] = piece.reshape(per_call, S, *piece.shape[1:])[: len(part)]
            advance(len(part) * S)
    return Samples(*(x.reshape(len(prompts) * S, *x.shape[2:]) for x in out))
