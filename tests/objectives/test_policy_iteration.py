"""Soft policy iteration: its terms by hand, its rest at the optimum, what moves, and learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import enumerated
from support.enumerated import COUNT, WORLD

from dinado_jax.config.schema import Train
from dinado_jax.exact.learn import judged, learn
from dinado_jax.objectives.policy_iteration import PolicyIteration

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MARGIN, LAMBDA = 3.0, 0.7
TRAIN = Train(batch=8 * COUNT, margin=MARGIN, bellman=LAMBDA, anchor=0.0, bound=0.0)
ENDS = WORLD.rows.length - 1


@functools.partial(jax.jit, static_argnums=0)
def terms(train, params, batch):
    one = enumerated.case()
    return PolicyIteration(train).terms(one.control, params, one.base_params, batch)


def log_ratio(params):
    """log q / p of every token of every sequence."""
    return enumerated.log_policy(params) - enumerated.log_base()


def samples(params, number: int = 1):
    """Every sequence once, as samples of q in a round: in round 0, of a truncated base."""
    one, index = enumerated.case(), np.arange(COUNT)
    return judged(WORLD, one.optimum, index, log_ratio(params), 0.0, number)


def every_row(rollouts):
    """Each sequence once, among the newest samples and among rows of any proposal."""
    at = PolicyIteration(TRAIN).batches(rollouts, np.ones(len(rollouts)), 0)
    newest = enumerated.every_row(lambda step: at(step).newest)
    rows = enumerated.every_row(lambda step: at(step).rows)
    return dataclasses.replace(at(0), newest=newest, rows=rows)


def optimum(margin: float):
    """q proportional to p max(C, e^-margin) and its norm: V = beta e^-M, hence beta = max R."""
    params = enumerated.at_optimum(margin)
    most = np.exp(np.float64(params["direction"]).max(0))
    most = np.clip(most, 1e-6, 1 - 1e-6)
    return {**params, "norm": jnp.float32(np.log(most) - np.log1p(-most))}


def huber(residual):
    size = np.abs(residual)
    return np.where(size <= 1.5, size**2 / 2, 1.5 * (size - 0.75))


def log_values(params):
    """log V of every prefix: beta over the highest q / p of a next token."""
    log_q = np.float64(WORLD.tables() + params["direction"])
    log_q -= np.log(np.exp(log_q).sum(0))
    peak = (log_q - np.float64(WORLD.tables())).max(0)
    return -np.logaddexp(0, -np.float64(params["norm"])) - peak


@pytest.mark.parametrize("number", [0, 1])
def test_the_terms_by_hand(number):
    behind, params = enumerated.noisy(1.0, seed=3), enumerated.noisy(1.0, seed=4)
    batch = every_row(samples(behind, number))
    log_v, ratio, back = log_values(params), log_ratio(params), log_ratio(behind)
    label = np.asarray(batch.newest.label)
    value = advantage = 0.0
    for i, end in enumerate(ENDS):
        before = log_v[WORLD.prefix[i, :end]]
        following = -np.cumsum(back[i, :end][::-1])[::-1]
        if number:
            value += huber(before - np.log(max(label[i], np.exp(-MARGIN))) - following).sum()
        else:
            entropy = -label[i] * before - (1 - label[i]) * np.log1p(-np.exp(before))
            value += (np.exp(following) * entropy).sum()
        advantage += number * huber(ratio[i, : end - 1] - np.diff(before)).sum()
    found = terms(TRAIN, params, batch)
    assert set(found) == {"direction", "value", "advantage"}
    assert float(found["value"].sum) == pytest.approx(value, rel=1e-4)
    assert float(found["value"].weight) == WORLD.inside.sum()
    assert float(found["advantage"].sum) == pytest.approx(advantage, rel=1e-4)
    assert float(found["advantage"].weight) == COUNT
    assert float(found["advantage"].coefficient) == np.float32(LAMBDA)


def test_it_rests_at_the_optimum():
    """At that of the cut oracle, p max(C, e^-margin), whose samples all have G = log R."""

    def gradient(params):
        batch = every_row(samples(params))

        def total(params):
            found = terms(TRAIN, params, batch)
            return found["value"].sum + found["advantage"].sum

        return jax.grad(total)(params)

    for leaf in jax.tree.leaves(gradient(optimum(MARGIN))):
        np.testing.assert_allclose(leaf, np.zeros_like(leaf), atol=2e-3)
    other = gradient(enumerated.noisy(1.0))
    assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(other))


def test_direction_and_norm_learn_from_one_loss_each():
    batch, params = every_row(samples(enumerated.noisy(1.0))), enumerated.noisy(1.0, seed=1)

    def of(name):
        return jax.grad(lambda params: terms(TRAIN, params, batch)[name].sum)(params)

    moved = {name: of(name) for name in ("direction", "value", "advantage")}
    for name, still in (("direction", "norm"), ("value", "direction"), ("advantage", "norm")):
        (other,) = {"direction", "norm"} - {still}
        assert not np.any(moved[name][still])
        assert np.any(moved[name][other])


def test_only_samples_of_the_newest_round_teach_the_norm():
    old, new = samples(enumerated.noisy(1.0)), samples(enumerated.noisy(1.0), 2)
    both = dataclasses.replace(
        old,
        **{
            f: np.concatenate([v, getattr(new, f)])
            for f, v in vars(old).items()
            if isinstance(v, np.ndarray)
        },
    )
    at = PolicyIteration(TRAIN).batches(both, np.ones(2 * COUNT), 0)
    assert at(0).newest.row.min() >= COUNT > at(0).rows.row.min()


def test_it_learns_the_optimum():
    train = dataclasses.replace(enumerated.training("policy_iteration", 900), rounds=9, mixture=0.0)
    _, curve = learn(enumerated.case(), train, 9000, "success_rate", 0)
    assert curve[-1]["kl_optimum"] < 0.03
    assert curve[-1]["total_variation"] < 0.03
