"""`dinado compare`: what differs between finished runs, and which are not finished."""

import json
import shutil

import pytest
from support.commands import refused

from dinado_jax import cli


def compared(capsys, *argv):
    cli.main(["compare", *map(str, argv)])
    return capsys.readouterr().out


@pytest.fixture
def other(finished_run, tmp_path):
    """A run with other settings and figures."""
    run = tmp_path / "other"
    shutil.copytree(finished_run, run)
    summary = json.loads((run / "summary.json").read_text())
    summary["config"]["train"]["steps"] = 60
    summary["config"]["seed"] = 5
    summary["config"]["name"] = "other"
    summary["control"] |= {"success_rate": 0.875, "kl_to_base": 1.5}
    summary["kl_floor"] = summary["efficiency"] = None
    summary["seconds"] = {"sft": 10.0, "train": 2.5}
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_what_differs_as_json(capsys, finished_run, other):
    found = json.loads(compared(capsys, finished_run, other, finished_run, "--json"))
    assert found["runs"] == [str(finished_run), str(other), str(finished_run)]
    assert found["settings"] == {"seed": [0, 5, 0], "train.steps": [6, 60, 6]}
    first, second, third = found["figures"]
    nothing = {"value": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    for key in ("success_difference", "kl_difference"):  # of the same samples
        assert [each.pop(key) for each in (first, second, third)] == [None, nothing, nothing]
    summary = json.loads((finished_run / "summary.json").read_text())
    assert first == third and first["success_rate"] == summary["control"]["success_rate"]
    assert first["base_success_rate"] == summary["base"]["success_rate"]
    assert first["seconds"] == pytest.approx(sum(summary["seconds"].values()), abs=0.01)
    assert (first["rounds"], first["rollouts"]) == (2, 8 * 4 * 2)
    assert first["warnings"] == len(summary["warnings"])
    assert (second["success_rate"], second["kl_to_base"], second["seconds"]) == (0.875, 1.5, 12.5)
    assert second["kl_floor"] is None and second["efficiency"] is None


def test_what_differs_as_text(capsys, finished_run, other):
    lines = compared(capsys, finished_run, other).splitlines()
    assert lines[0].split() == ["settings", "that", "differ", str(finished_run), str(other)]
    assert ["train.steps", "6", "60"] in map(str.split, lines)
    assert lines[-1].startswith("KL, minus") and lines[-1].endswith("p 1")
    (success,) = (line.split() for line in lines if line.startswith("success  "))
    assert success[2] == "87.5%"
    (floor,) = (line.split() for line in lines if line.startswith("least KL"))
    assert floor[-1] == "-"
    assert compared(capsys, finished_run, finished_run).splitlines()[1] == "none"
    (other / "generate" / "control.jsonl").unlink()
    assert compared(capsys, finished_run, other).splitlines()[-1].split()[-2:] == ["-", "-"]


def test_runs_that_are_not_finished_are_named(capsys, finished_run, other, tmp_path):
    (other / "summary.json").unlink()
    said = refused(capsys, ["compare", finished_run, other])
    assert said.startswith(f"not finished, no summary.json in {other}: run the rest of the stages")
    assert "one run to compare" in refused(capsys, ["compare", finished_run])
    assert "no such folder" in refused(capsys, ["compare", finished_run, tmp_path / "nowhere"])
    (other / "summary.json").write_text("{")
    assert "malformed JSON" in refused(capsys, ["compare", finished_run, other])
