"""The log of a training run, whatever a kill left of it."""

import json
import os

import pytest

from dinado_jax.errors import InputError
from dinado_jax.progress import MetricsLog

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
