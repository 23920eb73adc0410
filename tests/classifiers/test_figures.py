"""Temperature, calibration error and the baseline, against what is known of them."""

import numpy as np
import pytest
import scipy.special

from dinado_jax.classifiers.baseline import baseline_accuracy
from dinado_jax.classifiers.calibration import (
    brier_score,
    calibration_error,
    chance_calibration_error,
    fit_temperature,
)
from dinado_jax.classifiers.labelled import Labelled


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    rng = np.random.default_rng(0)
    log_odds = 3 * rng.standard_normal(20_000)
    labels = rng.random(20_000) < scipy.special.expit(log_odds / temperature)
    assert fit_temperature(log_odds, labels) == pytest.approx(temperature, rel=0.05)
    calibrated = scipy.special.expit(log_odds / temperature)
    assert calibration_error(calibrated, labels) < 0.02
    if temperature == 3:
        assert calibration_error(scipy.special.expit(log_odds), labels) > 0.1


@pytest.mark.parametrize("count", [2, 20, 200])
def test_few_texts_that_are_all_told_apart_make_nothing_certain(count):
    labels = np.arange(count) % 2 == 0
    log_odds = np.where(labels, 2.0, -2.0)
    temperature = fit_temperature(log_odds, labels)
    assert 0.1 < temperature < 1
    # Where the loss of the labels and that of the prior, (log T)^2 / 2, balance.
    wrong = scipy.special.expit(-2 / temperature)
    assert count * 2 / temperature * wrong == pytest.approx(-np.log(temperature), rel=1e-2)


def test_few_texts_make_no_good_classifier_less_certain():
    """Of 40 texts that log-odds are right about the temperature is near 1 on average."""
    rng = np.random.default_rng(0)
    fitted = []
    for _ in range(200):
        log_odds = 5 * rng.standard_normal(40)
        labels = rng.random(40) < scipy.special.expit(log_odds)
        fitted.append(np.log(fit_temperature(log_odds, labels)))
    assert abs(np.mean(fitted)) < 0.1


def test_calibration_error_by_hand():
    # Bins of .0-.1, .6-.7 and .9-1: |.05 - 0|, |.6 - .5| twice, |1 - 1|.
    probabilities, labels = np.array([0.05, 0.6, 0.6, 1.0]), np.array([False, True, False, True])
    assert calibration_error(probabilities, labels) == pytest.approx((0.05 + 0.2) / 4)


@pytest.mark.parametrize("count", [50, 500])
def test_chance_adds_what_right_probabilities_have_on_average(count):
    rng = np.random.default_rng(1)
    probabilities = scipy.special.expit(3 * rng.standard_normal(count))
    found = chance_calibration_error(probabilities)
    errors = [
        calibration_error(probabilities, rng.random(count) < probabilities) for _ in range(300)
    ]
    assert found == pytest.approx(np.mean(errors), rel=0.1)
    assert chance_calibration_error(np.array([0.0, 1.0])) == 0


def test_brier_score_by_hand():
    probabilities, labels = np.array([0.5, 0.9, 0.0]), np.array([True, True, False])
    assert brier_score(probabilities, labels) == pytest.approx((0.25 + 0.01) / 3)


def test_the_baseline_finds_a_word_and_no_more_than_there_is():
    rng = np.random.default_rng(0)
    colours = [("Red", "green")[i % 2] for i in range(300)]
    texts = [f"The {colour} car number {rng.integers(1000)}." for colour in colours]
    labels = np.array([colour == "Red" for colour in colours])
    train, test = Labelled([], texts[:200], labels[:200]), Labelled([], texts[200:], labels[200:])
    assert baseline_accuracy(train, test) == 1
    others = test._replace(texts=["nothing that it knows"] * 100)
    assert baseline_accuracy(train, others) == 0.5
