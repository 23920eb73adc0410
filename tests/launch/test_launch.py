"""The launchers: what they would run, how words reach it, restarts, signals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import support
import yaml

ROOT = support.ROOT
GOLDEN = support.GOLDEN / "launch"
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / "launch/slurm.sbatch"])
# What a shell, a second shell behind ssh, YAML or Kubernetes could harm.
WORDS = ["configs/a b.toml", 'name="a b"', "x='it''s'", "y=$HOME $(id) `id`", "z=\\n*?&;|<>", "e="]
TPU = {"TPU_NAME": "pod", "ZONE": "us-west4-a", "PROJECT": "mine"}
BUCKET = {**TPU, "BUCKET": "my-bucket"}
K8S = {"NAME": "trial", "IMAGE": "registry/dinado:1", "CLAIM": "runs", "HOSTS": "4"}
K8S_TPU = {
    **K8S,
    "DEVICE": "tpu",
    "TPU_ACCELERATOR": "tpu-v5-lite-podslice",
    "TPU_TOPOLOGY": "4x4",
}
NODES = {"NODES": "2", "NODE": "1", "COORDINATOR": "node0:8476", "RUN_DIR": "/shared/my runs"}
V5E = {"TPU_TYPE": "v5litepod-16", "RUNTIME": "v2-alpha-tpuv5-lite"}

# name of the golden file -> environment, command
DRY = {
    "tpu_create": ({**TPU, **V5E}, ["tpu.sh", "create"]),
    "tpu_create_spot": ({**TPU, **V5E, "SPOT": "1"}, ["tpu.sh", "create"]),
    "tpu_status": (TPU, ["tpu.sh", "status"]),
    "tpu_setup": (BUCKET, ["tpu.sh", "setup"]),
    "tpu_sync": (TPU, ["tpu.sh", "sync"]),
    "tpu_run": ({**BUCKET, "XLA_FLAGS": "--a --b"}, ["tpu.sh", "run", *WORDS]),
    "tpu_logs": ({**TPU, "WORKER": "3"}, ["tpu.sh", "logs"]),
    "tpu_stop": (TPU, ["tpu.sh", "stop"]),
    "tpu_kill": ({**TPU, "KILL": "1"}, ["tpu.sh", "stop"]),
    "tpu_delete": (TPU, ["tpu.sh", "delete"]),
    "gpu_node": ({}, ["gpu.sh", "run", *WORDS]),
    "gpu_nodes": (NODES, ["gpu.sh", "start", "configs/demo.toml", "parallel.fsdp=8"]),
    "slurm": ({"RUN_DIR": "/shared/my runs"}, ["slurm.sbatch", *WORDS]),
    "k8s_apply_tpu": (K8S_TPU, ["k8s.sh", "apply", *WORDS]),
    "k8s_apply_gpu": ({**K8S, "DEVICE": "gpu"}, ["k8s.sh", "apply", "configs/demo.toml"]),
    "k8s_status": (K8S, ["k8s.sh", "status"]),
    "k8s_logs": (K8S, ["k8s.sh", "logs"]),
    "k8s_delete": (K8S, ["k8s.sh", "delete"]),
}


@pytest.fixture
def repository(tmp_path):
    """A committed repository with the launchers in it."""
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / ".gitignore").write_text("build/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=all")
    return folder


@pytest.fixture
def fakes(tmp_path):
    """A folder for PATH, and a function that puts a program in it and returns its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def fake(name, then=""):
        calls = tmp_path / f"{name}.jsonl"
        program = folder / name
        program.write_text(
            f"#!{sys.executable}\nimport json, os, signal, sys, time\n"
            f"with open({str(calls)!r}, 'a') as file:\n"
            f"    file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
            f"calls = sum(1 for _ in open({str(calls)!r}))\n{then}\n"
        )
        program.chmod(0o755)
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    fake.path = f"{folder}:{os.environ['PATH']}"
    return fake


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.check_output(["git", "-C", str(folder), *who, *words], text=True)


def environment(**more):
    kept = ("HOME", "PATH", "TMPDIR", "LANG")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


