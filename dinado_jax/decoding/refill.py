import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.decoding.batching import prompt_batches
from dinado_jax.decoding.policy import Carry
from dinado_jax.decoding.sampler import Sampler, Samples, LogProbs, row_streams, to_host
from dinado_jax.distributed.partitioning import replicate, shard_rows
from dinado_jax.models.row_cache import empty_rows, replace_rows

QUEUES = 16
SHARE=8

@struct.dataclass
class Rows:
    sample: jax.Array  # int32 [R], which one the row draws; B S: none
    index: jax.Array  # int32 [R], of its newest token
    token: jax.Array  # int32 [R], that token
    carry: Carry  # the policy's


@struct.dataclass
class Drawn:
    tokens: jax.Array  # int32 [B S, N]
    log_probs: LogProbs  # [B S, N]
    last: jax.Array  # int32 [B S] index of the newest token
    steps: jax.Array


@dataclasses.dataclass(frozen=True)
class RefillingSampler:
    sampler: Sampler
    prompts: int  # of a queue: rows / samples, on one device

    @functools.partial(jax.jit, static_argnums=0)
    def __call__(self, variables, prompts: Prompts, ids, wanted, key) -> Samples:
        prompts.check()
        return shard_rows(self.sampler.mesh, self._sample, (variables, key), (prompts, ids, wanted))

    def _sample(self, variables, key, prompts, ids, wanted) -> Samples:
        sampler, S, N = self.sampler, self.sampler.samples, self.sampler.max_new_tokens
        B, b = len(ids), self.prompts
        R, none = b * S, B * S
        streams = row_streams(key, ids, jnp.zeros_like(ids), S)
        queues = (wanted.sum(dtype=jnp.int32) + b - 1) // b

        def prefill(number):
            part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, number * b, b), prompts)
            with jax.named_scope("prefill"):
                logits, bank = sampler.policy.prefill(variables, part, 1, N - 1)
            return jax.tree.map(lambda x: jnp.repeat(x, S, 0), logits), bank

        def queue(number, state):
            rows, out = state
            logits, bank = prefill(number)
            numbers = number * R + jnp.arange(R, dtype=jnp.int32)
            token, log_probs = sampler.draw(logits, streams[numbers], 0)
            write = lambda x, y: jax.lax.dynamic_update_slice(x, y[:, None], (number * R, 0))
            out = out.replace(tokens=write(out.tokens, token), log_probs=jax.tree.map(write, out.log_probs, log_probs))
            waits = (token != sampler.eos_id) & jnp.repeat(wanted, S)[numbers] & (N > 1)
            order = jnp.nonzero(waits, size=R, fill_value=0)[0].astype(jnp.int32)
            total = waits.sum(dtype=jnp.int32)

            def refill(rows, taken):
                M = max(1, R // SHARE)

                def some(it):
                    rows, taken = it
                    place = jnp.nonzero(rows.sample == none, size=M, fill_value=R)[0].astype(jnp.int32)
                    waiting = taken + jnp.arange(M, dtype=jnp.int32)
                    place = jnp.where(waiting < total, place, R)
                    local = order[jnp.minimum(waiting, R - 1)]
                    put = lambda x, y: x.at[place].set(y, mode="drop")
                    new = Rows(
                        put(rows.sample, number * R + local),
                        put(rows.index, 0),
                        put(rows.token, token[local]),
                        replace_rows(rows.carry, place, bank, local // S),
                    )
                    return new, taken + (place < R).sum(dtype=jnp.int32)

                return jax.lax.while_loop(
                    lambda it: (it[0].sample == none).any() & (it[1] < total), some, (rows, taken)
                )

            def advance(it):
                rows, out, taken = it
                with jax.named_scope("refill"):
                    rows, taken = refill(rows, taken)
                with jax.named_scope("step"):
                    logits, carry = sampler.policy.step(variables, rows.carry, rows.token)
                index = rows.index + 1
                token, log_probs = sampler.draw(logits, streams[rows.sample], index)
                put = lambda x, y: x.at[rows.sample, index].set(y, mode="drop")
                out = Drawn(
                    put(out.tokens, token),
                    jax.tree.map(put, out.log_probs, log_probs),
                    out.last.at[rows.sample].set(index, mode="drop"),
                    out.steps + 1,
                )
                ends = (token == sampler.eos_id) | (index == N - 1)
                return Rows(jnp.where(ends, none, rows.sample), index, token, carry), out, taken

            def unfinished(it):
                rows, _, taken = it
                return (taken < total) | ((number == queues - 1) & (rows.sample < none).any())

            rows, out, _ = jax.lax.while_loop(unfinished, advance, (rows, out, jnp.int32(0)))
            return rows, out

        logits, bank = jax.eval_shape(prefill, jnp.int32(0))
        free = jnp.zeros(R, jnp.int32)
        rows = Rows(free + none, free, free, empty_rows(bank, R, max(1, N - 1)))
        zeros = jnp.zeros((none, N), jnp.float32)
        scored = [zeros if sampler.scores and x is not None else None for x in logits]
        out = Drawn(
            jnp.full((none, N), sampler.eos_id, jnp.int32),
            LogProbs(zeros, *scored),
            jnp.zeros(none, jnp.int32),
            jnp.int32(0),
        )
        _, out = jax.lax.fori_loop(0, queues, queue, (rows, out))
        length = out.last + 1
        finished = jnp.take_along_axis(out.tokens, out.last[:, None], 1)[:, 0] == sampler.eos_id
        drawn, *scores = out.log_probs
        count = jnp.maximum(1, wanted.sum() * S)
        row_steps = jnp.full(none, out.steps * R / count, jnp.float32)
        return Samples(out.tokens, drawn, length, finished, *scores, row_steps)


def iter_refilled(
    sampler: Sampler, variables: Any, prompts: TokenizedPrompts, key: jax.Array, batch: int
) -> Iterator[tuple[np.ndarray, Samples]]:
    variables = replicate(sampler.mesh, variables)
    ids, S = prompts.stream_ids(), sampler.samples
    devices = sampler.mesh.size if sampler.mesh else 1
    each = max(1, batch // S // devices)
    queues = min(QUEUES, -(-len(prompts) // (each * devices)))
    refilling = RefillingSampler(sampler, each)
    waiting = []
    for part in prompt_batches(sampler, prompts, queues * each * devices * S, S):
        wanted = np.arange(len(part.filled)) < len(part.index)
        drawn = refilling(variables, part.prompts, ids[part.filled], wanted, key)
        if waiting:
            yield to_host(S, prompts, *waiting.pop())
        waiting.append((part.index, drawn))
    yield to_host(S, prompts, *waiting.pop())
