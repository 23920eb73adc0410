"""Several processes, really started: one run, the same steps, the same samples, one stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import support
from support import pod_program, tiny_run, twenty_steps

from dinado_jax.config.schema import Parallel
from dinado_jax.distributed import processes, signals
from dinado_jax.errors import InputError
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class Pod:
    """`count` processes of `devices` each that run `argv`; kills what is left of them at the
    end."""

    def __init__(self, count, devices, argv, folder, **settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = os.environ | {
            "PYTHONPATH": f"{support.TESTS}:{support.ROOT}",
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_COMPILATION_CACHE_MAX_SIZE": str(jax.config.jax_compilation_cache_max_size),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            **settings,
        }
        self.stderr = [folder / f"stderr_{index}" for index in range(count)]
        self.processes = []
        for index, path in enumerate(self.stderr):
            with path.open("w") as stderr:
                place = {"DINADO_DISTRIBUTED": f"{address},{count},{index}"}
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *argv],
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

    def lines(self):
        return [path.read_text().splitlines() for path in self.stderr]

    def wait_for_steps(self, path, count):
        """Until the log of metrics at `path` has so many lines."""
        deadline = time.monotonic() + 600
        while not path.exists() or len(path.read_text().splitlines()) < count:
            assert time.monotonic() < deadline, self.lines()
            assert self.processes[0].poll() is None, self.lines()
            time.sleep(0.05)


# What connected processes do


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_stopped(pod, signum, metrics, before):
    """All processes have stopped after the same step, and its checkpoint is complete."""
    assert pod.codes() == [128 + signum] * 2, pod.lines()
    assert all(lines[-1].startswith("stopped by SIG") for lines in pod.lines()), pod.lines()
    steps = [line["step"] for line in read_lines(metrics)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > before
    assert (metrics.parent / "checkpoints_sft" / str(len(steps)) / "manifest.json").exists()
    return len(steps)


@pytest.fixture(scope="module")
def pod(compiled_quickly, tmp_path_factory):
    """(folder, lines of standard error) of two starts of a pod: a stage that SIGTERM to process 1
    stops; then pod_program, which at last resumes that stage, and SIGINT to process 0."""
    folder = tmp_path_factory.mktemp("pod")
    metrics = folder / "endless" / "tiny" / "sft" / "sft.jsonl"
    argv = ["-m", "dinado_jax", *pod_program.endless(folder / "endless")]
    with Pod(2, 2, argv, folder) as started:
        started.wait_for_steps(metrics, 3)
        started.processes[1].send_signal(signal.SIGTERM)
        steps = check_stopped(started, signal.SIGTERM, metrics, 2)
    with Pod(2, 2, [str(support.SUPPORT / "pod_program.py"), str(folder)], folder) as started:
        started.wait_for_steps(metrics, steps + 3)
        started.processes[0].send_signal(signal.SIGINT)
        check_stopped(started, signal.SIGINT, metrics, steps + 2)
        return folder, started.lines()


def test_one_signal_stops_all_at_the_same_step(pod):
    """And the same command resumes there: the fixture itself checks both."""


def test_twenty_steps_are_those_of_one_process(pod):
    found, alone = np.load(pod[0] / "steps.npz"), twenty_steps.run(Parallel(devices=1))
    assert set(found) == alone.keys()
    for name, value in alone.items():
        rtol = 1e-6 if name.endswith("loss") else 0
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-5, err_msg=name)


def test_processes_with_different_settings_are_refused(pod):
    for index in range(2):
        refused = (pod[0] / f"refused_{index}").read_text()
        assert "processes have different settings" in refused


def test_a_run_of_two_processes_is_that_of_one(pod, tmp_path):
    (main, other), two = pod[1], pod[0] / "two" / "tiny"
    assert sum("done in" in line for line in main) == len(STAGES)
    assert not any("done in" in line or "dinado" in line for line in other)
    one = tmp_path / "one"
    run_stages(tiny_run.config(*pod_program.RUN, "parallel.devices=1"), STAGES, one)
    of_training = ("round_1", "roll_outs_1", "particles_0", "particles_1")
    for name in ("rollout/rollouts.npz", *(f"train/{name}.npz" for name in of_training)):
        wanted, found = (Rollouts.load(folder / name) for folder in (one, two))
        for field in ("tokens", "length", "label", "prompt_id", "finished"):
            np.testing.assert_array_equal(getattr(wanted, field), getattr(found, field))
        for field in ("log_base", "log_proposal", "log_prefix"):
            values = getattr(wanted, field), getattr(found, field)
            np.testing.assert_allclose(*values, rtol=0, atol=1e-4, err_msg=f"{name} {field}")
    for name in ("sft/sft.jsonl", "train/train.jsonl"):
        wanted, found = (read_lines(folder / name) for folder in (one, two))
        assert [line["step"] for line in wanted] == [line["step"] for line in found]
        losses = [
            [line.get("loss", line.get("held_out")) for line in lines] for lines in (wanted, found)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-3)
    trained = read_lines(two / "train" / "train.jsonl")
    ends = [line["step"] for line in trained if "held_out" in line]
    assert 8 not in ends and ends[-1] < 16  # both rounds
    for name in ("base", "control", "strengths/0.5"):
        wanted, found = (read_lines(folder / "generate" / f"{name}.jsonl") for folder in (one, two))
        assert [line["text"] for line in wanted] == [line["text"] for line in found]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert summaries[0]["control"]["success_rate"] == summaries[1]["control"]["success_rate"]
    curves = [summary["strengths"][0] for summary in summaries]
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)
    assert not [*two.rglob("*.partial"), *two.rglob("*parts")]


# What cannot be


def test_a_missing_process_is_reported(tmp_path):
    argv = ["-m", "dinado_jax", *pod_program.command("sft", tmp_path)]
    with Pod(2, 1, argv, tmp_path, DINADO_DISTRIBUTED_TIMEOUT="2") as pod:
        pod.processes[1].kill()
        assert pod.processes[0].wait(timeout=60) == 1
        (line,) = pod.lines()[0]
    assert line.startswith("dinado: error: not all processes connected within 2 s")


def test_a_signal_before_anything_is_done_ends_at_once(tmp_path):
    script = tmp_path / "signalled.py"
    script.write_text(
        "import signal, time\n"
        "from dinado_jax.distributed import processes\n"
        "processes.connect()\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "time.sleep(100)\n"
    )
    with Pod(2, 1, [str(script)], tmp_path) as pod:
        assert pod.codes() == [-signal.SIGTERM] * 2, pod.lines()


def test_a_failure_of_one_ends_all(tmp_path):
    """Each process reports the reason in one line, whatever it is waiting for."""
    script = tmp_path / "one_fails.py"
    script.write_text(
        "from dinado_jax import cli\n"
        "from dinado_jax.distributed import processes\n"
        "from dinado_jax.errors import InputError\n"
        "from dinado_jax.stages import pipeline\n"
        "def run_stages(*_):\n"
        "    if processes.process_index() == 1:\n"
        "        raise InputError('bad oracle: fix it')\n"
        "    processes.barrier('that process 1 does not reach')\n"
        "pipeline.run_stages = run_stages\n"
        "cli.main()\n"
    )
    with Pod(3, 1, [str(script), *pod_program.command("run", tmp_path)], tmp_path) as pod:
        assert pod.codes() == [2, 2, 2], pod.lines()
        errors = [[line for line in lines if "error" in line] for lines in pod.lines()]
    others = ["dinado: error: process 1 failed: bad oracle: fix it"]
    assert errors == [others, ["dinado: error: bad oracle: fix it"], others]


@pytest.mark.parametrize(
    "setting, timeout, match",
    [
        ("nonsense", "300", "give off, auto, or HOST:PORT,N,I"),
        ("host:1,2,2", "300", "of 2 processes the last is 1"),
        ("auto", "300", "no cluster is detected"),
        ("auto", "soon", "whole number of seconds"),
        ("auto", "0", "whole number of seconds"),
        ("auto", "9" * 20, "whole number of seconds"),
        ("host:0,1,0", "300", "0 is not a port, give one from 1 to 65535"),
        ("host:65536,1,0", "300", "65536 is not a port"),
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
def test_environments_that_cannot_be_read(monkeypatch, setting, timeout, match):
    monkeypatch.setenv("DINADO_DISTRIBUTED", setting)
    monkeypatch.setenv("DINADO_DISTRIBUTED_TIMEOUT", timeout)
    monkeypatch.setattr(processes.jax.distributed, "initialize", no_cluster)
    with pytest.raises(InputError, match=match):
        processes.connect()


def test_a_port_in_use_is_reported_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("DINADO_DISTRIBUTED", f"127.0.0.1:{taken.getsockname()[1]},2,0")
        with pytest.raises(InputError, match=r"cannot listen there .* choose another PORT"):
            processes.connect()


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_addresses_of_this_machine_are_accepted(host):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = "from dinado_jax.distributed import processes as p; p.connect(); "
    script += "print(p.process_count(), p.is_main())"
    settings = {"DINADO_DISTRIBUTED": f" {host} :{port}, 1, 0 ", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | settings, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1 True\n"), done.stderr


@pytest.mark.parametrize("setting", ["", " off ", "off"])
def test_off_is_one_process(monkeypatch, setting):
    monkeypatch.setenv("DINADO_DISTRIBUTED", setting)
    monkeypatch.setattr(processes.jax.distributed, "initialize", no_cluster)
    processes.connect()


def test_a_host_name_that_stays_unknown_is_reported(tmp_path):
    script = "from dinado_jax.distributed import processes; processes.connect()"
    settings = {"DINADO_DISTRIBUTED_TIMEOUT": "1", "JAX_PLATFORMS": "cpu"}
    settings["DINADO_DISTRIBUTED"] = "no.such.host.invalid:8476,2,1"
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, env=os.environ | settings, capture_output=True, text=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dinado")]
    assert done.returncode == 1 and "no host has that name, even after 1 s" in line


def no_cluster(**_):
    raise ValueError("coordinator_address should be defined.")


def test_one_process_agrees_with_itself_at_once(monkeypatch):
    assert processes.AsyncMax()(3, 0) == [3, 0]
    assert list(processes.lockstep(iter("abc"))) == ["a", "b", "c"]
    monkeypatch.setattr(signals, "_received", [signal.SIGTERM])
    with pytest.raises(signals.Stopped):
        next(processes.lockstep(iter("abc")))
