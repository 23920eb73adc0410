"""Importance weights and rates by hand, and what they estimate."""

import dataclasses

import numpy as np
import pytest
from support.rows import WIDTH, of_probabilities, rollouts

from dinado_jax.data.sequences import Sequences
from dinado_jax.exact.compare import setting
from dinado_jax.exact.world import World
from dinado_jax.rollouts.weighting import (
    align_to_targets,
    duplicate_share,
    effective_sample_size,
    exclusive_cumsum,
    importance_weights,
    log_mixture_weight,
    log_weight_through,
    normalize_per_prompt,
    success_rate,
    success_rate_per_prompt,
    suffix_importance_weights,
)


def weighted(ratios, labels, references=0):
    """Rollouts with the given p / proposal; the last `references` are people's."""
    rows = rollouts(len(ratios), references=references)
    log_proposal = np.where(np.isnan(rows.log_proposal), np.nan, rows.log_base - np.log(ratios))
    return dataclasses.replace(
        rows,
        label=np.float32(labels),
        log_proposal=log_proposal.astype(np.float32),
    )


def test_importance_weights_are_the_ratios_cut_at_a_quantile():
    ratios = np.array([0.1, 0.5, 1.0, 2.0, 50.0])
    rows = weighted(ratios, np.ones(5))
    whole = importance_weights(rows, "importance", 1.0, 0.0)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, ratios, rtol=1e-5)
    np.testing.assert_allclose(
        importance_weights(rows, "importance", 0.75, 0.0), [0.1, 0.5, 1.0, 2.0, 2.0], rtol=1e-5
    )
    np.testing.assert_array_equal(importance_weights(rows, "none", 0.75, 0.0), np.ones(5))


@pytest.mark.parametrize("mode", ["importance", "none"])
def test_references_have_a_weight_of_their_own(mode):
    rows = weighted(np.ones(5), np.ones(5), references=2)
    weight = importance_weights(rows, mode, 0.9, 0.25)
    np.testing.assert_allclose(weight, [1, 1, 1, 0.25, 0.25], rtol=1e-5)


def test_suffix_weights_are_the_ratios_of_the_tokens_to_come():
    rows = rollouts(7, references=2)
    rng = np.random.default_rng(4)
    column = np.arange(WIDTH - 1)
    inside = (column >= rows.prompt_length[:, None] - 1) & (column < rows.length[:, None] - 1)
    ratio = np.where(inside, rng.normal(0, 0.3, inside.shape), 0).astype(np.float32)
    log_proposal = np.where(rows.reference, np.nan, rows.log_base - ratio.sum(1))
    rows = dataclasses.replace(
        rows, log_proposal=np.float32(log_proposal), log_prefix=exclusive_cumsum(ratio)
    )
    weight = suffix_importance_weights(rows, "importance")
    for row, at in zip(*np.nonzero(inside)):
        rest = 1.0 if row >= 5 else np.exp(ratio[row, at:].sum())
        assert weight[row, at] == pytest.approx(rest, rel=1e-4)
    assert (weight[5:] == 1).all()
    np.testing.assert_array_equal(suffix_importance_weights(rows, "none"), np.ones_like(weight))
    far = dataclasses.replace(rows, log_prefix=rows.log_prefix + np.float32(1e4))
    assert np.isfinite(suffix_importance_weights(far, "importance")).all()
    extreme = dataclasses.replace(rows, log_prefix=rows.log_prefix - np.float32(1e4))
    assert np.isfinite(suffix_importance_weights(extreme, "importance")).all()


