"""Regression of log q on its value at the optimum: rows and forces by hand."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from support import enumerated
from support.enumerated import COUNT, at_optimum, case, fresh, log_policy, noisy
from support.rows import of_probabilities

from dinado_jax.config.schema import Train
from dinado_jax.objectives.regression import RowRegression
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.rollouts.weighting import success_rate_per_prompt

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TRAIN = Train(batch=16, margin=3.0, weights="none")
LOSS = RowRegression(TRAIN.margin, anchor=0.0, bound=0.3, prefix_bound=1.0)
ANCHORED = RowRegression(TRAIN.margin, anchor=0.5, bound=0.3, prefix_bound=1.0)


def drawn(rows, weight, train):
    """The direction's half of the batches of the ten steps that share their draws."""
    batch_at = OBJECTIVES["regression"](train).batches(rows, weight, 0)
    parts = [batch_at(step).direction for step in range(10)]
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)


# Rows


def test_batches_hold_what_the_optimum_says_of_every_row():
    """The third row is a reference: left out at weight 0, three times as often at weight 3."""
    log_proposal = np.log([0.2, 0.1, np.nan, 0.8])
    rows = of_probabilities(
        np.log([0.1, 0.2, 0.1, 0.4]), log_proposal, [1, 0, 1, 0.5], [0, 0, 1, 1]
    )
    weight = np.float32([0.2, 0.5, 0, 1.7])
    batch = OBJECTIVES["regression"](TRAIN).batches(rows, weight, 0)(0)
    assert len(batch.direction.label) == len(batch.norm.label) == 8
    pooled = (0.5 + 0.25) / 3
    own, other = (0.5 + 8 * pooled) / 10, (0.25 + 8 * pooled) / 9
    rates = np.array([own, own, other, other])
    np.testing.assert_allclose(batch.norm.rate, rates[batch.norm.length - 2], rtol=1e-5)
    least = np.exp(-3.0)
    target = np.log([0.1, 0.2, 0.1, 0.4]) + np.log([1, least, 1, 0.5]) - np.log(rates)
    part = drawn(rows, weight, TRAIN)
    index = part.length - 2
    assert set(index) == {0, 1, 3}
    np.testing.assert_allclose(part.target, target[index], rtol=1e-5)
    np.testing.assert_allclose(part.log_rate, np.log(rates)[index], rtol=1e-5)
    np.testing.assert_array_equal(part.label, rows.label[index])
    np.testing.assert_allclose(part.log_proposal, log_proposal[index], rtol=1e-6)
    np.testing.assert_allclose(part.optimal_ratio, np.array([2, 0, 0, 1])[index], rtol=1e-5)
    part = drawn(rows, np.float32([0.2, 0.5, 3, 1.7]), TRAIN)
    index = part.length - 2
    assert (index == 2).mean() == pytest.approx(0.5, abs=0.02)
    assert (part.log_proposal[index == 2] == np.inf).all()
    ratio = np.array([2, 0, 3 / 3.85 / 3, 0.85 / 3.85])  # a reference is drawn by its weight
    np.testing.assert_allclose(part.optimal_ratio, ratio[index], rtol=1e-5)
    np.testing.assert_allclose(
        drawn(rows, np.float32([1, 1, 3, 1]), TRAIN).target, target[index], rtol=1e-5
    )


# Forces


def every_row(margin, unbounded=False):
    """All sequences as uniform draws: their rate is R0 without an error.

    Unbounded: the bound of values takes R0 for e^-30 and has no part in the loss.
    """
    rows = enumerated.rollouts()
    np.testing.assert_allclose(
        success_rate_per_prompt(rows), np.full(COUNT, case().optimum.rate), rtol=1e-5
    )
    train = Train(batch=4 * COUNT, margin=margin, weights="none")
    weight = np.exp(rows.log_base - rows.log_proposal)
    batch_at = OBJECTIVES["regression"](train).batches(rows, weight, 0)
    batch = enumerated.every_row(lambda step: batch_at(step).direction)
    return dataclasses.replace(batch, log_rate=batch.log_rate - 30) if unbounded else batch


@functools.partial(jax.jit, static_argnames="loss")
def value(params, batch, loss=LOSS):
    term = loss.term(case().control, params, case().base_params, batch)
    return term.sum


@functools.partial(jax.jit, static_argnames="loss")
def forces(params, batch, loss=LOSS):
    """The gradient of the direction, row by row [B, V, P]."""

    def one(row):
        row = jax.tree.map(lambda x: x[None], row)
        return jax.grad(value)(params, row, loss)["direction"]

    return jax.vmap(one)(batch)


