"""Warnings of a summary: on either side of every threshold, and with every condition they have."""

import dataclasses
import math

import pytest

from dinado_jax.evaluation.stage_figures import (
    GenerateFigures,
    RolloutFigures,
    RoundFigures,
    SftFigures,
    StageFigures,
    TrainFigures,
)
from dinado_jax.evaluation.summary import BaseFigures, ControlFigures, Floors
from dinado_jax.evaluation.warnings import summary_warnings

NAN = math.nan
ROUND = RoundFigures(
    oracle_failures=0,
    rollouts=20000,
    repeated=0.0,
    newest_success_rate=0.1,
    newest_kl=0.0,
    newest_efficiency=NAN,
    newest_finished=0.95,
    newest_log_prob_per_token=-1.9,
    effective_successes=900.0,
    log_prob_per_token_of_successes=-1.5,
)
PARTS = {
    "base": BaseFigures(
        samples=1800,
        success_rate=0.1,
        success_rate_error=0.03,
        log_prob_under_base=-20.0,
        log_prob_per_token=-1.9,
        tokens=9.0,
        finished=0.95,
        distinct_2=0.5,
        metrics={},
        successes=190,
        log_prob_per_token_of_successes=-1.5,
        distinct_2_of_successes=0.5,
    ),
    "control": ControlFigures(
        samples=1900,
        success_rate=0.9,
        success_rate_error=0.04,
        log_prob_under_base=-22.0,
        log_prob_per_token=-1.6,
        tokens=9.5,
        finished=0.94,
        distinct_2=0.45,
        metrics={},
        kl_to_base=2.0,
        kl_to_base_error=0.1,
        calibration_error=0.04,
    ),
    "floors": Floors(1.7, 0.85, 1.8, 0.9),
    "rollout": RolloutFigures(990, 99, 0.1, 1.0, 0, "q* of the base"),
    "generate": GenerateFigures(400, 0, 0),
    "round": ROUND,
    "train": TrainFigures(1000, ()),
}


def warned(always=False, **changes):
    """The warnings of a run that went well except for some figures, given as part__field=value."""
    parts = dict(PARTS)
    for name, value in changes.items():
        part, _, field = name.partition("__")
        parts[part] = dataclasses.replace(parts[part], **{field: value})
    later = dataclasses.replace(ROUND, effective_successes=0.0, newest_kl=2.4)
    train = dataclasses.replace(parts["train"], rounds=(parts["round"], later))
    stages = StageFigures(SftFigures(1, "x"), parts["rollout"], train, parts["generate"])
    return list(summary_warnings(parts["base"], parts["control"], parts["floors"], stages, always))


def test_a_run_that_went_well_has_none():
    assert warned() == []


