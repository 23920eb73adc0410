"""The log of a training run, whatever a kill left of it."""

import json

import pytest

from dinado_jax.progress import MetricsLog


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


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b"{", b"\0\0\0", b"\xff\n"])
def test_a_torn_line_ends_the_log(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    log = MetricsLog(path)
    for step in (1, 2):
        log.write(step, loss=0.5)
    path.write_bytes(path.read_bytes() + torn)
    MetricsLog(path, 2).write(3, loss=0.5)
    assert steps(path) == [1, 2, 3]
