"""Intervals and tests by resampling prompts."""

import math

import numpy as np
import pytest
from support.refusal import error_of

from dinado_jax.evaluation.intervals import (
    bootstrap_interval,
    bootstrap_interval_of_sums,
    compare,
)
from dinado_jax.metrics.protocol import Measured, Sums


def ratio(rows):
    return Sums(rows, lambda sums: sums[:, 0] / sums[:, 1])


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(1).normal(2, 3, 900)
    low, high = bootstrap_interval(values, seed=0, draws=4000)
    error = values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    assert bootstrap_interval(values, seed=0) == bootstrap_interval(values, seed=0)
    assert bootstrap_interval(values, seed=0) != bootstrap_interval(values, seed=1)


def test_the_interval_of_sums_is_not_that_of_the_mean_of_ratios():
    rng = np.random.default_rng(2)
    size = rng.integers(1, 100, 400).astype(float)
    rows = np.stack([(size > 50) * size, size], 1)
    low, high = bootstrap_interval_of_sums(ratio(rows), seed=0)
    assert low < rows[:, 0].sum() / rows[:, 1].sum() < high
    assert not low < (rows[:, 0] / rows[:, 1]).mean() < high


def test_intervals_hold_as_often_as_they_say():
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.random(40), seed, draws=200)
        held += low < 0.5 < high
    assert 0.90 <= held / 200 <= 0.985


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 10, 100)  # what prompts have in common says nothing of the systems

    def p_value(shift, seed):
        first, second = (shared + rng.normal(0, 1, 100) + x for x in (0, shift))
        sums = [Measured.of_means(x).sums for x in (first, second)]
        return compare(*sums, seed, draws=99)

    null = [p_value(0.0, seed).p_value for seed in range(120)]
    assert 0.4 < np.mean(null) < 0.6 and 0.02 <= np.mean(np.array(null) <= 0.1) <= 0.18
    found = p_value(1.0, 0)
    assert found.p_value == 1 / 100
    assert found.interval.low < found.difference < found.interval.high
    assert found.interval.low > 0.5  # unpaired, it would hold 0


def test_a_system_against_itself():
    rows = np.stack([np.arange(9.0), np.ones(9)], 1)
    found = compare(ratio(rows), ratio(rows), seed=0)
    assert found.difference == 0 and found.p_value == 1 and found.interval == (0, 0)


def test_one_prompt_has_no_interval():
    sums = ratio(np.ones((1, 2)))
    assert all(map(math.isnan, bootstrap_interval([1.0], seed=0)))
    assert math.isnan(compare(sums, sums, seed=0).p_value)
    assert "1 and 2 prompts" in error_of(compare, sums, ratio(np.ones((2, 2))), 0)


def test_where_a_ratio_is_undefined():
    """Of few texts with anything to count, some draws have none: they say nothing of a metric, and
    make no difference significant."""
    none = ratio(np.zeros((20, 2)))
    with np.errstate(invalid="ignore"):
        same = compare(none, none, seed=0)
        assert math.isnan(same.p_value) and math.isnan(same.interval.low)
        counted = np.zeros((2, 20, 2))
        counted[:, :2, 1], counted[1, :2, 0] = 1, 1
        first, second = map(ratio, counted)
        assert compare(first, second, seed=0).p_value > 0.4
        assert bootstrap_interval_of_sums(second, seed=0) == (1, 1)
