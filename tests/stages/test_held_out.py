"""Runs with train.held_out above 0."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from support import rows, stops, tiny_run
from support.folders import refused

from dinado_jax.config.schema import Train
from dinado_jax.distributed import signals
from dinado_jax.objectives.table import phases
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.held_out import held_out_rows
from dinado_jax.stages.pipeline import load_run, run_stages
from dinado_jax.stages.round_data import RoundData

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SETTINGS = ("train.held_out=0.25", "train.learning_rate=0.1", "train.warmup_direction=2")


def lines(path):
    text = (path / "train" / "train.jsonl").read_text()
    found = map(json.loads, text.splitlines())
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in found]


@pytest.fixture(scope="module")
def begun(finished_run, tmp_path_factory):
    """A folder with the stages before train; `finished_run` has the same."""
    path = tmp_path_factory.mktemp("held_out") / "begun"
    shutil.copytree(finished_run, path)
    for name in ("train", "generate", "evaluate"):
        shutil.rmtree(path / name)
    for file in ("summary.json", "report.html"):
        (path / file).unlink()
    return path


@pytest.fixture(scope="module")
def run(begun, tmp_path_factory):
    path = tmp_path_factory.mktemp("held_out") / "run"
    shutil.copytree(begun, path)
    run_stages(tiny_run.config(*SETTINGS), ("train",), path)
    return path


def test_each_phase_is_evaluated_on_its_own(run):
    logged = [line for line in lines(run) if "held_out" in line]
    stages = dict.fromkeys(line["stage"] for line in logged)
    assert list(stages) == ["warm-up", "train round 0", "train round 1"]
    ends = {line["stage"]: line["step"] for line in logged}
    for stage, begin in zip(stages, (0, 2, 3)):
        of = [line for line in logged if line["stage"] == stage]
        assert [line["step"] for line in of] == list(range(begin + 1, ends[stage] + 1))
        assert all(begin <= line["best_step"] <= line["step"] for line in of)
        assert len({line["held_out"] for line in of}) == len(of)


def test_stopped_and_continued_it_is_the_run_in_one_go(run, begun, tmp_path, monkeypatch):
    path = tmp_path / "run"
    shutil.copytree(begun, path)
    for after in (1, 2, 1):
        with monkeypatch.context() as patch:
            stops.stop_when(patch, stops.asked(after))
            with pytest.raises(signals.Stopped):
                run_stages(tiny_run.config(*SETTINGS), ("train",), path)
    run_stages(tiny_run.config(*SETTINGS), ("train",), path)
    assert lines(path) == lines(run)
    params = [jax.tree.leaves(load_run(each).params) for each in (path, run)]
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_cached_states_are_those_of_their_rows(run, begun, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(begun, path)
    run_stages(tiny_run.config(*SETTINGS, "train.base_states=float32"), ("train",), path)
    for one, other in zip(lines(run), lines(path), strict=True):
        assert one.keys() == other.keys()
        name = "loss" if "loss" in one else "held_out"
        assert other[name] == pytest.approx(one[name], rel=1e-3)


def test_no_step_sees_a_prompt_that_is_left_out(run):
    rollouts = Rollouts.load(run / "rollout" / "rollouts.npz")
    held = held_out_rows(rollouts, 0.25)
    data = round_data(rollouts, held_out=0.25)
    _, objective = phases(data.settings)[-1]
    batch_at = data.batches(objective)
    drawn = {int(i) for step in range(9) for i in batch_at(step).norm.row}
    left_out = data.held_out(1, lambda *_: None, 1)
    seen = set(left_out.batch.norm.row.tolist()) | set(left_out.batch.direction.row.tolist())
    assert drawn <= set(np.flatnonzero(~held)) and seen <= set(np.flatnonzero(held))


def round_data(rollouts, **settings):
    train = Train(batch=16, **settings)
    weight = np.ones(len(rollouts), np.float32)
    return RoundData(None, train, 0, rollouts, weight, None, None)


@pytest.mark.parametrize(
    "label, told",
    [
        ([0, 1, 0, 0], "of held-out prompts succeeds"),
        ([0, 1, 1, 1], "of held-out prompts fails"),
        ([0, 0, 0, 1], "of the other prompts succeeds"),
        ([1, 1, 0, 1], "of the other prompts fails"),
    ],
)
def test_prompts_without_a_success_or_a_failure_are_told(label, told):
    found = rows.of_probabilities([-1.0] * 4, [-1.0] * 4, label, [0, 0, 1, 1])
    found.tokens[2:, 0] = 1
    make = partial(round_data, held_out=0.5)
    assert "none of the 2 rollouts" in refused(f"{told}; draw more", make, found)
    fine = dataclasses.replace(found, label=np.float32([0, 1, 0, 1]))
    assert make(fine).held_out(0, lambda *_: None, 1).pieces == 1
    assert round_data(found).held_out(0, lambda *_: None, 1) is None
