"""The log of a training run, whatever a kill left of it; what is shown of long work."""

import io
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinado_jax.errors import InputError
from dinado_jax.utils import progress
from dinado_jax.utils.compile_time import compile_seconds
from dinado_jax.utils.outlook import Work, work_of
from dinado_jax.utils.progress import MetricsLog, Progress

# Whole, and of another shape.
LINES = (b"3\n", b"[1]\n", b"{}\n", b'{"step": "3"}\n', b'{"step": null}\n', b"[" * 10**5)
LINES += (b'{"step": ' + b"9" * 5000 + b"}\n", b'{"step": 3, "a": "\\ud800"}\n')


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_reopening_drops_what_came_after(tmp_path):
    path = tmp_path / "log.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.write(step, loss=0.5)
    MetricsLog(path, 2).write(3, loss=0.25)
    assert steps(path) == [1, 2, 3] and path.read_text().count("0.25") == 1
    assert list(tmp_path.iterdir()) == [path]
    MetricsLog(path)
    assert not path.read_text()


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b"{", b"\0\0\0", b"\xff\n", *LINES])
def test_a_torn_line_ends_the_log(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    log = MetricsLog(path)
    for step in (1, 2):
        log.write(step, loss=0.5)
    path.write_bytes(path.read_bytes() + torn)
    MetricsLog(path, 2).write(3, loss=0.5)
    assert steps(path) == [1, 2, 3]


def test_a_log_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, told in [("pipe", "a pipe"), ("folder", "is a dir"), ("loop", "links lead back")]:
        with pytest.raises(InputError, match=told):
            MetricsLog(tmp_path / name)


# Progress off a terminal


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def told(capsys):
    return capsys.readouterr().err.splitlines()


def test_time_left_is_by_the_recent_rate_without_compiling(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Progress("round", 201, "step") as shown:
        clock.now += 300  # the first unit, compiling
        shown.advance(loss=1.5)
        assert told(capsys) == ["round: 1/201 steps, time left unknown, loss 1.5"]
        for _ in range(100):
            clock.now += 1
            shown.advance()
        assert told(capsys)[-1] == "round: 91/201 steps, 1 steps/s, 1:50 left"
        for _ in range(20):
            clock.now += 10
            shown.advance()
        assert told(capsys)[-1] == "round: 120/201 steps, 0.1 steps/s, 13:30 left"
    assert told(capsys) == ["round: 121/201 steps in 10:00"]


def test_compiling_in_between_is_no_part_of_the_rate(monkeypatch, capsys):
    clock, spent = Clock(monkeypatch), [0.0]
    monkeypatch.setattr(progress, "compile_seconds", lambda: spent[0])
    with Progress("round", 100, "step") as shown:
        for step in range(1, 41):
            clock.now += 1
            if step == 20:
                clock.now += 300
                spent[0] += 300
            shown.advance()
    lines = told(capsys)
    assert lines[1] == "round: 20/100 steps, 1 steps/s, 1:20 left"
    assert lines[-1] == "round: 40/100 steps in 5:40"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_has_the_same_rate(monkeypatch):
    """Units come in large pieces, the first of which is no part of the rate."""
    clock, spent, terminal = Clock(monkeypatch), [0.0], Terminal()
    monkeypatch.setattr(progress, "compile_seconds", lambda: spent[0])
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    with Progress("rollout", 400, "sample") as shown:
        for seconds, compiling in ((100, 0), (10, 0), (110, 100)):
            clock.now += seconds
            spent[0] += compiling
            shown.advance(100, loss=1.5)
    last = terminal.getvalue().split("\r")[-1]
    assert "300/400" in last and "0:10 left, 10/s, loss=1.5]" in last


def test_what_jax_compiles_is_counted():
    before = compile_seconds()
    jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(np.ones((7, 7), np.float32))
    once = compile_seconds()
    assert 0 < once - before < 60
    assert compile_seconds() == once


def test_what_was_done_before_counts_for_no_rate(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Progress("rollout", 1000, "sample", 900) as shown:
        for _ in range(3):
            clock.now += 20
            shown.advance(20)
    assert told(capsys) == [
        "rollout: 920/1000 samples, time left unknown",
        "rollout: 940/1000 samples, 1 samples/s, 1:00 left",
        "rollout: 960/1000 samples, 1 samples/s, 0:40 left",
        "rollout: 960/1000 samples in 1:00",
    ]


def test_a_long_wait_for_the_first_unit_is_explained(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BEFORE_FIRST_LINE", 0.05)
    with Progress("sft", 3, "step"):
        time.sleep(0.5)
    assert told(capsys) == ["sft: compiling (0/3 steps)"]
    with Progress("sft", 3, "step") as shown:
        shown.advance()
        time.sleep(0.2)
    assert told(capsys) == ["sft: 1/3 steps in 0:00"]
    with Progress("sft", 3, "step", 3):
        time.sleep(0.2)
    assert told(capsys) == []


def test_time_left_of_all_work_is_shown_once_its_rates_are_known(monkeypatch, capsys):
    """A token takes 0.5 s, a step 20 s: after round 1 there are 100 and 2 of them."""
    clock = Clock(monkeypatch)

    def go(name, total, unit, seconds):
        with Progress(name, total, unit) as shown:
            for _ in range(total):
                clock.now += seconds
                shown.advance()
        return told(capsys)

    works = [
        *(Work("draw", "round 1, draw", "token", 200), Work("learn", "round 1", "step", 3)),
        *(Work("draw", "round 2, draw", "token", 100), Work("learn", "round 2", "step", 2)),
    ]
    with work_of(works):
        lines = go("draw", 4, "sample", 25)  # of 50 tokens each
        assert lines[1] == "round 1, draw: 2/4 samples, 0.04 samples/s, 0:50 left"
        lines = go("learn", 3, "step", 20)
        assert lines[1] == "round 1: 2/3 steps, 0.05 steps/s, 0:20 left (whole run: about 1:50)"
        lines = go("draw", 2, "sample", 20)
        assert lines[0] == "round 2, draw: 1/2 samples, time left unknown"
        lines = go("learn", 2, "step", 20)
        assert lines == ["round 2: 1/2 steps, time left unknown", "round 2: 2/2 steps in 0:40"]


def test_quiet_leaves_out_progress_alone(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BEFORE_FIRST_LINE", 0.05)
    progress.set_quiet(True)
    try:
        with Progress("sft", 3, "step") as shown:
            time.sleep(0.2)
            shown.advance()
        progress.print_progress("far")
        progress.print_once("warning: little")
    finally:
        progress.set_quiet(False)
    assert told(capsys) == ["warning: little"]