@pytest.mark.parametrize("margin", [3.0, 6.0])
def test_no_row_pushes_a_q_that_is_right(margin):
    """Whatever drew it: there is no noise at the optimum, here q* but for e^-16 of failures."""
    batch = every_row(margin)
    rest = np.abs(forces(at_optimum(16.0), batch)).max((1, 2))
    np.testing.assert_allclose(rest, np.zeros_like(rest), atol=5e-5)
    start = np.abs(forces(fresh(), batch)).max((1, 2))
    assert (start[batch.label > 0] > 0.1).all() and (start > 0).all()


def test_the_anchor_pushes_single_rows_but_not_all_together():
    """The rows are uniform draws of all there are: their sum is in proportion to the expectation.
    With a margin of 12 nats q is all but q*, where the likelihood is at rest.
    """
    batch, params = every_row(12.0), at_optimum(12.0)
    pushes = forces(params, batch, ANCHORED)
    assert np.abs(pushes).max() > 1 and np.abs(pushes.sum(0)).max() < 0.01


def test_failures_are_let_go_as_q_leaves_them():
    """Their forces are as q / d is: at a q near q* smaller than at p by the factor q / p."""
    batch = every_row(3.0)
    failed = batch.label == 0
    near, p = at_optimum(6.0), fresh()
    log_q, log_p = log_policy(near).sum(1), log_policy(p).sum(1)
    loss = {
        name: float(value(params, jax.tree.map(lambda x: x[failed], batch)))
        for name, params in (("near", near), ("p", p))
    }
    expected = {
        name: 8 * np.exp(log - batch.log_proposal)[failed].sum()
        for name, log in (("near", log_q), ("p", log_p))
    }
    assert loss == pytest.approx(expected, rel=1e-4)
    assert 0 < loss["near"] < loss["p"] / 20


def test_references_that_fail_do_not_pull():
    """They have no proposal, and say nothing of what q draws."""
    batch = every_row(3.0)
    failed = jax.tree.map(lambda x: x[batch.label == 0], batch)
    given = dataclasses.replace(failed, log_proposal=np.full_like(failed.log_proposal, np.inf))
    assert float(value(fresh(), given)) == 0
    assert not np.any(forces(fresh(), given))


def test_a_soft_label_below_the_margin_counts_as_a_failure():
    """Classifiers hardly ever answer exactly 0."""
    batch, params = every_row(1.0), at_optimum(6.0)
    failed = batch.label == 0
    soft = dataclasses.replace(batch, label=np.where(failed, np.float32(1e-4), batch.label))
    assert failed.any() and float(value(params, soft)) == float(value(params, batch))
    np.testing.assert_array_equal(forces(params, soft), forces(params, batch))


def test_the_loss_by_hand():
    """Huber's of successes: half the square up to 1.5 nats, then linear. Failures: 8 q / d, beyond
    e^3 its tangent.
    """
    batch, params = every_row(3.0, unbounded=True), noisy(2.0, seed=4)
    log_q = log_policy(params).sum(1)
    failed = batch.label == 0
    # Half of the failures were drawn by a proposal that hardly ever draws them.
    rare = failed & (np.arange(COUNT) % 2 == 0)
    batch = dataclasses.replace(
        batch, log_proposal=np.where(rare, np.float32(log_q - 4), batch.log_proposal)
    )
    ratio = log_q - batch.log_proposal
    assert (ratio[failed] > 3).any() and (ratio[failed] < 3).any()
    size = np.abs(log_q - batch.target)
    assert (size[~failed] > 1.5).any() and (size[~failed] < 1.5).any()
    huber = np.where(size <= 1.5, size**2 / 2, 1.5 * (size - 0.75))
    tangent = np.exp(np.minimum(ratio, 3)) * (1 + np.maximum(ratio - 3, 0))
    wanted = np.where(failed, 8 * tangent, huber).sum()
    for loss in (LOSS, ANCHORED):
        likelihood = (batch.optimal_ratio * log_q).sum()
        term = loss.term(case().control, params, case().base_params, batch)
        assert float(term.sum) == pytest.approx(wanted - loss.anchor * likelihood, rel=1e-5)
        assert float(term.weight) == len(size)


def test_gradients_against_finite_differences():
    batch, params = every_row(3.0, unbounded=True), noisy(0.7, seed=5)
    gradient = np.float64(jax.grad(value)(params, batch)["direction"])
    rng = np.random.default_rng(0)
    for _ in range(6):
        tangent = rng.standard_normal(gradient.shape) + gradient / np.linalg.norm(gradient)
        tangent *= 0.02 / np.linalg.norm(tangent)
        above, below = (
            float(value({**params, "direction": params["direction"] + sign * tangent}, batch))
            for sign in (1, -1)
        )
        slope = (gradient * tangent).sum()
        assert (above - below) / 2 == pytest.approx(slope, rel=0.02, abs=1e-4)
