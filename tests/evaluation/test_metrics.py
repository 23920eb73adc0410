"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from dinado_jax.errors import InputError
from dinado_jax.evaluation.metrics import (
    calibration_bins,
    calibration_error,
    distinct_n,
    efficiency,
    kl_floor,
    kl_floor_by_prompt,
    kl_floor_of_labels,
    kl_floor_of_samples,
    kl_of_target,
    mean_and_error,
    rate_distribution,
)


def test_distinct_n_counts_within_texts():
    texts = ["a dog runs .", "A dog sits ."]
    assert distinct_n(texts, 1) == pytest.approx(4 / 6)
    assert distinct_n(texts, 2) == pytest.approx(3 / 4)
    assert distinct_n(["dog", ""], 2) == 0.0
    assert distinct_n(texts * 5, 2) < distinct_n(texts, 2)
    with pytest.raises(InputError, match="n = 0"):
        distinct_n(texts, 0)


def test_kl_floor():
    by_hand = 0.9 * math.log(0.9 / 0.1) + 0.1 * math.log(0.1 / 0.9)
    assert kl_floor(0.9, 0.1) == pytest.approx(by_hand)
    assert kl_floor(1.0, 0.1) == pytest.approx(math.log(10))
    assert kl_floor(0.0, 0.5) == pytest.approx(math.log(2))
    assert kl_floor(0.3, 0.3) == kl_floor(0.0, 0.0) == kl_floor(1.0, 1.0) == 0.0
    assert kl_floor(0.5, 0.0) == kl_floor(0.5, 1.0) == math.inf
    for rates in ((1.1, 0.5), (0.5, -0.1), (math.nan, 0.5)):
        with pytest.raises(InputError, match="rate"):
            kl_floor(*rates)


def test_kl_floor_is_reached_by_conditioning_and_never_beaten():
    base = [0.1, 0.2, 0.3, 0.4]  # four sequences, the first two succeed
    conditioned = [0.3, 0.6, 0.1 * 3 / 7, 0.1 * 4 / 7]
    uneven = [0.5, 0.4, 0.05, 0.05]  # also succeeds with 0.9

    def kl(q):
        return sum(a * math.log(a / b) for a, b in zip(q, base))

    assert kl(conditioned) == pytest.approx(kl_floor(0.9, 0.3))
    assert kl(uneven) > kl_floor(0.9, 0.3)


def test_kl_floor_of_labels_of_0_and_1_is_that_of_their_rates():
    base, control = np.repeat([1.0, 0.0], [30, 70]), np.repeat([1.0, 0.0], [90, 10])
    assert kl_floor_of_labels(control, base) == pytest.approx(kl_floor(0.9, 0.3))
    assert kl_floor_of_labels(control[:90], base) == pytest.approx(kl_floor(1.0, 0.3))
    assert kl_floor_of_labels(base, base) == pytest.approx(0.0)
    assert kl_floor_of_labels(0 * control, base) == pytest.approx(kl_floor(0.0, 0.3))
    assert kl_floor_of_labels(control, 0 * base) == math.inf
    assert kl_floor_of_labels(control, base[:30]) == math.inf


def test_kl_floor_of_labels_is_reached_by_their_tilt_and_never_beaten():
    count, label = np.array([10, 20, 30, 40]), np.array([1.0, 0.5, 0.25, 0.0])
    tilted = count * label / (count @ label)
    base = np.repeat(label, count)

    def kl(q):
        return sum(a * math.log(a / b) for a, b in zip(q, count / 100) if a)

    assert kl_floor_of_labels(np.repeat(label, (tilted * 11000).round().astype(int)), base) == (
        pytest.approx(kl(tilted), abs=1e-3)
    )
    for other in ([16, 16, 12, 0], [40, 0, 4, 0], [10, 20, 13, 1], [1, 2, 3, 4]):
        q = np.array(other) / sum(other)
        assert kl_floor_of_labels(np.repeat(label, other), base) <= kl(q) + 1e-9
    assert kl_floor_of_labels(np.repeat(label, [1, 2, 30, 4]), base) >= 0


def test_graded_labels_have_the_higher_of_two_floors():
    """q* of graded labels has the floor of its labels, far above that of their means."""
    count, label = np.array([10, 20, 30, 40]), np.array([0.9, 0.5, 0.25, 0.01])
    tilted, base = count * label / (count @ label), np.repeat(label, count)
    control = np.repeat(label, (tilted * 11000).round().astype(int))
    kl = (tilted * np.log(tilted / count * 100)).sum()
    assert kl_floor_of_samples(control, base) == pytest.approx(kl, abs=1e-3)
    assert kl_floor(control.mean(), base.mean()) < 0.7 * kl
    # Labels of 0 or 1 have one floor. Where the base has no label of 0, that of the means stands.
    hits, misses = np.repeat([1.0, 0.0], [90, 10]), np.repeat([1.0, 0.0], [30, 70])
    assert kl_floor_of_samples(hits, misses) == pytest.approx(kl_floor(0.9, 0.3))
    mixed = np.array([0.5, 0.0])
    assert kl_floor_of_samples(mixed, label) == kl_floor(0.25, label.mean())
    # Samples of another proposal count by p / proposal.
    weighted = kl_floor_of_samples(control, label, count / 25)
    assert weighted == pytest.approx(kl_floor_of_samples(control, base))
    assert kl_floor_of_samples(hits, np.array([1, 0]), np.array([0.6, 1.4])) == (
        pytest.approx(kl_floor(0.9, 0.3))
    )


def test_kl_floor_by_prompt_of_like_prompts_is_the_floor():
    for success, rate in ((0.9, 0.2), (0.3, 0.3), (0.1, 0.6), (0.999, 0.01)):
        one = kl_floor_by_prompt(success, np.array([rate]), np.array([1.0]))
        assert one == pytest.approx(kl_floor(success, rate), abs=1e-9)


