"""The clipped surrogate: loss by hand, slope, optimum, coefficient, and learning."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from support import enumerated, uneven
from support.enumerated import COUNT, WORLD

from dinado_jax.exact.learn import judged, learn
from dinado_jax.objectives.ppo import Ppo
from dinado_jax.rollouts.arrays import concatenate
from dinado_jax.rollouts.weighting import exclusive_cumsum, success_rate_per_prompt

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MARGIN = 3.0


def drawn_from(params):
    """Every sequence once, as draws of q in round 1, and log q / p of every token."""
    log_ratio = enumerated.log_policy(params) - enumerated.log_base()
    one = enumerated.case()
    return judged(WORLD, one.optimum, np.arange(COUNT), log_ratio, 0.0, 1), log_ratio


def every_row(rows, margin=MARGIN):
    at = Ppo(margin).rows(rows, np.ones(len(rows)), 0)
    return enumerated.every_row(lambda step: at(step, 4 * COUNT))


@functools.partial(jax.jit, static_argnums=0)
def term(margin, params, batch):
    one = enumerated.case()
    return Ppo(margin).term(one.control, params, one.base_params, batch)


def returns(rows, log_ratio):
    """C / beta - log d / p of every row, with the coefficient of its round."""
    return rows.label / Ppo(MARGIN).beta(rows) - log_ratio.sum(1)


def test_the_loss_by_hand():
    rows, old = drawn_from(enumerated.noisy(0.7, seed=4))
    params = enumerated.noisy(0.8, seed=5)
    new = enumerated.log_policy(params) - enumerated.log_base()
    advantage = returns(rows, old) - returns(rows, old).mean()
    total, cases = 0.0, set()
    for row, t in zip(*np.nonzero(WORLD.inside)):
        ratio, a = np.exp(new[row, t] - old[row, t]), advantage[row]
        total -= min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
        cases.add((a > 0, ratio > 1.2, ratio < 0.8))
    assert len(cases) == 6
    found = term(MARGIN, params, every_row(rows))
    assert float(found.sum) == pytest.approx(total, rel=1e-4)
    assert float(found.weight) == COUNT


def test_a_ratio_beyond_all_bounds_stays_finite():
    rows, _ = drawn_from(enumerated.noisy(0.7))
    params = enumerated.noisy(60.0, seed=1)
    for flipped in (1, -1):
        batch = every_row(rows)
        batch = batch.replace(advantage=flipped * batch.advantage)
        gradient = jax.grad(lambda p, batch=batch: term(MARGIN, p, batch).sum)(params)
        assert np.isfinite(gradient["direction"]).all()


def test_where_q_is_its_proposal_the_gradient_is_that_of_reward_less_kl():
    """Of E_q[C / beta - log q / p], enumerated, by finite differences."""
    params, optimum = enumerated.noisy(0.7, seed=5), enumerated.case().optimum
    rows, log_ratio = drawn_from(params)
    batch, q = every_row(rows), np.exp(optimum.log_p + log_ratio.sum(1))
    beta = Ppo(MARGIN).beta(rows)

    def expected(p):
        one_each = jax.tree.map(lambda x: x[:, None], batch)
        return np.float32(q) @ jax.vmap(lambda row: term(MARGIN, p, row).sum)(one_each)

    def goal(direction):
        log_q = enumerated.log_policy({"direction": direction}).sum(1)
        return (np.exp(log_q) * (optimum.label / beta - log_q + optimum.log_p)).sum()

    found = -np.float64(jax.grad(expected)(params)["direction"])
    direction, rng = np.float64(params["direction"]), np.random.default_rng(0)
    for _ in range(6):
        tangent = 1e-4 * rng.standard_normal(direction.shape)
        slope = (goal(direction + tangent) - goal(direction - tangent)) / 2
        assert (found * tangent).sum() == pytest.approx(slope, rel=1e-3, abs=1e-8)


def test_no_row_pushes_a_q_that_is_the_optimum_of_its_coefficient():
    one = enumerated.case()
    label = one.optimum.label
    # The margin of the second round, as its KL and its target have it.
    rows, _ = drawn_from(enumerated.at_optimum(MARGIN))
    margin = MARGIN * Ppo(MARGIN).beta(rows) * MARGIN
    assert margin != pytest.approx(MARGIN)
    batch = every_row(rows, margin)
    assert 1 / Ppo(margin).beta(rows) == pytest.approx(MARGIN)
    np.testing.assert_allclose(batch.advantage, np.zeros(COUNT), atol=1e-5)
    off = every_row(rows, 2 * margin).advantage
    assert off[label > 0].min() > 0.1 > -0.1 > off[label == 0].max()


def rounds(log_ratio):
    """Random rollouts of three rounds, with log d / p of the samples of each."""
    parts = []
    for number, value in enumerate(log_ratio):
        part = uneven.rollouts(number, references=4 if number == 0 else 0)
        log_proposal = np.where(part.reference, np.nan, part.log_base + value)
        parts.append(
            dataclasses.replace(
                part,
                prompt_id=part.prompt_id + 100 * number,
                log_proposal=np.float32(log_proposal),
                round=np.full(len(part), number, np.int32),
            )
        )
    return concatenate(parts, 0)


@pytest.mark.parametrize("value, factor", [(0.0, 0.8), (50.0, 1.2), (1.0, None)])
def test_the_coefficient_follows_the_kl_of_every_round_of_q(value, factor):
    rows = rounds([0.0, value, value])
    wanted = 1 / MARGIN
    for number in (1, 2):
        of_round = rows.round == number
        target = -np.log(success_rate_per_prompt(rows)[of_round]).mean()
        error = min(max(value / target - 1, -0.2), 0.2)
        assert factor is None or 1 + error == factor
        wanted *= 1 + error
    assert Ppo(MARGIN).beta(rows) == pytest.approx(wanted, rel=1e-5)
    assert Ppo(MARGIN).beta(rounds([0.0])) == 1 / MARGIN


def test_the_newest_round_alone_is_drawn():
    rows = rounds([0.0, 0.3, 0.4])
    at = Ppo(MARGIN).rows(rows, np.ones(len(rows)), 0)
    batches = [at(step, 16) for step in range(10)]
    index = np.concatenate([batch.row for batch in batches])
    assert set(index) == set(np.flatnonzero(rows.round == 2))
    net = rows.label / Ppo(MARGIN).beta(rows) - 0.4
    for batch in batches:
        for row, advantage in zip(batch.row, batch.advantage):
            same = (rows.prompt_id == rows.prompt_id[row]) & (rows.round == 2)
            assert advantage == pytest.approx(net[row] - net[same].mean(), abs=1e-4)


def test_it_learns_the_optimum_of_its_last_coefficient():
    train = dataclasses.replace(
        enumerated.training("ppo", 600), rounds=30, mixture=0.0, margin=2.0, learning_rate=0.03
    )
    one = enumerated.case()
    _, curve = learn(one, train, 15000, "success_rate", 0)
    rate = curve[-1]["satisfaction"]
    margin = np.log(rate / (1 - rate) * (1 - one.optimum.rate) / one.optimum.rate)
    assert margin > 2.5
    assert curve[-1]["efficiency"] > 0.95


def test_log_ratios_are_those_of_single_tokens():
    params = enumerated.noisy(0.7, seed=4)
    rows, log_ratio = drawn_from(params)
    np.testing.assert_allclose(rows.log_prefix, -exclusive_cumsum(log_ratio), atol=1e-5)
    found = every_row(rows).log_ratio
    np.testing.assert_allclose(found[WORLD.inside], log_ratio[WORLD.inside], atol=1e-5)
