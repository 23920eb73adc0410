"""The policy gradient: its loss by hand, its slope, its optimum, and learning."""

import functools

import jax
import numpy as np
import pytest
from support import enumerated
from support.enumerated import COUNT

from dinado_jax.exact.learn import learn
from dinado_jax.objectives.reinforce import Reinforce

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MARGIN = 3.0


def every_row(margin=MARGIN):
    rows = Reinforce(margin).rows(enumerated.rollouts(), np.ones(COUNT), 0)
    return enumerated.every_row(lambda step: rows(step, 4 * COUNT))


@functools.partial(jax.jit, static_argnums=0)
def term(margin, params, batch):
    one = enumerated.case()
    return Reinforce(margin).term(one.control, params, one.base_params, batch)


@functools.partial(jax.jit, static_argnums=0)
def gradient(margin, params, batch):
    return jax.grad(lambda p: term(margin, p, batch).sum)(params)["direction"]


def baseline(margin):
    """The mean over uniform draws."""
    optimum = enumerated.case().optimum
    return (margin * optimum.label + optimum.log_p).mean() + np.log(COUNT)


def test_the_loss_by_hand():
    batch, params = every_row(), enumerated.noisy(2.0, seed=4)
    optimum = enumerated.case().optimum
    log_q = enumerated.log_policy(params).sum(1)
    log_ratio = log_q + np.log(COUNT)
    advantage = MARGIN * optimum.label + optimum.log_p - baseline(MARGIN) - log_q
    wanted = -(np.exp(np.minimum(log_ratio, 3)) * advantage * log_q).sum()
    found = term(MARGIN, params, batch)
    assert float(found.sum) == pytest.approx(wanted, rel=1e-4)
    assert float(found.weight) == COUNT


def test_beyond_e_3_a_ratio_grows_no_more():
    batch, params = every_row(), enumerated.noisy(1.0)
    for low, lower in ((-40, -50), (-30, -41)):
        a, b = (
            float(
                term(MARGIN, params, batch.replace(log_proposal=np.full(COUNT, x, np.float32))).sum
            )
            for x in (low, lower)
        )
        assert a == b


def test_the_gradient_is_that_of_reward_less_kl():
    """Of E_q[margin C - log q / p], enumerated, by finite differences."""
    batch, params = every_row(), enumerated.noisy(0.7, seed=5)
    optimum = enumerated.case().optimum
    assert np.exp(enumerated.log_policy(params).sum(1)).max() * COUNT < np.exp(3)

    def goal(direction):
        log_q = enumerated.log_policy({"direction": direction}).sum(1)
        return (np.exp(log_q) * (MARGIN * optimum.label - log_q + optimum.log_p)).sum()

    found = -np.float64(gradient(MARGIN, params, batch)) / COUNT
    direction, rng = np.float64(params["direction"]), np.random.default_rng(0)
    for _ in range(6):
        tangent = 1e-4 * rng.standard_normal(direction.shape)
        slope = (goal(direction + tangent) - goal(direction - tangent)) / 2
        assert (found * tangent).sum() == pytest.approx(slope, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("margin", [1.0, 3.0, 6.0])
def test_the_gradient_vanishes_at_p_exp_margin_c(margin):
    """In expectation alone, for the baseline is not the value of that q."""
    batch = every_row(margin)
    rest = np.abs(gradient(margin, enumerated.at_optimum(margin), batch))
    start = np.abs(gradient(margin, enumerated.fresh(), batch))
    assert rest.max() < 1e-4 < 0.1 < start.max()


def test_it_learns_the_success_rate_of_its_margin():
    one = enumerated.case()
    _, curve = learn(one, enumerated.training("reinforce", 600), 3000, "success_rate", 0)
    odds = one.optimum.rate / (1 - one.optimum.rate) * np.exp(6.0)
    assert curve[-1]["satisfaction"] == pytest.approx(odds / (1 + odds), abs=0.02)
    assert curve[-1]["kl_optimum"] < 0.2
