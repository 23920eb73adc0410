"""Figures from samples."""

import math

import numpy as np

from dinado_jax.evaluation.aggregate import aggregate
from dinado_jax.evaluation.samples import Sample


def samples(label: float) -> list[Sample]:
    texts = ["a dog runs .", "a cat sits .", "a dog runs ."]
    return [
        Sample(i, "dog =", text, label, -4.0, -5.0, 4, True, 0.25) for i, text in enumerate(texts)
    ]


def test_variety_is_compared_on_as_many_texts_as_the_base_has_successes():
    base, control = aggregate(samples(1.0)[:2] + samples(0.0)[2:], samples(1.0), [], [()] * 3, 0)
    assert base.successes == 2
    assert base.distinct_2_of_successes == 1.0 and 0.5 <= control.distinct_2 <= 1.0


def test_soft_labels_are_successes_above_one_half():
    base, _ = aggregate(samples(0.5)[:1] + samples(0.51)[1:], samples(0.1), [], [()] * 3, 0)
    assert base.successes == 2 and base.success_rate == np.mean([0.5, 0.51, 0.51])


def test_without_a_success_of_the_base_variety_is_not_measured():
    base, control = aggregate(samples(0.0), samples(1.0), [], [()] * 3, 0)
    assert math.isnan(base.distinct_2) and math.isnan(control.distinct_2)


def test_calibration_is_that_of_the_base():
    _, control = aggregate(samples(0.75), samples(0.25), [], [()] * 3, 0)
    assert control.calibration_error == 0.5
    assert control.brier_score == 0.25  # samples of 0.75, predicted as 0.25
