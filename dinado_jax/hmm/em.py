"""Expectation-maximisation (Baum and Welch): an epoch never lowers the likelihood of its rows.

Expected counts are added up over batches, and over the devices of a plan. N rows of a batch, T
tokens, H states, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.distributed.partitioning import Plan, psum
from dinado_jax.hmm.model import EXACT, Hmm, Rows, emit, move, read

Step = Callable[[Hmm, Hmm, Any], tuple[Hmm, dict[str, jax.Array]]]


class _Passes(NamedTuple):
    """What both passes over rows find of each position, [T, N, H]."""

    of_state: jax.Array  # probabilities of the state given the whole row; 0 where it is not read
    given: jax.Array  # those given what is read up to the position
    ahead: jax.Array  # of the token and what follows it, by that before its state is known
    prob: jax.Array  # [T, N], of the token given those before it


def _passes(hmm: Hmm, tokens: jax.Array, inside: jax.Array) -> _Passes:
    """Reads rows forwards and backwards; arguments as of `expected_counts`."""
    transition, read = jnp.asarray(hmm.transition), inside.T[..., None]
    emission = jnp.asarray(hmm.emission)[tokens.T]  # [T, N, H]

    def forward(state: jax.Array, each: Any) -> tuple[jax.Array, Any]:
        given, prob = emit(state, each)
        return move(transition, given), (given, prob)

    start = jnp.repeat(jnp.asarray(hmm.initial)[None], len(tokens), 0)
    _, (given, prob) = jax.lax.scan(forward, start, emission)

    # Of position t: the probability of what follows it, in each state, by that before the state is
    # known. With T = 4 and a row of three tokens it is 1 at t = 2 and 3.
    def backward(later: jax.Array, each: Any) -> tuple[jax.Array, Any]:
        emission, prob, read = each
        ahead = jnp.where(read, emission * later / jnp.where(prob > 0, prob, 1.0)[:, None], 0.0)
        earlier = jnp.where(read, jnp.matmul(ahead, transition.T, precision=EXACT), 1.0)
        return earlier, (later, ahead)

    ones = jnp.ones_like(start)
    _, (later, ahead) = jax.lax.scan(backward, ones, (emission, prob, read), reverse=True)
    return _Passes(jnp.where(read, given * later, 0.0), given, ahead, prob)


def posteriors(hmm: Hmm, tokens: jax.Array, inside: jax.Array) -> jax.Array:
    """The probabilities of the state that emits each token, given its whole row; 0 where nothing is
    read. Arguments as of `expected_counts`; float32 [N, T, H].
    """
    return _passes(hmm, tokens, inside).of_state.swapaxes(0, 1)


def expected_counts(hmm: Hmm, tokens: jax.Array, inside: jax.Array) -> tuple[Hmm, jax.Array]:
    """How often each state is the first, follows each, and emits each token, as the rows tell.

    Args:
      hmm: as it is now.
      tokens: int32 [N, T].
      inside: bool [N, T], the tokens of each row, without gaps.

    Returns:
      The counts in the shapes of the probabilities; and float32 [N] nats, the log-likelihoods.
    """
    found = _passes(hmm, tokens, inside)
    pairs = jnp.einsum("tnh,tnk->hk", found.given[:-1], found.ahead[1:], precision=EXACT)
    counts = dataclasses.replace(
        hmm,
        initial=found.of_state[0].sum(0),
        transition=pairs * jnp.asarray(hmm.transition),
        emission=jnp.zeros_like(hmm.emission).at[tokens.T].add(found.of_state),
    )
    return counts, jnp.where(inside.T, jnp.log(found.prob), 0.0).sum(0)


def maximised(hmm: Hmm, counts: Hmm, pseudocount: float) -> Hmm:
    """The probabilities that counts make most likely.

    Args:
      hmm: what states that have no counts keep.
      counts: as of `expected_counts`.
      pseudocount: of each distribution, spread over it.
    """

    def normalised(count: Any, before: Any, axis: int) -> jax.Array:
        count = jnp.asarray(count) + pseudocount / count.shape[axis]
        total = count.sum(axis, keepdims=True)
        return jnp.where(total > 0, count / jnp.where(total > 0, total, 1.0), before)

    return dataclasses.replace(
        hmm,
        initial=normalised(counts.initial, hmm.initial, 0),
        transition=normalised(counts.transition, hmm.transition, 1),
        emission=normalised(counts.emission, hmm.emission, 0),
    )


def make_step(plan: Plan) -> Step:
    """Compiles (counts so far, hmm, batch of `batches`) -> (counts, metrics) for a plan."""

    def step(counts: Hmm, hmm: Hmm, batch: Any, axis: Any) -> tuple[Hmm, dict[str, jax.Array]]:
        tokens, inside = (each[0] for each in batch)
        found, log_likelihood = expected_counts(hmm, tokens, inside)
        found, total = psum((found, log_likelihood.sum()), axis)
        return jax.tree.map(jnp.add, counts, found), {"log_likelihood": total}

    return plan.compile(step)


def batches(rows: Rows, size: int, plan: Plan) -> Iterator[tuple[int, Any]]:
    """Yields all rows, `size` at a time, as the plan shares them out, with their numbers."""
    size = -(-min(size, len(rows)) // plan.mesh.size) * plan.mesh.size
    order = np.argsort(rows.length, kind="stable")
    for begin in range(0, len(rows), size):
        part = order[begin : begin + size]
        tokens, inside = rows.take(part, size)
        yield len(part), plan.shard_batch((tokens[None], inside[None]))


def epoch(
    step: Step,
    plan: Plan,
    hmm: Hmm,
    rows: Rows,
    size: int,
    pseudocount: float,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[Hmm, float]:
    """One step of EM over all rows.

    Args:
      step: of `make_step(plan)`.
      plan: of devices.
      hmm: on the host.
      rows: all of them, in every process.
      size: rows at once.
      pseudocount: see `maximised`.
      done: is told how many rows have been read since it was last told.

    Returns:
      The new model, on the host; and nats, the log-likelihood of the rows before the step.
    """
    frozen, counts = plan.shard(hmm), plan.shard(jax.tree.map(np.zeros_like, hmm))
    total, waiting = 0.0, []
    for number, batch in batches(rows, size, plan):
        counts, metrics = step(counts, frozen, batch)
        waiting.append((number, metrics["log_likelihood"]))
        if len(waiting) > 1:  # so that devices are busy while the host waits
            number, value = waiting.pop(0)
            total += float(value)
            done(number)
    for number, value in waiting:
        total += float(value)
        done(number)
    found = jax.jit(maximised, static_argnums=2)(hmm, plan.gather_to_host(counts), pseudocount)
    return jax.device_get(found), total


def log_probs(hmm: Hmm, rows: Rows, size: int) -> np.ndarray:
    """The log-probability of every token of N rows: float32 [N, T] nats, 0 after the end.

    Args:
      hmm: of their tokens.
      rows: N of them.
      size: rows at once.
    """

    @jax.jit
    def of_batch(hmm: Hmm, tokens: jax.Array, inside: jax.Array) -> jax.Array:
        start = jnp.repeat(jnp.asarray(hmm.initial)[None], len(tokens), 0)
        emission = jnp.asarray(hmm.emission)[tokens]
        return read(start, jnp.asarray(hmm.transition), emission, inside)[1]

    found, size, hmm = [], min(size, len(rows)), jax.device_put(hmm)
    for begin in range(0, len(rows), size):
        part = np.arange(begin, min(begin + size, len(rows)))
        found.append(np.asarray(of_batch(hmm, *rows.take(part, size)))[: len(part)])
    return np.concatenate(found)