def test_along_targets_and_before():
    rows = Sequences(np.zeros((3, 6), np.int32), np.int32([1, 3, 2]), np.int32([4, 4, 2]))
    new = np.float32([[-1, -2, -3, -4], [-5, -6, -7, -8], [-9, -9, -9, -9]])
    moved = align_to_targets(rows, new)
    np.testing.assert_array_equal(moved, [[-1, -2, -3, 0, 0], [0, 0, -5, 0, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(exclusive_cumsum(moved)[0], [0, -1, -3, -6, -6])


def test_weights_of_prefixes_with_their_last_token():
    rows = dataclasses.replace(
        of_probabilities([-3, -4], [-2, -6], [1, 1]),
        length=np.int32([4, 2]),
        log_prefix=np.float32([[0, 0.5, -0.3], [0, 9, 9]]),
    )
    wanted = [[0.5, -0.3, -1], [2, 2, 2]]
    np.testing.assert_allclose(log_weight_through(rows), wanted, rtol=1e-6)


def test_repeated_share():
    rows = rollouts(6)
    assert duplicate_share(rows) == 0
    same = {"tokens": rows.tokens[[0, 0, 0, 3, 3, 3]], "length": rows.length[[0, 0, 0, 3, 3, 3]]}
    rows = dataclasses.replace(rows, **same, prompt_id=np.int32([0, 0, 0, 1, 1, 2]))
    assert duplicate_share(rows) == pytest.approx(3 / 6)


def test_extreme_ratios_stay_finite():
    rows = weighted(np.ones(3), np.ones(3))
    rows = dataclasses.replace(rows, log_proposal=rows.log_base + np.float32([-1e4, 0, 1e4]))
    assert np.isfinite(importance_weights(rows, "importance", 1.0, 0.0)).all()
    assert np.isfinite(success_rate(rows))


def test_effective_sample_size():
    assert effective_sample_size(np.ones(7)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.array([5.0, 5.0, 0.0])) == pytest.approx(2)
    assert effective_sample_size(np.zeros(3)) == 0


def test_success_rate_weighs_samples_and_leaves_references_out():
    labels = [1, 0, 0.5, 1, 1]
    rows = weighted([2.0, 1.0, 1.0, 1.0, 1.0], labels, references=2)
    assert success_rate(rows) == pytest.approx((2 * 1 + 0 + 0.5) / 4, rel=1e-5)
    assert success_rate(weighted(np.ones(4), [1, 0, 0, 0])) == pytest.approx(0.25, rel=1e-5)


def test_weights_turn_draws_of_one_distribution_into_draws_of_another():
    """Samples of q, weighed by p / q, have the success rate of p."""
    rng = np.random.default_rng(0)
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    drawn = rng.choice(3, 4000, p=q)
    rows = weighted((p / q)[drawn], drawn == 2)
    assert success_rate(rows) == pytest.approx(0.1, abs=0.01)
    weight = importance_weights(rows, "importance", 1.0, 0.0)
    assert np.average(drawn == 2, weights=weight) == pytest.approx(0.1, abs=0.01)
    assert 0.25 < effective_sample_size(weight) / 4000 < 0.6


def test_per_prompt_weights_add_up_to_1_and_keep_their_ratios():
    prompt_id = np.array([7, 3, 7, 9, 3, 7])
    weight = np.array([1.0, 0.0, 3.0, 0.0, 5.0, 0.0])
    np.testing.assert_allclose(normalize_per_prompt(weight, prompt_id), [0.25, 0, 0.75, 0, 1, 0])


def test_the_weight_of_a_mixture():
    log_ratio = np.log([[3.0, 1.0, 1e-30]])
    wanted = -np.log([[0.25 + 0.75 * 3, 1.0, 0.25]])
    np.testing.assert_allclose(log_mixture_weight(log_ratio, 0.25), wanted, rtol=1e-6)
    np.testing.assert_allclose(
        log_mixture_weight(log_ratio[:, :2], 0.0), -log_ratio[:, :2], atol=1e-7
    )
    np.testing.assert_allclose(log_mixture_weight(log_ratio, 1.0), np.zeros((1, 3)), atol=1e-7)
    extreme = log_mixture_weight(np.array([1e4, -1e4]), 0.5)
    np.testing.assert_allclose(extreme, [-700 + np.log(2), np.log(2)], rtol=1e-6)
    assert extreme.dtype == np.float32


def test_rates_by_hand():
    """Two prompts and a reference; (p / d) C is 1/2, 0 and 1/4, 1/4: rates towards 1/4."""
    rows = of_probabilities(
        log_base=np.log([0.1, 0.2, 0.1, 0.1, 0.5]),
        log_proposal=[*np.log([0.2, 0.1, 0.4, 0.4]), np.nan],
        label=[1, 0, 1, 1, 1],
        prompt_id=[7, 7, 3, 3, 3],
    )
    rates = success_rate_per_prompt(rows)
    np.testing.assert_allclose(rates, np.full(5, 0.25), rtol=1e-6)
    rows.label[0] = 0
    pooled = 0.5 / 4
    few, many = 8 * pooled / 10, (0.5 + 8 * pooled) / 10
    np.testing.assert_allclose(
        success_rate_per_prompt(rows), [few, few, many, many, many], rtol=1e-6
    )
    alone = success_rate_per_prompt(rows, shrinkage=0)
    np.testing.assert_allclose(alone, [1e-6, 1e-6, 0.25, 0.25, 0.25], rtol=1e-6)
    rows.label[:] = 0
    np.testing.assert_allclose(success_rate_per_prompt(rows), np.full(5, 1e-6))


@pytest.mark.parametrize("proposal", ["p", "q", "mixture"])
def test_rates_are_unbiased_whatever_was_drawn(proposal):
    """Over every pair of rows, one of each of two prompts, by their probability."""
    world = World(vocabulary=3, length=3, rarity=0.15, ends=True)
    optimum = setting("ends", world, "merge", 0).optimum
    p = np.exp(optimum.log_p)
    q = p * np.where(optimum.label > 0, 3.0, 0.5)
    d = {"p": p, "q": q, "mixture": 0.5 * p + 0.5 * q / q.sum()}[proposal]
    d = d / d.sum()
    mean = np.zeros(2)
    for first in range(len(d)):
        for second in range(len(d)):
            pair = [first, second]
            rows = of_probabilities(np.log(p[pair]), np.log(d[pair]), optimum.label[pair], [0, 1])
            mean += d[first] * d[second] * success_rate_per_prompt(rows)
    np.testing.assert_allclose(mean, np.full(2, optimum.rate), rtol=1e-4)
