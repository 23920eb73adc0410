"""Two models on the same prompts: means of prompts, in whatever order samples come."""

import dataclasses

import numpy as np
import pytest

from dinado_jax.evaluation.intervals import compare
from dinado_jax.evaluation.paired import differences
from dinado_jax.evaluation.samples import Sample
from dinado_jax.metrics.protocol import Measured

PROMPTS = 40


def samples(seed: int, rate: float, each: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    rows = [
        Sample(
            prompt_id=number,
            prompt=f"{number} =",
            text="",
            label=float(rng.random() < rate),
            log_prob=float(-rng.random()),
            log_prob_base=float(-5 * rng.random()),
            tokens=3,
            finished=True,
            value=0.5,
        )
        for number in range(PROMPTS)
        for _ in range(each)
    ]
    return [rows[i] for i in rng.permutation(len(rows))]


def by_hand(rows, value):
    return [
        np.mean([value(row) for row in rows if row.prompt_id == number])
        for number in range(PROMPTS)
    ]


def flat(comparison):
    return comparison.difference, *comparison.interval, comparison.p_value


def test_differences_are_of_means_of_prompts():
    first, second = samples(0, 0.3, 2), samples(1, 0.7, 4)
    found = differences(first, second, seed=3)
    for comparison, value in (
        (found.success, lambda row: row.label),
        (found.kl, lambda row: row.log_prob - row.log_prob_base),
    ):
        one, two = (by_hand(rows, value) for rows in (first, second))
        sums = (Measured.of_means(each).sums for each in (one, two))
        np.testing.assert_allclose(flat(comparison), flat(compare(*sums, seed=3)))
        assert comparison.difference == pytest.approx(np.mean(two) - np.mean(one))
    assert found.success.p_value < 0.01 and found.success.interval.low > 0.1
    assert differences(first, first).success.p_value == 1


def test_other_prompts_are_not_compared():
    first = samples(0, 0.5, 1)
    assert differences([], first) is None and differences(first, first[1:]) is None
    other = [dataclasses.replace(row, prompt=row.prompt.upper() + "!") for row in first]
    assert differences(first, other) is None
