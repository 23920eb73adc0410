"""The pairwise regression: its loss by hand, its rest at the optimum, and learning."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from support import enumerated
from support.enumerated import COUNT, WORLD

from dinado_jax.exact.learn import learn
from dinado_jax.objectives.variance import GROUP, Variance

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MARGIN = 3.0


def groups(margin=MARGIN, count=40):
    """The longest and the shortest groups of every sequence."""
    at = Variance(margin).rows(enumerated.rollouts(), np.ones(COUNT), 0)
    parts = [at(step, count) for step in range(10)]
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)


@functools.partial(jax.jit, static_argnums=0)
def term(margin, params, batch):
    one = enumerated.case()
    return Variance(margin).term(one.control, params, one.base_params, batch)


def forces(margin, params, batch):
    """The gradient of the direction of every group, [G, V, P]."""
    grouped = jax.tree.map(lambda x: x.reshape(-1, GROUP, *x.shape[1:]), batch)

    def of_group(group):
        return jax.grad(lambda p: term(margin, p, group).sum)(params)["direction"]

    return jax.vmap(of_group)(grouped)


def test_the_loss_by_hand():
    batch, params = groups(), enumerated.noisy(2.0, seed=4)
    index = WORLD.index(batch.tokens)
    label = enumerated.case().optimum.label[index]
    error = (enumerated.log_policy(params) - enumerated.log_base()).sum(1)[index]
    error += MARGIN * (label == 0)
    total, kinds = 0.0, set()
    for start in range(0, len(index), GROUP):
        for i, j in itertools.combinations(range(start, start + GROUP), 2):
            if label[i] == label[j] == 0:
                continue
            size = abs(error[i] - error[j])
            if label[i] != label[j]:
                success, failure = (i, j) if label[i] else (j, i)
                size = max(error[failure] - error[success], 0.0)
            kinds.add((label[i] == label[j], size > 1.5, size > 0))
            total += size**2 / 2 if size <= 1.5 else 1.5 * (size - 0.75)
    assert len(kinds) >= 5
    found = term(MARGIN, params, batch)
    assert float(found.sum) == pytest.approx(total / (GROUP - 1), rel=1e-5)
    assert float(found.weight) == len(index)


def test_of_successes_near_one_another_it_is_their_sample_variance():
    batch, params = groups(), enumerated.noisy(0.1)
    index = WORLD.index(batch.tokens)
    error = (enumerated.log_policy(params) - enumerated.log_base()).sum(1)[index]
    successes = dataclasses.replace(
        batch, label=np.ones(len(index), np.float32), target=enumerated.log_base().sum(1)[index]
    )
    assert np.ptp(error.reshape(-1, GROUP), axis=1).max() < 1.5
    wanted = GROUP / 2 * error.reshape(-1, GROUP).var(axis=1, ddof=1).sum()
    assert float(term(MARGIN, params, successes).sum) == pytest.approx(wanted, rel=1e-3)


def test_the_terms_of_parts_of_whole_groups_add_up():
    batch, params = groups(), enumerated.noisy(1.0)
    whole = float(term(MARGIN, params, batch).sum)
    parts = [jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(200), slice(200, None))]
    assert sum(float(term(MARGIN, params, part).sum) for part in parts) == pytest.approx(whole)


@pytest.mark.parametrize("margin", [1.0, 3.0, 6.0])
def test_no_group_pushes_a_q_that_is_right(margin):
    batch = groups(margin)
    rest = forces(margin, enumerated.at_optimum(margin), batch)
    np.testing.assert_allclose(rest, np.zeros_like(rest), atol=5e-5)
    start = np.abs(forces(margin, enumerated.fresh(), batch)).max((1, 2))
    mixed = np.ptp(batch.label.reshape(-1, GROUP), axis=1) > 0
    assert mixed.any() and (start[mixed] > 0.1).all()


def test_failures_below_the_successes_are_let_be():
    batch, params = groups(1.0), enumerated.at_optimum(6.0)
    pushed = forces(1.0, params, batch)
    np.testing.assert_allclose(pushed, np.zeros_like(pushed), atol=5e-5)


def test_gradients_against_finite_differences():
    batch, params = groups(), enumerated.noisy(0.7, seed=5)
    gradient = np.float64(jax.grad(lambda p: term(MARGIN, p, batch).sum)(params)["direction"])
    rng = np.random.default_rng(0)
    for _ in range(4):
        tangent = rng.standard_normal(gradient.shape) + gradient / np.linalg.norm(gradient)
        tangent *= 0.02 / np.linalg.norm(tangent)
        above, below = (
            float(
                term(MARGIN, {**params, "direction": params["direction"] + s * tangent}, batch)[0]
            )
            for s in (1, -1)
        )
        slope = (gradient * tangent).sum()
        assert (above - below) / 2 == pytest.approx(slope, rel=0.02, abs=1e-2)


def test_it_learns_the_optimum():
    _, curve = learn(
        enumerated.case(), enumerated.training("variance", 300), 3000, "success_rate", 0
    )
    assert curve[-1]["kl_optimum"] < 0.05
    assert curve[-1]["total_variation"] < 0.1
