"""Kills runs at random moments and compares what they become with an uninterrupted run.

    PYTHONPATH=tests python -m support.killed OUT --kills 50    # one process, SIGKILL
    PYTHONPATH=tests python -m support.killed OUT --stops 20    # two processes, SIGTERM to one

Prints a JSON line per run. One stage after the other is hit, each at a random moment. The same
command then continues the run: the same rollouts, samples and steps, none lost or counted twice,
and with one process the same control bit for bit. Takes half a minute per run; the suite checks the
same at a few chosen moments.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file

import support
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.run_folder import STAGES
from support import tiny_run

TESTS = support.TESTS
# Many checkpoints and many parts: there is always something being written.
SETTINGS = (
    *tiny_run.SETTINGS,
    "sft.steps=40",
    "train.steps=30",
    "train.batch=16",
    "rollout.batch=8",
    "decode.batch=8",
    "run.save_every=1",
)
FIELDS = ("tokens", "length", "label", "prompt_id", "finished")


def begin(folder: Path, processes: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    demo = TESTS.parent / "configs" / "demo.toml"
    argv = [sys.executable, "-m", "dinado_jax", "run", str(demo), *SETTINGS]
    started = []
    for index in range(processes):
        place = {"DINADO_DISTRIBUTED": f"{address},{processes},{index}" if processes > 1 else "off"}
        with (folder.parent / f"{folder.name}.{index}.log").open("a") as log:
            started.append(
                subprocess.Popen(
                    [*argv, f"run.folder={folder}"],
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env=os.environ | settings | place,
                )
            )
    return started


def finish(folder: Path, processes: int) -> list[int]:
    return [process.wait() for process in begin(folder, processes)]


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def differences(one: Path, other: Path, exactly: bool) -> list[str]:
    """What is not alike in two finished runs."""
    found = []
    for name in ("rollout/rollouts.npz", "train/round_1.npz"):
        rows = [Rollouts.load(folder / name) for folder in (one, other)]
        same = all(np.array_equal(*(getattr(each, field) for each in rows)) for field in FIELDS)
        found += [] if same else [name]
    for name in ("sft/sft.jsonl", "train/train.jsonl"):
        found += [] if steps(one / name) == steps(other / name) else [name]
    for name in ("generate/base.jsonl", "generate/control.jsonl"):
        texts = [
            [json.loads(line)["text"] for line in (folder / name).read_text().splitlines()]
            for folder in (one, other)
        ]
        found += [] if texts[0] == texts[1] else [name]
    if exactly:
        bases = [
            load_file(folder / "sft" / "base" / "model.safetensors") for folder in (one, other)
        ]
        same = all(np.array_equal(bases[0][key], bases[1][key]) for key in bases[0])
        found += [] if same else ["sft/base"]
        controls = [jax.tree.leaves(control(folder)) for folder in (one, other)]
        same = all(np.array_equal(x, y) for x, y in zip(*controls, strict=True))
        found += [] if same else ["train/control"]
    return found


def control(folder: Path):
    from dinado_jax.stages.pipeline import load_run

    return load_run(folder).params


def where(folder: Path) -> dict:
    """What a run was at when it ended."""
    open_stages = [name for name in STAGES if not (folder / name / "done.json").exists()]
    being_written = [*folder.rglob("*.orbax-checkpoint-tmp*"), *folder.rglob("*.partial")]
    return {
        "stage": open_stages[0] if open_stages else "done",
        "writing": sorted({path.name.split(".")[-1][:15] for path in being_written}),
    }


def wait_into(stage: str, folder: Path, whole: Path, process, rng: random.Random) -> float:
    """Until a random moment of a stage, as long as it took in a whole run; returns its seconds."""
    while not (folder / stage / "config.json").exists() and process.poll() is None:
        time.sleep(0.005)
    record = json.loads((whole / stage / "done.json").read_text())
    moment = rng.uniform(0, record["seconds"])
    time.sleep(moment)
    return round(moment, 3)


def continued(folder: Path, whole: Path, processes: int) -> dict:
    """What becomes of a run that goes on, which is then forgotten."""
    codes = finish(folder, processes)
    found = ["unfinished"]
    if not any(codes):
        found = differences(whole / "tiny", folder / "tiny", processes == 1)
    shutil.rmtree(folder)
    return {"codes": codes, "differences": found}


def killed(folder: Path, whole: Path, stage: str, rng: random.Random) -> dict:
    (process,) = begin(folder, 1)
    moment = wait_into(stage, folder / "tiny", whole / "tiny", process, rng)
    process.kill()
    process.wait()
    was = where(folder / "tiny")
    return {"meant": stage, "after": moment, **was, **continued(folder, whole, 1)}


def stopped(folder: Path, whole: Path, stage: str, rng: random.Random) -> dict:
    processes = begin(folder, 2)
    moment = wait_into(stage, folder / "tiny", whole / "tiny", processes[0], rng)
    whom = rng.randrange(2)
    processes[whom].send_signal(signal.SIGTERM)
    stops = [process.wait() for process in processes]
    was, faults = where(folder / "tiny"), []
    if stops not in ([143, 143], [0, 0]) and was["stage"] != "done":  # a signal may meet the exit
        faults.append("ends")
    if was["stage"] in ("sft", "train"):
        was["steps"] = told_and_kept(folder / "tiny" / was["stage"], was["stage"])
        faults += ["steps"] if len(set(was["steps"])) > 1 else []
    outcome = continued(folder, whole, 2)
    outcome["differences"] += faults
    return {"meant": stage, "after": moment, "whom": whom, "stops": stops, **was, **outcome}


def told_and_kept(folder: Path, stage: str) -> list[int]:
    """The last step in a stage's metrics, and the newest of its checkpoints."""
    path = folder / f"{stage}.jsonl"
    kept = [int(path.name) for path in folder.glob("checkpoints*/*") if path.name.isdecimal()]
    return [(steps(path) or [0])[-1] if path.exists() else 0, max(kept, default=0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    rng, bad = random.Random(args.seed), 0
    # evaluate is process 0's alone, and over at once: nothing stops it.
    kinds = ((killed, args.kills, 1, STAGES), (stopped, args.stops, 2, STAGES[:-1]))
    for what, count, processes, stages in kinds:
        if not count:
            continue
        whole = args.out / f"whole_{processes}"
        finish(args.out / "warm", processes)  # its programs are compiled
        shutil.rmtree(args.out / "warm")
        finish(whole, processes)
        for number in range(count):
            folder = args.out / f"{what.__name__}_{number}"
            outcome = what(folder, whole, stages[number % len(stages)], rng)
            bad += bool(outcome["differences"])
            print(json.dumps({"run": number, **outcome}), flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
