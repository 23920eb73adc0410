"""Intervals over prompts against their known widths."""

import dataclasses
import math

import numpy as np
import pytest
from support import reports

from dinado_jax.evaluation import metrics
from dinado_jax.evaluation.bootstrap import intervals


def rated(rates, each=4):
    """Samples of prompts that succeed in these shares."""
    samples = reports.samples(len(rates), each, 0)
    return [
        dataclasses.replace(s, label=float(i % each < rates[i // each] * each))
        for i, s in enumerate(samples)
    ]


def test_prompts_are_the_independent_draws():
    """Prompts that all succeed or all fail: half of 100, a standard error of 0.05."""
    rates = [i % 2 for i in range(100)]
    found = intervals(rated(rates), rated(rates, 40), 0)
    for side in (found.base, found.control):
        low, high = side["success_rate"]
        assert low == pytest.approx(0.402, abs=0.015) and high == pytest.approx(0.598, abs=0.015)


def test_of_a_normal_figure_it_is_1_96_standard_errors():
    rng = np.random.default_rng(0)
    control = [
        dataclasses.replace(s, log_prob=s.log_prob_base + x)
        for s, x in zip(reports.samples(400, 1, 1), rng.normal(2, 1, 400))
    ]
    low, high = intervals(control, control, 0).control["kl_to_base"]
    mean, error = metrics.mean_and_error([s.log_prob - s.log_prob_base for s in control])
    assert low == pytest.approx(mean - 1.96 * error, abs=0.02)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.02)


def test_base_and_control_get_the_same_prompts():
    """Where both have the same labels, no draw needs any KL."""
    rates = [(i % 5) / 4 for i in range(50)]
    found = intervals(rated(rates), rated(rates), 0)
    assert found.floors["kl_floor"] == pytest.approx((0, 0), abs=1e-12)
    assert found.base["success_rate"] == found.control["success_rate"]


def test_the_seed_decides():
    rates = [(i % 5) / 4 for i in range(20)]
    first, again, other = (intervals(rated(rates), rated(rates), seed) for seed in (0, 0, 1))
    assert first == again != other


def test_what_is_not_finite_has_none():
    found = intervals(reports.samples(9, 2, 0), reports.samples(9, 2, 1), 0)
    assert found.floors == {} and "success_rate" in found.control
    empty = [dataclasses.replace(s, tokens=0) for s in reports.samples(9, 2, 0)]
    assert "log_prob_per_token" not in intervals(empty, empty, 0).base
    assert not any(intervals(reports.samples(1, 4, 1), reports.samples(1, 4, 2), 0))
    assert math.isfinite(found.control["kl_to_base"].low)
