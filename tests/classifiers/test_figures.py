"""Temperature, calibration error and the baseline, against what is known of them."""

import numpy as np
import pytest
import scipy.special

from dinado_jax.classifiers.baseline import baseline_accuracy
from dinado_jax.classifiers.calibration import calibration_error, fit_temperature
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


def test_few_texts_that_are_all_told_apart_make_nothing_certain():
    labels = np.arange(20) % 2 == 0
    temperature = fit_temperature(np.where(labels, 2.0, -2.0), labels)
    # Of 10 texts with a label, 11 of 12.
    assert scipy.special.expit(2 / temperature) == pytest.approx(11 / 12, abs=1e-3)


def test_calibration_error_by_hand():
    # Bins of .0-.1, .6-.7 and .9-1: |.05 - 0|, |.6 - .5| twice, |1 - 1|.
    probabilities, labels = np.array([0.05, 0.6, 0.6, 1.0]), np.array([False, True, False, True])
    assert calibration_error(probabilities, labels) == pytest.approx((0.05 + 0.2) / 4)


def test_the_baseline_finds_a_word_and_no_more_than_there_is():
    rng = np.random.default_rng(0)
    colours = [("Red", "green")[i % 2] for i in range(300)]
    texts = [f"The {colour} car number {rng.integers(1000)}." for colour in colours]
    labels = np.array([colour == "Red" for colour in colours])
    train, test = Labelled([], texts[:200], labels[:200]), Labelled([], texts[200:], labels[200:])
    assert baseline_accuracy(train, test) == 1
    others = test._replace(texts=["nothing that it knows"] * 100)
    assert baseline_accuracy(train, others) == 0.5