# What is said, and figures just within and just beyond the threshold, others as they are.
LOW = {"control__kl_to_base_error": 0.01, "floors__kl_floor_by_prompt": 0.01}
CASES = {
    # 2 sqrt(0.03^2 + 0.04^2) = 0.1 above the base's 0.1
    "gain": ("no gain", {"control__success_rate": 0.201}, {"control__success_rate": 0.199}),
    "gain of certainty": (
        "no gain",
        {"control__success_rate": 1.0, "base__success_rate": 1.0},
        {"control__success_rate": 1.0, "base__success_rate": 0.999},
    ),
    # with its error of 0.04
    "shortfall": (
        "success 86.9%, where the optimum has 100%",
        {"always": True, "control__success_rate": 0.871},
        {"always": True, "control__success_rate": 0.869},
    ),
    "shortfall of a share": (
        "success 86.9%, where the optimum has 100%",
        {"always": False, "control__success_rate": 0.869},
        {"always": True, "control__success_rate": 0.869},
    ),
    # (2 - 2 * 0.1) * 0.5 = 0.9
    "efficiency": (
        "efficiency",
        {"floors__kl_floor_by_prompt": 0.901},
        {"floors__kl_floor_by_prompt": 0.899},
    ),
    "cost": (
        "efficiency",
        {"control__kl_to_base": 0.119, **LOW},
        {"control__kl_to_base": 0.121, **LOW},
    ),
    "error": (
        "has an error of",
        {"control__kl_to_base_error": 0.499},
        {"control__kl_to_base_error": 0.501},
    ),
    "error of a cost": (
        "has an error of",
        {"control__kl_to_base": 0.1, "control__kl_to_base_error": 0.05},
        {"control__kl_to_base": 0.101, "control__kl_to_base_error": 0.05},
    ),
    "ended": ("did not end", {"control__finished": 0.901}, {"control__finished": 0.899}),
    "fluency": (
        "far from the base's own",
        {"control__log_prob_per_token": -1.699},
        {"control__log_prob_per_token": -1.701},
    ),
    "fluency known": (
        "far from the base's own",
        {"control__log_prob_per_token": -9.0, "base__successes": 29},
        {"control__log_prob_per_token": -9.0, "base__successes": 30},
    ),
    "variety": (
        "repeat each other",
        {"control__distinct_2": 0.351},
        {"control__distinct_2": 0.349},
    ),
    "variety known": (
        "repeat each other",
        {"control__distinct_2": 0.1, "base__successes": 29},
        {"control__distinct_2": 0.1, "base__successes": 30},
    ),
    "first successes": (
        "few successes",
        {"round__effective_successes": 100.0},
        {"round__effective_successes": 99.9},
    ),
    "table": (
        "training leads away from the base",
        {"train__table_kl": 2.01},
        {"train__table_kl": 1.99},
    ),
    "calibration": (
        "not calibrated",
        {"control__calibration_error": 0.05},
        {"control__calibration_error": 0.0501},
    ),
    # of 990 samples and those that are left out
    "failures of rollouts": (
        "10 samples of stage rollout|11 samples of stage rollout",
        {"rollout__oracle_failures": 10},
        {"rollout__oracle_failures": 11},
    ),
    # of the control's 1900 samples, and those that are left out
    "failures of the base": (
        "20 samples of stage generate",
        {"generate__base_oracle_failures": 19},
        {"generate__base_oracle_failures": 20},
    ),
    "failures of the control": (
        "20 samples of stage generate",
        {"generate__control_oracle_failures": 19},
        {"generate__control_oracle_failures": 20},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_sides_of_a_threshold(case):
    said, within, beyond = CASES[case]
    assert warned(**within) == []
    (line,) = warned(**beyond)
    assert any(each in line for each in said.split("|")) and "\n" not in line and ": " in line


SAID = [
    ({"control__success_rate": 0.15}, ["success 15.0%", "10.0%"]),
    ({"floors__kl_floor_by_prompt": 0.5}, ["efficiency 0.25", "2.00 nats", "where 0.50"]),
    ({"control__kl_to_base_error": 0.62}, ["2.00 nats", "0.62"]),
    ({"control__finished": 0.75}, ["25.0% of samples", "5.0% of the base"]),
    ({"control__log_prob_per_token": -2.25}, ["-2.25 nats", "-1.50"]),
    ({"control__distinct_2": 0.21}, ["0.210", "0.500"]),
    ({"round__effective_successes": 7.2}, ["about 7 ", "first 20000 rollouts:"]),
    ({"train__table_kl": 1.5}, ["KL 2.4 nats in round 2", "1.5 in the last table round"]),
    ({"control__calibration_error": 0.31}, ["off by 0.31 on average"]),
    ({"rollout__oracle_failures": 40}, ["failed on 40 samples of stage rollout"]),
    ({"generate__control_oracle_failures": 70}, ["failed on 70 samples of stage generate"]),
]


@pytest.mark.parametrize("changes, said", SAID)
def test_a_warning_names_its_figures(changes, said):
    (line,) = warned(**changes)
    assert all(each in line for each in said), line


@pytest.mark.parametrize(
    "changes",
    [
        {"control__success_rate_error": NAN, "base__success_rate_error": NAN},
        {"control__kl_to_base_error": NAN},
        {"control__log_prob_per_token": NAN},
        {"base__log_prob_per_token_of_successes": NAN},
        {"control__distinct_2": NAN},
        {"control__calibration_error": NAN},
    ],
)
def test_what_was_not_measured_is_no_reason_to_warn(changes):
    assert warned(**changes) == []


def test_warnings_come_in_the_order_of_the_figures():
    lines = warned(
        round__effective_successes=1.0,
        control__calibration_error=0.9,
        control__success_rate=0.1,
        floors__kl_floor_by_prompt=0.1,
        control__kl_to_base_error=0.6,
        control__finished=0.1,
        control__log_prob_per_token=-9.0,
        control__distinct_2=0.0,
        rollout__oracle_failures=500,
        generate__base_oracle_failures=500,
        generate__control_oracle_failures=600,
    )
    starts = ["few successes", "no gain", "efficiency", "the KL", "90.0%", "text far"]
    starts += ["texts repeat", "V(prompt)"] + ["the oracle failed"] * 3
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts)), lines
