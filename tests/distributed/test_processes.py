"""Several processes, really started: one run, the same steps, the same samples, one stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import support
from support import tiny_run, twenty_steps

from dinado_jax.config.schema import Parallel
from dinado_jax.distributed import processes, signals
from dinado_jax.errors import InputError
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES

TESTS = support.TESTS
SETTINGS = ("parallel.devices=0", "train.batch=16", "rollout.batch=8", "decode.batch=8")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


class Pod:
    """`count` processes of `devices` each that run `argv`, all but the first with `others` too;
    ends what is left of them."""

    def __init__(self, count, devices, argv, folder, compiled, others=(), **settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = os.environ | {
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            **settings,
        }
        folder.mkdir(exist_ok=True)
        self.errors = [folder / f"stderr_{index}" for index in range(count)]
        self.processes = []
        for index, path in enumerate(self.errors):
            with path.open("w") as stderr:
                place = {"DINADO_DISTRIBUTED": f"{address},{count},{index}"}
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *argv, *(others if index else ())],
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                        env=environment | place,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def codes(self):
        return [process.wait(timeout=150) for process in self.processes]

    def said(self):
        return [path.read_text().splitlines() for path in self.errors]


def dinado(stage, folder, *overrides):
    demo = TESTS.parent / "configs" / "demo.toml"
    settings = [*tiny_run.SETTINGS, *SETTINGS, *overrides, f"run.folder={folder}"]
    return ["-m", "dinado_jax", stage, str(demo), *settings]


# Steps


@pytest.fixture(scope="module")
def alone():
    return twenty_steps.run(Parallel(devices=1))


def test_twenty_steps_are_those_of_one_process(alone, tmp_path, compiled):
    ways = ["pmap:1"]  # fsdp goes through a whole run below
    argv = [str(support.SUPPORT / "twenty_steps.py"), str(tmp_path), *ways]
    with Pod(2, 2, argv, tmp_path, compiled) as pod:
        assert pod.codes() == [0, 0], pod.said()
    for way in ways:
        found = np.load(tmp_path / f"{way.replace(':', '_')}.npz")
        assert set(found) == alone.keys()
        for name, value in alone.items():
            rtol = 1e-6 if name.endswith("loss") else 0
            np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-5, err_msg=way + name)


# A run


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_of_two_processes_is_that_of_one(tmp_path, compiled):
    given = ("rollout.references=true", "train.reference_weight=1.0", "train.base_states=float32")
    argv = dinado("run", tmp_path / "two", "parallel.fsdp=4", *given)
    with Pod(2, 2, argv, tmp_path, compiled) as pod:
        assert pod.codes() == [0, 0], pod.said()
        told, excluded_ids = pod.said()
    assert sum("done in" in line for line in told) == len(STAGES)
    assert not any("done in" in line or "dinado" in line for line in excluded_ids)
    one, two = tmp_path / "one", tmp_path / "two" / "tiny"
    run_stages(tiny_run.config(*SETTINGS, *given, "parallel.devices=1"), STAGES, one)
    for name in ("rollout/rollouts.npz", "train/round_1.npz"):
        wanted, found = (Rollouts.load(folder / name) for folder in (one, two))
        for field in ("tokens", "length", "label", "prompt_id", "finished"):
            np.testing.assert_array_equal(getattr(wanted, field), getattr(found, field))
        np.testing.assert_allclose(wanted.log_base, found.log_base, rtol=0, atol=1e-4)
    for name in ("sft/sft.jsonl", "train/train.jsonl"):
        wanted, found = (read_lines(folder / name) for folder in (one, two))
        assert [line["step"] for line in wanted] == [line["step"] for line in found]
        losses = [[line["loss"] for line in lines] for lines in (wanted, found)]
        np.testing.assert_allclose(*losses, rtol=1e-3)
    for name in ("base", "control"):
        wanted, found = (read_lines(folder / "generate" / f"{name}.jsonl") for folder in (one, two))
        assert [line["text"] for line in wanted] == [line["text"] for line in found]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert summaries[0]["control"]["success_rate"] == summaries[1]["control"]["success_rate"]
    assert not [*two.rglob("*.partial"), *two.rglob("*parts")]


def wait_for_lines(path, count, pod):
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < deadline and pod.processes[0].poll() is None, pod.said()
        time.sleep(0.05)


def test_one_signal_stops_all_at_the_same_step(tmp_path, compiled):
    """And the same command goes on from there."""
    metrics, lines = tmp_path / "tiny" / "sft" / "sft.jsonl", 0
    for whom, signum in ((1, signal.SIGTERM), (0, signal.SIGINT)):
        argv = dinado("sft", tmp_path, "sft.steps=1000000", "parallel.fsdp=2")
        with Pod(2, 1, argv, tmp_path, compiled) as pod:
            wait_for_lines(metrics, lines + 3, pod)
            pod.processes[whom].send_signal(signum)
            assert pod.codes() == [128 + signum] * 2, pod.said()
            assert all(said[-1].startswith("stopped by SIG") for said in pod.said()), pod.said()
        steps = [line["step"] for line in read_lines(metrics)]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) > lines
        lines = len(steps)
        assert (metrics.parent / "checkpoints_sft" / str(lines) / "manifest.json").exists()


# What cannot be


def test_a_missing_process_is_told_in_a_line(tmp_path, compiled):
    settings = {"DINADO_DISTRIBUTED_TIMEOUT": "2"}
    with Pod(2, 1, dinado("sft", tmp_path), tmp_path, compiled, **settings) as pod:
        pod.processes[1].kill()
        assert pod.processes[0].wait(timeout=60) == 1
        (line,) = pod.said()[0]
    assert line.startswith("dinado: error: not all processes connected within 2 s")


def test_a_signal_before_anything_is_done_ends_at_once(tmp_path, compiled):
    script = tmp_path / "signalled.py"
    script.write_text(
        "import signal, time\n"
        "from dinado_jax.distributed import processes\n"
        "processes.connect()\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "time.sleep(100)\n"
    )
    with Pod(2, 1, [str(script)], tmp_path, compiled) as pod:
        assert pod.codes() == [-signal.SIGTERM] * 2, pod.said()


def test_processes_with_different_settings_are_refused(tmp_path, compiled):
    argv = dinado("sft", tmp_path)
    with Pod(2, 1, argv, tmp_path, compiled, others=["seed=1"]) as pod:
        assert pod.codes() == [2, 2], pod.said()
        assert all("processes have different settings" in said[-1] for said in pod.said())


def test_a_failure_of_one_ends_all(tmp_path, compiled):
    """Each says why in a line, whatever it waits for."""
    script = tmp_path / "one_fails.py"
    script.write_text(
        "from dinado_jax import cli\n"
        "from dinado_jax.distributed import processes\n"
        "from dinado_jax.stages import pipeline\n"
        "from dinado_jax.errors import InputError\n"
        "def run_stages(*_):\n"
        "    if processes.process_index() == 1:\n"
        "        raise InputError('bad oracle: fix it')\n"
        "    processes.barrier('where nobody comes')\n"
        "pipeline.run_stages = run_stages\n"
        "cli.main()\n"
    )
    argv = [str(script), *dinado("run", tmp_path)[2:]]
    with Pod(3, 1, argv, tmp_path, compiled) as pod:
        assert pod.codes() == [2, 2, 2], pod.said()
        told = [[line for line in said if "error" in line] for said in pod.said()]
    others = ["dinado: error: process 1 failed: bad oracle: fix it"]
    assert told == [others, ["dinado: error: bad oracle: fix it"], others]


@pytest.mark.parametrize(
    "how, patience, match",
    [
        ("nonsense", "300", "give off, auto, or HOST:PORT,N,I"),
        ("host:1,2,2", "300", "of 2 processes the last is 1"),
        ("auto", "300", "no cluster is detected"),
        ("auto", "soon", "whole number of seconds"),
        ("auto", "0", "whole number of seconds"),
        ("auto", "9" * 20, "whole number of seconds"),
        ("host:0,1,0", "300", "0 is no port, give one from 1 to 65535"),
        ("host:65536,1,0", "300", "65536 is no port"),
        ("host:1,0,0", "300", "at least 1 process"),
        ("host:1,2", "300", "give off, auto, or HOST:PORT,N,I"),
        ("host:1,2,-1", "300", "give off, auto, or HOST:PORT,N,I"),
        ("::1:8476,2,0", "300", r"IPv6: \[HOST\]:PORT,N,I"),
        ("two words:8476,2,0", "300", "give off, auto, or HOST:PORT,N,I"),
        ("no.such.host.invalid:8476,2,0", "300", "no host has that name, correct HOST"),
        ("192.0.2.1:8476,1,0", "300", "HOST does not lead to this machine"),  # of documentation
        ("192.0.2.1 : 8476, 3, 0", "300", "HOST does not lead to this machine"),
    ],
)
def test_environments_that_cannot_be_read(monkeypatch, how, patience, match):
    monkeypatch.setenv("DINADO_DISTRIBUTED", how)
    monkeypatch.setenv("DINADO_DISTRIBUTED_TIMEOUT", patience)
    monkeypatch.setattr(processes.jax.distributed, "initialize", no_cluster)
    with pytest.raises(InputError, match=match):
        processes.connect()


def test_a_port_in_use_is_told_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("DINADO_DISTRIBUTED", f"127.0.0.1:{taken.getsockname()[1]},2,0")
        with pytest.raises(InputError, match=r"cannot listen there .* choose another PORT"):
            processes.connect()


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_addresses_of_this_machine_are_taken(host):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = (
        "from dinado_jax.distributed import processes as p; p.connect(); print(p.process_count(), p.is_main())"
    )
    settings = {"DINADO_DISTRIBUTED": f" {host} :{port}, 1, 0 ", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | settings, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1 True\n"), done.stderr


@pytest.mark.parametrize("how", ["", " off ", "off"])
def test_off_is_one_process(monkeypatch, how):
    monkeypatch.setenv("DINADO_DISTRIBUTED", how)
    monkeypatch.setattr(processes.jax.distributed, "initialize", no_cluster)
    processes.connect()


def test_a_host_that_never_gets_its_name_is_told_of(tmp_path):
    script = "from dinado_jax.distributed import processes; processes.connect()"
    settings = {"DINADO_DISTRIBUTED_TIMEOUT": "1", "JAX_PLATFORMS": "cpu"}
    settings["DINADO_DISTRIBUTED"] = "no.such.host.invalid:8476,2,1"
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, env=os.environ | settings, capture_output=True, text=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dinado")]
    assert done.returncode == 1 and "no host has that name, even after 1 s" in line


def no_cluster(**_):
    raise ValueError("coordinator_address should be defined.")


def test_alone_everything_is_agreed_on_at_once(monkeypatch):
    assert processes.AsyncMax()(3, 0) == [3, 0]
    assert list(processes.lockstep(iter("abc"))) == ["a", "b", "c"]
    monkeypatch.setattr(signals, "_received", [signal.SIGTERM])
    with pytest.raises(signals.Stopped):
        next(processes.lockstep(iter("abc")))
