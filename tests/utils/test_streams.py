"""What is printed: on terminals of any encoding, with readers that have gone, on full disks."""

import os
import subprocess
import sys

import pytest

NOTES = """
import sys
from dinado_jax.utils import streams
streams.prepare()
file = open(sys.argv[1], "w")
for _ in range(3):
    streams.print_status("x" * 10_000)
streams.print_result("done")
"""
COMMAND = ["-m", "dinado_jax", "demo", "--print-config"]


@pytest.fixture
def unread():
    """The writing end of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def python(*argv, **how):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **how.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run([sys.executable, *argv], env=env, **{**pipes, **how})


def test_notes_that_nobody_reads_stop_no_work(tmp_path, unread):
    done = python("-c", NOTES, tmp_path / "file", stderr=unread)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_notes_on_a_full_disk_stop_no_work(tmp_path):
    with open("/dev/full", "wb") as full:
        done = python("-c", NOTES, tmp_path / "file", stderr=full)
    assert (done.returncode, done.stdout) == (0, b"done\n")


@pytest.mark.parametrize("number", [1, 2])
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path, number):
    shell = f'exec "$0" -c "$1" "$2" {number}>&-'
    argv = ["sh", "-c", shell, sys.executable, NOTES, str(tmp_path / "file")]
    done = subprocess.run(argv, capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""
    assert done.stdout == (b"" if number == 1 else b"done\n")
    assert done.stderr == (b"" if number == 2 else (b"x" * 10_000 + b"\n") * 3)


def test_results_that_nobody_reads_end_the_command_quietly(unread):
    done = python(*COMMAND, stdout=unread)
    assert (done.returncode, done.stderr) == (141, b"")


def test_results_on_a_full_disk_are_one_line():
    with open("/dev/full", "wb") as full:
        done = python(*COMMAND, stdout=full)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert line.startswith("dinado: error: standard output, cannot be written (No space left")


def test_an_error_that_nobody_reads_keeps_its_code(unread):
    done = python("-m", "dinado_jax", "run", "nowhere.toml", stderr=unread)
    assert done.returncode == 2


@pytest.mark.parametrize("encoding, written", [("ascii", rb"h\xe4user\u65e5"), ("utf-8", None)])
def test_what_a_terminal_cannot_encode_is_escaped(encoding, written):
    name, env = "häuser日", {"PYTHONIOENCODING": encoding}
    written = written or name.encode()
    done = python("-m", "dinado_jax", "run", f"{name}.toml", env=env)
    assert done.returncode == 2 and written in done.stderr and done.stderr.count(b"\n") == 1
    show = (
        f"from dinado_jax.utils import streams; streams.prepare(); streams.print_result({name!r})"
    )
    done = python("-c", show, env={**env, "PYTHONUTF8": "1"})
    assert (done.returncode, done.stdout) == (0, written + b"\n")
