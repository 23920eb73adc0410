"""Contrastive twists: the loss by hand, its rest in expectation at R*, and learning."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import enumerated
from support.enumerated import COUNT, WORLD

from dinado_jax.errors import InputError
from dinado_jax.exact.learn import learn
from dinado_jax.exact.world import Optimum
from dinado_jax.objectives.contrastive import Contrastive

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NEXT = WORLD.rows.tokens[:, 1:]
INSIDE, PREFIX = WORLD.inside, WORLD.prefix


def prefix_log_probs(log_q):
    """Log-probability of the prefix before every token, and of the one that ends with it: by
    summing the sequences' own, [S]; after the end that of the sequence."""
    before, through = np.zeros(INSIDE.shape), np.zeros(INSIDE.shape)
    tokens = np.where(INSIDE, NEXT, -1)
    for row, t in itertools.product(range(COUNT), range(WORLD.length)):
        for found, width in ((before, t), (through, t + 1)):
            same = (tokens[:, :width] == tokens[row, :width]).all(1)
            found[row, t] = np.log(np.exp(log_q[same]).sum())
    return before, through


UNIFORM = np.full(COUNT, -np.log(COUNT))


def rollouts(label=None):
    """Every sequence once, as draws from the uniform distribution."""
    log_p = enumerated.case().optimum.log_p
    log_prefix = prefix_log_probs(log_p)[0] - prefix_log_probs(UNIFORM)[0]
    rows = dataclasses.replace(enumerated.rollouts(), log_prefix=np.float32(log_prefix))
    return rows if label is None else dataclasses.replace(rows, label=np.float32(label))


def weight(rows):
    return np.exp(rows.log_base - rows.log_proposal)


def groups(size, count=48, label=None):
    rows = rollouts(label)
    at = Contrastive(size).rows(rows, weight(rows), 0)
    parts = [at(step, count) for step in range(10)]
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)


@functools.partial(jax.jit, static_argnums=0)
def term(size, params, batch):
    one = enumerated.case()
    return Contrastive(size).term(one.control, params, one.base_params, batch)


def log_r(params):
    """log R after every token of every sequence, by hand; after the end that of the sequence."""
    log_q = np.float64(WORLD.tables() + params["direction"])
    log_q -= np.log(np.exp(log_q).sum(0))
    ratio = log_q - np.float64(WORLD.tables())
    table = -np.log1p(np.exp(-np.float64(params["norm"]))) + ratio - ratio.max(0)
    found = table[NEXT, PREFIX]
    last = found[np.arange(COUNT), INSIDE.sum(1) - 1]
    return np.where(INSIDE, found, last[:, None])


def test_the_loss_by_hand():
    batch, params = groups(4), enumerated.noisy(1.0, seed=3)
    index = WORLD.index(batch.tokens).reshape(-1, 4)
    through = prefix_log_probs(enumerated.case().optimum.log_p)[1]
    score = through - prefix_log_probs(UNIFORM)[1] + log_r(params)
    total, ends = 0.0, set()
    for rows in index:
        longest = INSIDE[rows].sum(1).max()
        ends.add((longest, INSIDE[rows].sum(1).min()))
        of_group = score[rows][:, :longest]
        total += (np.log(np.exp(of_group).sum(0)) - of_group[0]).sum()
    assert len(ends) > 2
    found = term(4, params, batch)
    assert float(found.sum) == pytest.approx(total, rel=1e-4)
    assert float(found.weight) == len(index)


def test_the_first_of_a_group_is_of_the_optimum_and_the_others_as_drawn():
    batch, optimum = groups(4, 400), enumerated.case().optimum
    index = WORLD.index(batch.tokens).reshape(-1, 4)
    first = np.bincount(index[:, 0], minlength=COUNT) / len(index)
    np.testing.assert_allclose(first, optimum.q, atol=1.5 / len(index))
    others = np.bincount(index[:, 1:].ravel(), minlength=COUNT) / index[:, 1:].size
    np.testing.assert_allclose(others, np.full(COUNT, 1 / COUNT), atol=0.02)


def at_r(label, scale):
    """Parameters of R = scale R*."""
    optimum = Optimum.of(WORLD, enumerated.case().optimum.log_p, label)
    r = np.full((WORLD.vocabulary, WORLD.prefixes), -30.0)
    r[NEXT[INSIDE], PREFIX[INSIDE]] = np.log(optimum.after[INSIDE])
    beta = scale * np.exp(r.max(0))
    return {"direction": jnp.float32(r), "norm": jnp.float32(np.log(beta) - np.log1p(-beta))}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("scale", [0.9, 0.2])
def test_all_groups_together_leave_r_alone_where_it_is_right(size, scale):
    """Of every group that can be drawn, weighted by its probability; up to a factor."""
    floor = np.where(enumerated.case().optimum.label > 0, 1.0, np.float32(0.05))
    optimum = Optimum.of(WORLD, enumerated.case().optimum.log_p, floor)
    rows = rollouts(floor)
    at = Contrastive(size).rows(rows, weight(rows), 0)
    one_each = enumerated.every_row(lambda step: at(step, 40 * size))
    index = np.stack(list(itertools.product(range(COUNT), repeat=size)))
    mass = jnp.float32(optimum.q[index[:, 0]] / COUNT ** (size - 1))
    batch = jax.tree.map(lambda column: column[index.reshape(-1)], one_each)

    @jax.jit
    def gradient(params):
        def expected(params):
            grouped = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)
            return mass @ jax.vmap(lambda group: term(size, params, group).sum)(grouped)

        return jax.grad(expected)(params)

    rest, start = gradient(at_r(floor, scale)), gradient(enumerated.fresh())
    for name in ("direction", "norm"):
        assert np.abs(rest[name]).max() < 2e-6
        assert np.abs(start[name]).max() > 1e-2


def test_recursive_forms_are_refused():
    one = enumerated.case("hard_clamped")
    with pytest.raises(InputError, match="choose another kind"):
        Contrastive(2).term(one.control, {}, one.base_params, groups(2))


@pytest.mark.parametrize("variant", ["merge", "nado"])
def test_it_learns_the_optimum(variant):
    train = dataclasses.replace(enumerated.training("contrastive", 600), batch=128)
    _, curve = learn(enumerated.case(variant), train, 3000, "success_rate", 0)
    assert curve[-1]["kl_optimum"] < 0.05
    assert curve[-1]["total_variation"] < 0.1
