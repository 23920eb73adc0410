"""Where EM begins: the hidden states of the base in clusters, each a state of the HMM.

(Latent-variable distillation, as in GeLaTo, arXiv 2304.07438.) The state that emits a token is the
cluster of the base's hidden state after it, so that it knows the token, and what came before. The
last state is that of the tokens that end a text.

Mini-batch k-means (Sculley, WWW 2010): a centre is the mean of all that it has been nearest to.
N rows of a batch, T tokens, D width of the base, H states, K = H - 1 centres.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.data.batch import Array
from dinado_jax.data.sequences import Sequences
from dinado_jax.distributed.partitioning import Plan, psum
from dinado_jax.errors import InputError
from dinado_jax.hmm.model import EXACT, Hmm
from dinado_jax.models.protocol import BaseModel
from dinado_jax.ops.masks import among

_CANDIDATES = 8  # hidden states for each centre, of which the first centres are drawn
_PER_CENTRE = 256  # hidden states that are clustered for each centre, about
_MOST_PASSES = 2  # through all rows


class _Batch(NamedTuple):
    """Rows as the base reads them; from `_Clustering.batches` with a leading axis of one, for
    `Plan.shard_batch`.
    """

    tokens: Array  # int32 [N, T]
    begin: Array  # int32 [N], the first token that the HMM reads
    length: Array  # int32 [N]

    @property
    def inside(self) -> jax.Array:
        """bool [N, T], the tokens that the HMM reads."""
        column = jnp.arange(self.tokens.shape[1])[None]
        return (column >= self.begin[:, None]) & (column < self.length[:, None])


@struct.dataclass
class _Centres:
    """The centres, and of how many hidden states each is the mean."""

    mean: Array  # float32 [K, D]
    count: Array  # float32 [K]


def first_counts(
    model: BaseModel,
    params: Any,
    rows: Sequences,
    begin: np.ndarray,
    states: int,
    stop_ids: tuple[int, ...],
    how: "Clustering",
) -> Hmm:
    """Counts how often clusters are the first, follow one another, and emit each token.

    Args:
      model: the base.
      params: of the base, sharded by the plan.
      rows: N samples of the base.
      begin: int [N], the first token of each that the HMM reads.
      states: H.
      stop_ids: tokens that end a text.
      how: the work is done.

    Returns:
      The counts, on the host, in the shapes of the probabilities.

    Raises:
      InputError: for fewer different hidden states than centres.
    """
    data = _Data(rows, begin, how)
    centres = _centres(model, params, data, states - 1)
    frozen = {"base": params, "mean": how.plan.shard(centres.mean)}

    def step(counts: Hmm, frozen: Any, batch: _Batch, axis: Any) -> tuple[Hmm, dict]:
        batch = jax.tree.map(lambda x: x[0], batch)
        nearest = _nearest(_hidden(model, frozen["base"], batch.tokens), frozen["mean"])
        state = jnp.where(among(batch.tokens, stop_ids), states - 1, nearest)
        found = psum(_hard_counts(counts, state, batch), axis)
        return jax.tree.map(jnp.add, counts, found), {}

    counts = how.plan.shard(
        Hmm(
            np.zeros(states, np.float32),
            np.zeros((states, states), np.float32),
            np.zeros((model.vocab_size, states), np.float32),
        )
    )
    compiled = how.plan.compile(step)
    for _, batch in data.batches(np.arange(len(rows))):
        counts, _ = compiled(counts, frozen, batch)
    return how.plan.gather_to_host(counts)


@dataclasses.dataclass(frozen=True)
class Clustering:
    """How the work is done."""

    plan: Plan
    batch: int  # rows at once
    seed: int  # of the first centres, and of the order of rows


@dataclasses.dataclass(frozen=True)
class _Data:
    """Rows and where the HMM begins to read each."""

    rows: Sequences
    begin: np.ndarray  # int [N]
    how: Clustering

    @property
    def count(self) -> int:
        """Tokens that the HMM reads."""
        return int((self.rows.length - self.begin).sum())

    def take(self, index: np.ndarray, size: int) -> _Batch:
        """The rows numbered `index`; what is missing of `size` rows is rows without tokens."""
        missing = size - len(index)
        columns = self.rows.tokens[index], self.begin[index], self.rows.length[index]
        widths = [((0, missing), (0, 0)), (0, missing), (0, missing)]
        return _Batch(*(np.pad(x, width).astype(np.int32) for x, width in zip(columns, widths)))

    def batches(self, order: np.ndarray) -> Iterator[tuple[int, _Batch]]:
        """Yields rows in an order, and how many of their tokens the HMM reads."""
        plan = self.how.plan
        size = -(-min(self.how.batch, len(order)) // plan.mesh.size) * plan.mesh.size
        for start in range(0, len(order), size):
            batch = self.take(order[start : start + size], size)
            read = int((batch.length - batch.begin).sum())
            yield read, plan.shard_batch(jax.tree.map(lambda x: x[None], batch))


def _centres(model: BaseModel, params: Any, data: _Data, count: int) -> _Centres:
    """Clusters the hidden states of rows in random order."""
    plan, rng = data.how.plan, np.random.default_rng(data.how.seed)
    some = _some_states(model, plan.gather(params), data, rng, _CANDIDATES * count)
    if len(some) < count:
        raise InputError(
            f"the samples have {len(some)} different hidden states, fewer than the {count + 1} "
            "states of the HMM: draw more samples, or ask for fewer states"
        )
    first = some[rng.choice(len(some), count, replace=False)]
    centres = plan.shard(_Centres(first, np.zeros(count, np.float32)))

    def step(centres: _Centres, params: Any, batch: _Batch, axis: Any) -> tuple[_Centres, dict]:
        batch = jax.tree.map(lambda x: x[0], batch)
        hidden = _hidden(model, params, batch.tokens)
        nearest = jnp.where(batch.inside, _nearest(hidden, centres.mean), count)  # count: of none
        of_each = jax.nn.one_hot(nearest.ravel(), count, axis=0)  # [K, N T]
        total = jnp.matmul(of_each, hidden.reshape(-1, hidden.shape[-1]), precision=EXACT)
        total, new = psum((total, of_each.sum(1)), axis)
        seen = centres.count + new
        move = (total - new[:, None] * centres.mean) / jnp.maximum(seen, 1.0)[:, None]
        return _Centres(centres.mean + move, seen), {}

    compiled, left = plan.compile(step), min(_PER_CENTRE * count, _MOST_PASSES * data.count)
    while left > 0:
        for read, batch in data.batches(rng.permutation(len(data.rows))):
            centres, _ = compiled(centres, params, batch)
            left -= read
            if left <= 0:
                break
    return plan.gather_to_host(centres)


def _some_states(
    model: BaseModel, params: Any, data: _Data, rng: np.random.Generator, count: int
) -> np.ndarray:
    """About `count` hidden states of random rows, each once: [n, D], on the host."""
    found, number, order = [], 0, rng.permutation(len(data.rows))
    size = min(data.how.batch, len(order))
    hidden_of = jax.jit(functools.partial(_hidden, model))
    for start in range(0, len(order), size):
        batch = data.take(order[start : start + size], size)
        hidden = np.asarray(hidden_of(params, batch.tokens))
        found.append(hidden[np.asarray(batch.inside)])
        number += len(found[-1])
        if number >= count:
            break
    return np.unique(np.concatenate(found), axis=0)


def _hidden(model: BaseModel, params: Any, tokens: jax.Array) -> jax.Array:
    """float32 [N, T, D], after each token."""
    return model.apply({"params": params}, tokens).hidden.astype(jnp.float32)


def _nearest(hidden: jax.Array, mean: jax.Array) -> jax.Array:
    """The number of the centre [K, D] nearest to each hidden state: [N, T, D] -> [N, T]."""
    near = jnp.einsum("ntd,kd->ntk", hidden, mean, precision=EXACT)
    return (near - (mean**2).sum(1)[None, None] / 2).argmax(-1)


def _hard_counts(like: Hmm, state: jax.Array, batch: _Batch) -> Hmm:
    """The counts of rows whose states [N, T] are known."""
    inside = batch.inside
    weight, rows = inside.astype(jnp.float32), jnp.arange(len(state))
    first = jnp.minimum(batch.begin, state.shape[1] - 1)
    both = weight[:, :-1] * weight[:, 1:]
    zeros = jax.tree.map(jnp.zeros_like, like)
    return Hmm(
        zeros.initial.at[state[rows, first]].add(weight[rows, first]),
        zeros.transition.at[state[:, :-1], state[:, 1:]].add(both),
        zeros.emission.at[batch.tokens, state].add(weight),
    )
