"""summary.json: its keys, and that reading is the inverse of writing."""

import dataclasses
import json
import math

import pytest

from dinado_jax.errors import InputError
from dinado_jax.evaluation.stage_figures import (
    GenerateFigures,
    RolloutFigures,
    RoundFigures,
    SftFigures,
    StageFigures,
    TrainFigures,
)
from dinado_jax.evaluation.summary import (
    BaseFigures,
    ControlFigures,
    Device,
    Floors,
    MomentFigures,
    StrengthFigures,
    Summary,
    read_summary,
    write_summary,
)

COMMON = {
    "samples": 8,
    "success_rate": 0.25,
    "success_rate_error": 0.1,
    "log_prob_under_base": -12.5,
    "log_prob_per_token": -1.5,
    "tokens": 8.25,
    "finished": 1.0,
    "distinct_2": 0.5,
    "metrics": {"coverage": 0.75, "polite": 0.5},
}
ROUND = (1.5, 0.25, 1.0, -1.5, 2.0)
SUMMARY = Summary(
    BaseFigures(
        **COMMON, successes=2, log_prob_per_token_of_successes=-1.0, distinct_2_of_successes=0.5
    ),
    ControlFigures(**COMMON, kl_to_base=1.5, kl_to_base_error=0.25, calibration_error=0.05),
    Floors(0.5, 0.25, 0.75, 0.5),
    {"sft": 1.5, "evaluate": 0.25},
    StageFigures(
        SftFigures(100, "fingerprint", sft_rows=5),
        RolloutFigures(8, 2, 0.25, 1.0, 1, "q* of the base"),
        TrainFigures(10, tuple(RoundFigures(i, 8, 0.0, 0.25, *ROUND) for i in range(12))),
        GenerateFigures(4, 0, 1),
    ),
    ("no gain: train longer",),
    {"name": "some", "seed": 0},
    {"jax": "0.10"},
    Device("cpu", "cpu", 8),
    (MomentFigures("my:feature", 0.5, 2.0, 0.1, 0.01, 0.49, 0.02),),
    (StrengthFigures(0.5, 0.4, 0.1, 0.3, 0.05), StrengthFigures(2.0, 0.9, 0.1, 4.0, 0.2)),
)


def test_what_is_written_is_read(tmp_path):
    write_summary(tmp_path / "summary.json", SUMMARY)
    assert read_summary(tmp_path / "summary.json", "mend it") == SUMMARY


def test_keys_that_readers_rely_on(tmp_path):
    write_summary(tmp_path / "summary.json", SUMMARY)
    tree = json.loads((tmp_path / "summary.json").read_text())
    assert {"kl_floor", "kl_floor_by_prompt", "efficiency", "efficiency_by_prompt"} < tree.keys()
    assert {"base", "control", "seconds", "stages", "warnings", "config", "device"} < tree.keys()
    assert {"success_rate", "coverage", "polite", "kl_to_base"} < tree["control"].keys()
    assert "metrics" not in tree["base"] and tree["base"]["coverage"] == 0.75
    assert tree["stages"]["sft"] == {"parameters": 100, "base": "fingerprint", "sft_rows": 5}
    assert tree["stages"]["train"]["round_11"]["oracle_failures"] == 11
    assert tree["device"] == {"platform": "cpu", "kind": "cpu", "count": 8}


def test_a_figure_that_was_not_measured_is_null_and_read_as_nan(tmp_path):
    base = dataclasses.replace(SUMMARY.base, metrics={}, log_prob_per_token=math.nan)
    write_summary(tmp_path / "summary.json", dataclasses.replace(SUMMARY, base=base))
    tree = json.loads((tmp_path / "summary.json").read_text())
    assert tree["base"]["coverage"] is tree["base"]["log_prob_per_token"] is None
    assert math.isnan(read_summary(tmp_path / "summary.json", "").base.log_prob_per_token)


@pytest.mark.parametrize(
    "part, key, value, told",
    [
        ("base", "successes", 2.5, "base, successes is 2.5, not an integer: mend it"),
        ("control", "kl_to_base", "much", "control, kl_to_base is 'much', not a number or null"),
        ("control", "polite", "very", "control, polite is 'very', not a number or null"),
        ("device", "count", None, "device, count is None, not an integer"),
        ("stages", "train", {}, "train, trainable_parameters is missing"),
        (None, "kl_floor", [], "kl_floor is"),
        (None, "moments", [{}], "moments, feature is missing"),
        (None, "strengths", [{}], "strengths, strength is missing"),
        (None, "strengths", {}, "strengths"),
        (None, "warnings", [3], "warnings"),
    ],
)
def test_a_part_of_another_type_is_named(tmp_path, part, key, value, told):
    write_summary(tmp_path / "summary.json", SUMMARY)
    tree = json.loads((tmp_path / "summary.json").read_text())
    (tree[part] if part else tree)[key] = value
    (tmp_path / "summary.json").write_text(json.dumps(tree))
    with pytest.raises(InputError) as caught:
        read_summary(tmp_path / "summary.json", "mend it")
    assert told in str(caught.value) and "\n" not in str(caught.value)
