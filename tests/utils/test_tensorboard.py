"""Figures as TensorBoard reads them."""

import gc
import json
import struct

import pytest
from support import tiny_run

from dinado_jax.errors import InputError
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.utils.progress import MetricsLog
from dinado_jax.utils.tensorboard import Board

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def events(folder):
    """Of every event file: each record is its length, a sum of that, the event and its sum."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def scalars(folder):
    gc.collect()  # a log that nobody holds is closed
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
    }


def test_numbers_are_written_and_a_restart_drops_what_came_after(tmp_path):
    log = MetricsLog(tmp_path / "log.jsonl", 0, Board(tmp_path / "board", 0))
    log.write(1, stage="sft", loss=0.5, rows=[3], diverged=True, bad=float("nan"))
    log.write(2, loss=0.25)
    del log
    assert scalars(tmp_path / "board") == {("loss", 1): 0.5, ("loss", 2): 0.25}
    MetricsLog(tmp_path / "log.jsonl", 1, Board(tmp_path / "board", 1)).write(2, loss=0.125)
    assert scalars(tmp_path / "board")["loss", 2] == 0.125
    found = list(events(tmp_path / "board"))
    assert [each.step for each in found if each.HasField("session_log")][-1] == 2


@pytest.mark.usefixtures("compiled_quickly")
def test_a_run_reports_its_steps_and_rounds(tmp_path):
    run_stages(tiny_run.config("run.report_to=tensorboard"), ("sft", "rollout", "train"), tmp_path)
    for name in ("sft", "train"):
        lines = (tmp_path / name / f"{name}.jsonl").read_text().splitlines()
        found = scalars(tmp_path / "tensorboard" / name)
        for line in map(json.loads, lines):
            assert found["loss", line["step"]] == pytest.approx(line["loss"])
    rounds = json.loads((tmp_path / "train" / "done.json").read_text())["figures"]
    for number in range(2):
        rate = rounds[f"round_{number}"]["newest_success_rate"]
        assert found["round/newest_success_rate", number] == pytest.approx(rate)


def test_without_the_package_it_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("dinado_jax.utils.tensorboard.PACKAGE", "no_such_package")
    said = "run.report_to = 'tensorboard', and no_such_package is not .*\\[tensorboard\\]"
    with pytest.raises(InputError, match=said):
        run_stages(tiny_run.config("run.report_to=tensorboard"), ("sft",), tmp_path / "run")
    assert not (tmp_path / "run" / "sft").exists()
