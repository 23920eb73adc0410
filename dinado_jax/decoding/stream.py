"""Sampling that hands out tokens while they are drawn: the loop of sampler.py, a few steps at a
time.

The host waits for every piece, which costs more than the whole loop at once, so that nothing else
samples in this way. Rows, streams of random numbers and shapes are those of `sample_in_groups`.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.decoding.batching import check_finite, prompt_batches
from dinado_jax.decoding.sampler import Sampler, SamplingState, in_groups
from dinado_jax.models.cache import SEGMENT, open_for

_STEPS = 4  # of a piece
assert SEGMENT % _STEPS == 0  # no piece goes on from one segment of a cache to the next


class NewTokens(NamedTuple):
    """What was drawn since the last piece, of some rows."""

    row: np.ndarray  # int64 [n], numbers of rows, counted prompt by prompt
    tokens: list[np.ndarray]  # int32 [k] each, at least one token, the stop token included
    ended: np.ndarray  # bool [n]: nothing follows


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(
    sampler: Sampler, variables: Any, state: SamplingState, first: jax.Array
) -> tuple[SamplingState, tuple[jax.Array, jax.Array]]:
    """Draws `_STEPS` tokens more: the new state, and [_STEPS, R] tokens and log-probabilities."""

    def step(state, index):
        state, (token, log_probs, _) = sampler.step(variables, state, index)
        return state, (token, log_probs.drawn)

    return jax.lax.scan(step, state, first + np.arange(_STEPS, dtype=np.int32))


def iter_tokens(
    sampler: Sampler, variables: Any, prompts: TokenizedPrompts, key: jax.Array, batch: int
) -> Iterator[NewTokens]:
    """Samples any number of prompts, batch by batch.

    Args:
      sampler: without a mesh.
      variables: the policy's arrays.
      prompts: checked against vocabulary and context.
      key: typed PRNG key.
      batch: rows drawn at once.

    Yields:
      Tokens of the rows of a batch that have not ended, as they come.

    Raises:
      InputError: as for `iter_samples`.
    """
    grouped, repeated, first = in_groups(sampler, prompts)
    ids, S = repeated.stream_ids(), grouped.samples
    for part in prompt_batches(grouped, repeated, batch, S):
        state = grouped.prefill(variables, part.prompts, ids[part.filled], key, first[part.filled])
        row = (part.index[:, None] * S + np.arange(S)).ravel()
        owner = row // S
        tokens, log_probs = state.token[None], state.log_probs.drawn[None]
        done, count = np.zeros(len(row), bool), 0
        while True:
            tokens, log_probs = (
                np.asarray(x).T[: len(row), : sampler.max_new_tokens - count]
                for x in (tokens, log_probs)
            )
            going = np.flatnonzero(~done)
            count += tokens.shape[1]
            new = [_until_stop(tokens[i], sampler.stop_ids) for i in going]
            for i, own in zip(going, new):
                check_finite(repeated, owner[i : i + 1], log_probs[i, : len(own)])
                done[i] = own[-1] in sampler.stop_ids
            whole = count == sampler.max_new_tokens
            yield NewTokens(row[going], new, done[going] | whole)
            if whole or done.all():
                break
            state = open_for(state, count - 1)  # makes room in the caches
            state, (tokens, log_probs) = _advance(grouped, variables, state, np.int32(count - 1))


def _until_stop(tokens: np.ndarray, stop_ids: tuple[int, ...]) -> np.ndarray:
    """Up to the first stop token."""
    stops = np.flatnonzero(np.isin(tokens, stop_ids))
    return tokens[: stops[0] + 1] if len(stops) else tokens