def bash(repository, command, **more):
    return subprocess.run(
        ["bash", f"launch/{command[0]}", *command[1:]],
        cwd=repository,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck")
def test_shellcheck():
    options = ["--external-sources", "--severity=warning", "--source-path=.:launch"]
    subprocess.run(["shellcheck", *options, *SCRIPTS], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", DRY)
def test_dry_run(repository, name):
    settings, command = DRY[name]
    done = bash(repository, command, DRY_RUN="1", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    found = done.stdout.replace(str(repository), "REPOSITORY")
    found = re.sub(r"\b[0-9a-f]{40}\b", "COMMIT", found)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text()


def test_all_golden_files_are_used():
    assert {path.stem for path in GOLDEN.iterdir()} == set(DRY)


@pytest.mark.parametrize(
    ("command", "settings", "told"),
    [
        (["tpu.sh", "status"], {}, "set TPU_NAME"),
        (["tpu.sh"], TPU, "give one of create"),
        (["tpu.sh", "create"], TPU, "set TPU_TYPE"),
        (["tpu.sh", "run"], BUCKET, "a config is missing"),
        (["tpu.sh", "run", "a.toml"], TPU, "set RUN_DIR"),
        (["tpu.sh", "delete"], TPU, "is kept"),
        (["gpu.sh", "run", "a.toml"], {"NODES": "2"}, "set NODE "),
        (["gpu.sh", "run", "a.toml"], {"DINADO": "no/such"}, "no program no/such"),
        (["slurm.sbatch", "a.toml"], {}, "set RUN_DIR"),
        (
            ["slurm.sbatch", "a.toml"],
            {"RUN_DIR": "r", "SLURM_NTASKS_PER_NODE": "8", "SLURM_GPUS_ON_NODE": "4"},
            "--ntasks-per-node=4",
        ),
        (["k8s.sh", "apply", "a.toml"], K8S, "set DEVICE"),
        (["k8s.sh", "apply", "a\nb"], K8S_TPU, "no line breaks"),
        (["worker.sh"], {}, "give one of run"),
        (["worker.sh", "run"], {}, "a config is missing"),
        (["local_pod.sh", "2", "0", "--", "true"], {}, "usage"),
        (["local_pod.sh", "two", "1", "--", "true"], {}, "usage"),
    ],
)
def test_bad_input_is_told_in_one_line(repository, command, settings, told):
    done = bash(repository, command, **settings)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(r"\w+\.(sh|sbatch): ", line) and told in line


# Words end to end.


def test_words_reach_every_tpu_worker(repository, fakes, tmp_path):
    gcloud = fakes("gcloud")
    done = bash(repository, ["tpu.sh", "run", *WORDS], **BUCKET | {"PATH": fakes.path})
    assert done.returncode == 0, done.stderr
    (call,) = gcloud()
    assert "--worker=all" in call
    remote = call[-1].removeprefix("--command=")
    # The worker's side: the same shell command in a home of its own.
    dinado = fakes("dinado")
    shutil.copytree(repository / "launch", tmp_path / "home/dinado/code/launch")
    remote = remote.replace("../venv/bin/dinado", "dinado")
    remote = remote.replace("/mnt/dinado/runs", f"{tmp_path}/my-runs")
    subprocess.run(
        ["bash", "-c", remote], cwd=tmp_path / "home", env=environment(PATH=fakes.path), check=True
    )
    wait_until((tmp_path / "dinado.jsonl").exists)
    wait_until(dinado)
    assert dinado() == [["run", WORDS[0], f"run.folder={tmp_path}/my-runs", *WORDS[1:]]]
    logs = tmp_path / "home/dinado/logs"
    wait_until(lambda: not list(logs.glob("*.pid")))
    (log,) = logs.iterdir()
    assert log.read_text().endswith("ended with 0\n")


def test_words_reach_the_gpu_node(repository, fakes, tmp_path):
    dinado = fakes("dinado", "assert os.environ['DINADO_DISTRIBUTED'] == 'node0:8476,2,1'")
    settings = NODES | {"RUN_DIR": str(tmp_path / "my runs"), "PATH": fakes.path}
    assert bash(repository, ["gpu.sh", "run", *WORDS], **settings).returncode == 0
    assert dinado() == [["run", WORDS[0], f"run.folder={tmp_path}/my runs", *WORDS[1:]]]


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [(143, "RUNNING", True), (143, "CANCELLED", False), (2, "RUNNING", False)],
)
def test_slurm(repository, fakes, tmp_path, code, state, requeued):
    srun = fakes("srun", f"sys.exit({code})")
    fakes("squeue", f"print({state!r})")
    scontrol = fakes("scontrol")
    settings = {"RUN_DIR": str(tmp_path / "my runs"), "SLURM_JOB_ID": "7", "PATH": fakes.path}
    assert bash(repository, ["slurm.sbatch", *WORDS], **settings).returncode == code
    (call,) = srun()
    assert call[-len(WORDS) - 2 :] == ["launch/worker.sh", "run", *WORDS]
    assert (tmp_path / "my runs/logs").is_dir()
    assert (tmp_path / "scontrol.jsonl").exists() == requeued
    if requeued:
        assert scontrol() == [["requeue", "7"]]


@pytest.mark.parametrize("settings", [K8S_TPU, {**K8S, "DEVICE": "gpu"}])
def test_kubernetes(repository, fakes, tmp_path, settings):
    manifest = tmp_path / "manifest"
    kubectl = fakes("kubectl", f"open({str(manifest)!r}, 'w').write(sys.stdin.read())")
    done = bash(repository, ["k8s.sh", "apply", *WORDS], **settings | {"PATH": fakes.path})
    assert done.returncode == 0, done.stderr
    assert kubectl() == [["apply", "--filename=-"]]
    jobset = yaml.safe_load(manifest.read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3]
    (container,) = job["template"]["spec"]["containers"]
    assert [word.replace("$$", "$") for word in container["args"]] == WORDS
    assert "${" not in manifest.read_text().replace("${HOME", "")


def test_sync(repository, fakes):
    gcloud = fakes("gcloud")
    settings = TPU | {"PATH": fakes.path}
    (repository / "new.py").write_text("1\n")
    done = bash(repository, ["tpu.sh", "sync"], **settings)
    assert done.returncode == 2 and "uncommitted" in done.stderr

    done = bash(repository, ["tpu.sh", "sync"], **settings, DIRTY="1")
    assert done.returncode == 0, done.stderr
    scp, ssh = gcloud()
    assert "--worker=all" in scp and "--worker=all" in ssh
    sent = subprocess.check_output(
        ["tar", "-tzf", repository / "build/code.tar.gz"], text=True
    ).split()
    assert {"new.py", "launch/tpu.sh"} <= set(sent)
    assert git(repository, "rev-parse", "HEAD").strip() + " with changes" in ssh[-1]
    assert git(repository, "status", "--porcelain") == "?? new.py\n"  # the index is as it was


# The worker.


def worker(repository, fakes, tmp_path, verb="run", **more):
    settings = {"RUN_DIR": str(tmp_path / "runs"), "RESTART_PAUSE": "0", "PATH": fakes.path} | more
    words = ["a.toml"] if verb in ("run", "start") else []
    return ["bash", repository / "launch/worker.sh", verb, *words], environment(**settings)


@pytest.mark.parametrize(
    ("ends", "restarts", "calls", "code"),
    [
        ("sys.exit(0)", 3, 1, 0),
        ("sys.exit(2)", 3, 1, 2),
        ("sys.exit(3)", 3, 1, 3),
        ("sys.exit(130)", 3, 1, 130),
        ("sys.exit(1)", 2, 3, 1),
        ("sys.exit(1)", 0, 1, 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, 2, 137),
        ("sys.exit(143 if calls == 1 else 0)", 3, 2, 0),  # another host was told to stop
    ],
)
def test_restarts(repository, fakes, tmp_path, ends, restarts, calls, code):
    dinado = fakes("dinado", ends)
    command, env = worker(repository, fakes, tmp_path, MAX_RESTARTS=str(restarts))
    assert subprocess.run(command, env=env, capture_output=True, timeout=30).returncode == code
    assert len(dinado()) == calls
    assert list((tmp_path / "runs/logs").iterdir()) == []


SAVES = """
def stop(signum, frame):
    print("saved", flush=True)
    time.sleep(0.2)
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
print("ready", os.environ["TOKENIZERS_PARALLELISM"], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_program_once(repository, fakes, tmp_path, signum):
    dinado = fakes("dinado", SAVES)
    command, env = worker(repository, fakes, tmp_path)
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert "dinado run a.toml" in process.stdout.readline()
        assert process.stdout.readline() == "ready false\n"
        os.killpg(process.pid, signum)  # as a terminal does: the worker and all in its group
        printed = process.stdout.read()
    assert process.returncode == 128 + signum
    assert printed.count("saved") == 1
    assert len(dinado()) == 1


def test_a_signal_between_two_tries(repository, fakes, tmp_path):
    dinado = fakes("dinado", "sys.exit(1)")
    command, env = worker(repository, fakes, tmp_path, RESTART_PAUSE="99")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        while "starts again" not in process.stdout.readline():
            pass
        process.terminate()
    assert process.returncode == 143
    assert len(dinado()) == 1


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_detached(repository, fakes, tmp_path, verb):
    fakes("dinado", SAVES)
    logs = tmp_path / "runs/logs"

    def tell(verb):
        command, env = worker(repository, fakes, tmp_path, verb)
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)

    assert "not running" in tell("status").stdout
    assert tell("start").returncode == 0
    wait_until(lambda: any("ready" in log.read_text() for log in logs.glob("*.log")))
    pid = int(next(logs.glob("*.pid")).read_text())
    children = subprocess.check_output(["pgrep", "-P", str(pid)], text=True).split()
    try:
        assert f"running, pid {pid}" in tell("status").stdout
        again = tell("start")
        assert again.returncode == 2 and "already running" in again.stderr
    finally:
        assert tell(verb).returncode == 0
        wait_until(lambda: not any(alive(int(each)) for each in [pid, *children]))
    assert ("saved" in next(logs.glob("*.log")).read_text()) == (verb == "stop")
    assert "not running" in tell("status").stdout
    assert "not running" in tell(verb).stdout


# The local pod.


def pod(processes, devices, program):
    return [
        *("bash", ROOT / "launch/local_pod.sh", str(processes), str(devices), "--"),
        *(sys.executable, "-c", "import os, signal, sys, time\n" + program, "a b"),
    ]


def test_local_pod():
    program = (
        "names = 'DINADO_DISTRIBUTED', 'JAX_PLATFORMS', 'JAX_NUM_CPU_DEVICES'\n"
        "print(*(os.environ[name] for name in names), sys.argv[1])"
    )
    done = subprocess.run(pod(3, 4, program), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    lines = sorted(done.stdout.splitlines())
    (port,) = {re.search(r"127\.0\.0\.1:(\d+),", line)[1] for line in lines}
    assert lines == [f"[{i}] 127.0.0.1:{port},3,{i} cpu 4 a b" for i in range(3)]


def test_local_pod_ends_the_others(tmp_path):
    program = (
        f"number = os.environ['DINADO_DISTRIBUTED'].split(',')[2]\n"
        f"open({str(tmp_path)!r} + '/' + number, 'w').write(str(os.getpid()))\n"
        f"while len(os.listdir({str(tmp_path)!r})) < 3: time.sleep(0.02)\n"
        "sys.exit(7) if number == '1' else time.sleep(60)"
    )
    done = subprocess.run(pod(3, 1, program), capture_output=True, text=True, timeout=30)
    assert done.returncode == 7
    assert not any(alive(int(path.read_text())) for path in tmp_path.iterdir())


def test_local_pod_forwards(tmp_path):
    program = SAVES.replace('os.environ["TOKENIZERS_PARALLELISM"]', "os.getpid()")
    with subprocess.Popen(
        pod(2, 1, program), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        ready = [process.stdout.readline() for _ in range(2)]
        os.killpg(process.pid, signal.SIGTERM)
        printed = process.stdout.read()
    assert process.returncode == 143
    assert sorted(printed.splitlines()) == ["[0] saved", "[1] saved"]
    assert not any(alive(int(line.split()[2])) for line in ready)
