"""Guided dropout: rates by the Fisher information of what lies behind each site (arXiv 2406.14005).

The empirical Fisher information of a parameter (equation 3 there) over rows of plain text is

    F = 1/n sum_i (d loss_i / d theta)^2

with loss_i the mean cross-entropy of the tokens of row i. It says how much the loss changes with
the parameter: sites whose parameters matter least get the most noise. To second order dropout at
rate p adds about p / (1 - p) sum F theta^2 / 2 to the loss; rates that fall with F keep that
penalty from piling up where F is large.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.data.batch import Batch, rows_of
from dinado_jax.distributed.partitioning import Plan, psum
from dinado_jax.errors import InputError
from dinado_jax.models.params import by_path
from dinado_jax.models.protocol import BaseModel
from dinado_jax.objectives.sft import likelihood
from dinado_jax.training.step import split_micro_batches


def fisher_scores(model: BaseModel, params: dict, rows: Batch, plan: Plan) -> dict[str, float]:
    """The score of each dropout site: of the tensors of its group, the unweighted mean of the mean
    of F over each.

    Each device holds one gradient at a time, and of a row's squares only their means are kept.

    Args:
      model: whose `dropout_sites` name the groups.
      params: of the model, sharded by the plan.
      rows: n of them, on the host, each with a token to predict.
      plan: the devices, which share the rows.

    Returns:
      Squared nats, by site in the order of `dropout_sites`.

    Raises:
      InputError: if no row has a token to predict, and for scores that are not finite.
    """
    n = len(rows.length)
    if not np.any(rows.length > rows.prompt_length):
        raise InputError("Fisher scores need targets, and no row has any: give rows of text")
    pieces = math.ceil(n / plan.mesh.size)
    shared = split_micro_batches(_padded(rows, pieces * plan.mesh.size), pieces)
    zeros = plan.init_sharded(lambda: jax.tree.map(lambda _: jnp.zeros(()), params))
    add = plan.compile(functools.partial(_add_squares, model))
    sums, _ = add(zeros, params, plan.shard_batch(shared))
    of_tensor = {path: float(x) / n for path, x in by_path(plan.gather_to_host(sums)).items()}
    scores = {
        site: float(np.mean([x for path, x in of_tensor.items() if re.fullmatch(group, path)]))
        for site, group in model.dropout_sites.items()
    }
    if not all(map(math.isfinite, scores.values())):
        raise InputError("Fisher scores are not finite: check the base's weights and dtype")
    return scores


def rank_schedule(scores: Mapping[str, float], highest: float) -> dict[str, float]:
    """Rates that fall linearly with the rank of the score, whatever its size: the lowest score has
    the rate `highest`, the highest one 0.

    Equal scores keep their order.

    Args:
      scores: by site.
      highest: rate in [0, 1).
    """
    steps = max(1, len(scores) - 1)
    ranked = {
        site: highest * ((steps - rank) / steps)
        for rank, site in enumerate(sorted(scores, key=scores.__getitem__))
    }
    return {site: ranked[site] for site in scores}


def _padded(rows: Batch, count: int) -> Batch:
    """The rows, repeated without targets up to `count`: their gradients are 0."""
    index = np.resize(np.arange(len(rows.length)), count)
    padded = rows_of(rows, index)
    nothing = np.arange(count) >= len(rows.length)
    length = np.where(nothing, padded.prompt_length, padded.length)
    return dataclasses.replace(padded, length=length)


def _add_squares(
    model: BaseModel, sums: Any, params: dict, rows: Batch, axis: Any
) -> tuple[Any, dict]:
    """Adds to the sum of each tensor the mean square of its gradient by every row, rows being
    [pieces, rows, ..].
    """

    def loss_of(params: dict, row: Batch) -> jax.Array:
        nll = likelihood(model, None, params, None, jax.tree.map(lambda x: x[None], row))["nll"]
        return nll.sum / jnp.maximum(nll.weight, 1)

    def squares_of(row: Batch) -> Any:
        gradient = jax.grad(loss_of)(params, row)
        return jax.tree.map(lambda g: jnp.square(g.astype(jnp.float32)).mean(), gradient)

    def add(sums: Any, piece: Batch) -> tuple[Any, None]:
        squares = jax.vmap(squares_of)(piece)
        return jax.tree.map(lambda total, each: total + each.sum(), sums, squares), None

    zeros = jax.tree.map(jnp.zeros_like, sums)
    added = psum(jax.lax.scan(add, zeros, rows)[0], axis)
    return jax.tree.map(jnp.add, sums, added), {}
