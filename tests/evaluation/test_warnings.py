"""Warnings: none for a run that went well, one for each way to go badly."""

import dataclasses
import math

import pytest

from dinado_jax.evaluation.stage_figures import (
    GenerateFigures,
    RolloutFigures,
    SftFigures,
    StageFigures,
    TrainFigures,
)
from dinado_jax.evaluation.summary import BaseFigures, ControlFigures, Floors, MomentFigures
from dinado_jax.evaluation.warnings import margin_warnings, moment_warnings, summary_warnings

# The demo's figures, about.
COMMON = {"samples": 2000, "log_prob_under_base": -17.0, "tokens": 10.5, "metrics": {}}
BASE = BaseFigures(
    **COMMON,
    success_rate=0.096,
    success_rate_error=0.007,
    finished=1.0,
    log_prob_per_token=-1.7,
    distinct_2=0.5,
    successes=190,
    log_prob_per_token_of_successes=-1.62,
    distinct_2_of_successes=0.53,
)
CONTROL = ControlFigures(
    **COMMON,
    success_rate=0.976,
    success_rate_error=0.004,
    finished=0.999,
    kl_to_base=2.37,
    kl_to_base_error=0.02,
    calibration_error=0.03,
    log_prob_per_token=-1.66,
    distinct_2=0.52,
)
FLOORS = Floors(2.0, 0.85, 2.16, 0.91)
STAGES = StageFigures(
    SftFigures(100, "fingerprint"),
    RolloutFigures(20_000, 2000, 0.1, 1.0, 0, "q* of the base"),
    TrainFigures(10, ()),
    GenerateFigures(500, 0, 0),
)
GOOD = {"base": BASE, "control": CONTROL, "floors": FLOORS, "stages": STAGES, "always": True}


def changed(path, value):
    """The arguments of a good run with one figure changed, given as "part.field"."""
    name, *inner, field = path.split(".")
    part = GOOD[name]
    if inner:
        of_stage = dataclasses.replace(getattr(part, inner[0]), **{field: value})
        return GOOD | {name: dataclasses.replace(part, **{inner[0]: of_stage})}
    return GOOD | {name: dataclasses.replace(part, **{field: value})}


def test_a_run_that_went_well_has_none():
    assert summary_warnings(**GOOD) == ()


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("control.success_rate", 0.1, "no gain: success 10.0%, the base's is 9.6%"),
        ("control.success_rate", 0.93, "success 93.0%, where the optimum has 100%"),
        ("control.kl_to_base", 4.9, "efficiency 0.44"),
        ("floors.kl_floor_by_prompt", 0.57, "efficiency 0.24: 2.37 nats"),
        ("control.kl_to_base_error", 0.7, "has an error of 0.70"),
        ("control.finished", 0.83, "17.0% of samples did not end"),
        ("control.log_prob_per_token", -2.0, "-2.00 nats per token"),
        ("control.distinct_2", 0.3, "Distinct-2 0.300"),
        ("control.calibration_error", 0.2, "V(prompt) is not calibrated"),
        ("stages.rollout.oracle_failures", 400, "failed on 400 samples of stage rollout"),
        ("stages.generate.control_oracle_failures", 40, "40 samples of stage generate"),
        ("stages.generate.base_oracle_failures", 41, "41 samples of stage generate"),
        ("stages.generate.strength_oracle_failures", 42, "42 samples of stage generate"),
    ],
)
def test_each_way_to_go_badly_has_its_line(path, value, said):
    (line,) = summary_warnings(**changed(path, value))
    assert said in line and "\n" not in line and ": " in line


MOMENT = MomentFigures("my:feature", 0.5, 2.0, 0.1, 0.01, 0.49, 0.01)


def test_moments_that_are_met_have_no_line():
    near = dataclasses.replace(MOMENT, control=0.445)  # a tenth of the way, and two errors
    unknown = dataclasses.replace(MOMENT, control=math.nan, control_error=math.nan)
    assert list(moment_warnings([MOMENT, near, unknown], 0.005)) == []


def test_moments_that_are_missed_are_named():
    far = dataclasses.replace(MOMENT, control=0.4)
    (line,) = moment_warnings([MOMENT, far], 0.0)
    assert line.startswith("the mean of my:feature is 0.4 ± 0.01 where 0.5 is wanted: ")
    (line,) = moment_warnings([MOMENT], 0.02)
    assert line.startswith("2.0% of the samples have more of what target.moments favour")


def test_labels_spread_beyond_the_margin_are_named():
    assert list(margin_warnings(None, 6.0)) == list(margin_warnings(5.9, 6.0)) == []
    (line,) = margin_warnings(7.4, 6.0)
    assert "span 7.4 nats" in line and line.endswith("set train.margin=9")


@pytest.mark.parametrize("path", ["control.success_rate_error", "control.kl_to_base_error"])
def test_what_was_not_measured_is_no_reason_to_warn(path):
    assert summary_warnings(**changed(path, math.nan)) == ()


def test_few_successes_of_the_base_say_little_of_how_they_read():
    for count, fluency, variety in ((3, -0.1, 1.0), (0, math.nan, math.nan)):
        base = dataclasses.replace(
            BASE,
            successes=count,
            log_prob_per_token_of_successes=fluency,
            distinct_2_of_successes=variety,
        )
        assert summary_warnings(**GOOD | {"base": base}) == ()


def test_a_small_cost_is_none():
    assert summary_warnings(**changed("control.kl_to_base", 0.05)) == ()