def test_kl_floor_by_prompt_is_the_best_split_of_successes():
    """Against trying every way for two kinds of prompts to reach the wanted mean success."""
    rates, share, success = np.array([0.05, 0.7]), np.array([0.6, 0.4]), 0.8
    tried = []
    for first in np.linspace(0.5, 1, 2001):
        second = (success - share[0] * first) / share[1]
        if 0 <= second <= 1:
            floors = [kl_floor(first, rates[0]), kl_floor(second, rates[1])]
            tried.append(share @ np.array(floors))
    floor = kl_floor_by_prompt(success, rates, share)
    assert floor == pytest.approx(min(tried), abs=1e-5)
    assert floor > kl_floor(success, float(share @ rates)) + 0.1


def test_rate_distribution_tells_noise_from_differences():
    """Eight draws a prompt: of one rate for all, then of 0.05 and 0.6, where the floor of each
    prompt's own share would be far from the truth."""
    rng = np.random.default_rng(0)
    draws = np.full(4000, 8)
    for truth in (np.full(4000, 0.3), np.repeat([0.05, 0.6], 2000)):
        rates, probability = rate_distribution(rng.binomial(draws, truth), draws)
        assert probability.sum() == pytest.approx(1)
        assert probability @ rates == pytest.approx(truth.mean(), abs=0.02)
        exact = kl_floor_by_prompt(0.7, truth, np.full(4000, 1 / 4000))
        assert kl_floor_by_prompt(0.7, rates, probability) == pytest.approx(exact, rel=0.08)


def test_efficiency():
    assert efficiency(1.0, 2.0) == 0.5
    assert math.isnan(efficiency(1.0, 0.0)) and math.isnan(efficiency(1.0, -0.1))
    assert math.isnan(efficiency(kl_floor(1.0, 0.0), 9.0))


def test_mean_and_error():
    mean, error = mean_and_error([1, 2, 3, 4])
    assert mean == 2.5 and error == pytest.approx(math.sqrt(5 / 3) / 2)
    mean, error = mean_and_error([7.0])
    assert mean == 7.0 and math.isnan(error)
    with pytest.raises(InputError, match="no values"):
        mean_and_error([])


def test_calibration_error_by_hand():
    """Errors of the lower bin: -0.1, 0.8, of the upper one: 0.1, 0.4, 0.4; of squared standard
    errors 0.2025 and 0.01, of which the first exceeds the squared mean 0.1225."""
    predicted, rates = np.array([0.9, 0.1, 0.6, 0.2, 0.5]), np.array([1.0, 0.0, 1.0, 1.0, 0.9])
    error = calibration_error(predicted[[1, 3, 0, 2, 4]], rates[[1, 3, 0, 2, 4]], 2)
    # The first of two bins has three of five prompts: 0.1, 0.2 and 0.5.
    lower, upper = np.array([-0.1, 0.8, 0.4]), np.array([0.4, 0.1])
    wanted = 0.0
    for errors in (lower, upper):
        excess = errors.mean() ** 2 - errors.var(ddof=1) / len(errors)
        wanted += len(errors) / 5 * math.sqrt(max(0, excess))
    assert wanted > 0.1
    assert error == pytest.approx(wanted)
    assert calibration_error(np.array([0.1, 0.2]), np.array([0.0, 1.0]), 1) == 0.0


def test_more_bins_than_prompts():
    assert calibration_error(np.array([0.25]), np.array([1.0]), 10) == 0.75


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_chance_adds_little_to_the_calibration_error(rate, offset):
    """500 prompts whose rates differ, 4 samples each, as a run evaluates them."""
    rng = np.random.default_rng(0)
    true = rng.beta(10 * rate, 10 * (1 - rate), (50, 500))
    found = rng.binomial(4, true) / 4
    for predicted in (true, np.full(true.shape, rate)):  # exact, and right on average
        predicted = predicted + offset
        errors = [calibration_error(*pair, 10) for pair in zip(predicted, found)]
        assert np.mean(errors) == pytest.approx(offset, abs=0.015)
        assert np.max(errors) < offset + 0.035


def test_calibration_bins_are_in_the_order_of_predictions():
    predicted, rates = np.array([0.4, 0.1, 0.3, 0.2, 0.5]), np.array([0.5, 0.0, 0.25, 0.5, 1.0])
    first, second = calibration_bins(predicted, rates, 2)
    assert first[:3] == pytest.approx((3, 0.2, 0.25)) and second[:3] == pytest.approx(
        (2, 0.45, 0.75)
    )
    assert second.error == pytest.approx(np.std([0.1, 0.5], ddof=1) / math.sqrt(2))
    assert len(calibration_bins(predicted, rates, 10)) == 5


def test_the_kl_of_the_target_is_estimated_without_bias_of_the_rates():
    # Two prompts of three sets of particles, with estimates Z of R0: .2, .4, 0 and .1, .1, .4.
    label = np.array([1, 1, 0, 0.5, 1, 1])
    z = np.array([0.2, 0.4, 0.7, 0.1, 0.1, 0.4])  # where no particle succeeds, the mean weight
    excess = np.log(np.where(label > 0, label, 1)) - np.log(z)
    first = -np.log(0.6 / 3)
    second = 0.1 / 0.6 * np.log(0.5) - np.log(0.6 / 3)
    found = kl_of_target(label, excess, np.array([0, 0, 0, 1, 1, 1]))
    np.testing.assert_allclose(found, (first + second) / 2)
    assert math.isnan(kl_of_target(label, excess, np.array([0, 0, 1, 0, 2, 2])))
