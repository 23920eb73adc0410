"""Kills runs at random moments and holds what they become against a run that was let alone.

    python tests/killed.py OUT --kills 50          one process, SIGKILL, a JSON line each
    python tests/killed.py OUT --stops 20          two processes, SIGTERM to one of them

Whatever the moment, the same command goes on: the same rollouts, samples and steps, none lost or
counted twice, and with one process the same control bit for bit. Takes half a minute a run; the
suite holds the same by few, chosen moments.
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
import tiny_run
from safetensors.numpy import load_file

from dinado_jax.rollouts import Rollouts

TESTS = Path(__file__).parent
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
    from dinado_jax.pipeline import load_run

    return load_run(folder).params


def where(folder: Path) -> dict:
    """What a run was at when it ended."""
    stages = ("sft", "rollout", "train", "generate", "evaluate")
    open_stages = [name for name in stages if not (folder / name / "done.json").exists()]
    being_written = [*folder.rglob("*.orbax-checkpoint-tmp*"), *folder.rglob("*.partial")]
    return {
        "stage": open_stages[0] if open_stages else "done",
        "writing": sorted({path.name.split(".")[-1][:15] for path in being_written}),
    }


def killed(out: Path, whole: Path, seconds: float, number: int, rng: random.Random) -> dict:
    folder = out / f"kill_{number}"
    (process,) = begin(folder, 1)
    moment = rng.uniform(0.3, 1.0) * seconds
    time.sleep(moment)
    process.kill()
    process.wait()
    was = where(folder / "tiny")
    codes = finish(folder, 1)
    found = differences(whole / "tiny", folder / "tiny", True) if codes == [0] else ["unfinished"]
    shutil.rmtree(folder)
    return {"killed_after": round(moment, 2), **was, "codes": codes, "differences": found}


def stopped(out: Path, whole: Path, seconds: float, number: int, rng: random.Random) -> dict:
    folder = out / f"stop_{number}"
    processes = begin(folder, 2)
    while not (folder / "tiny" / "config.json").exists() and processes[0].poll() is None:
        time.sleep(0.05)
    moment = rng.uniform(0, 0.6) * seconds
    time.sleep(moment)
    processes[rng.randrange(2)].send_signal(signal.SIGTERM)
    stops = [process.wait() for process in processes]
    was = where(folder / "tiny")
    codes = finish(folder, 2)
    found = ["unfinished"]
    if codes == [0, 0]:
        found = differences(whole / "tiny", folder / "tiny", False)
    shutil.rmtree(folder)
    return {"after": round(moment, 2), **was, "stops": stops, "codes": codes, "differences": found}


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
    for what, count, processes in ((killed, args.kills, 1), (stopped, args.stops, 2)):
        if not count:
            continue
        whole = args.out / f"whole_{processes}"
        finish(args.out / "warm", processes)  # its programs are compiled
        shutil.rmtree(args.out / "warm")
        began = time.monotonic()
        finish(whole, processes)
        seconds = time.monotonic() - began
        for number in range(count):
            outcome = what(args.out, whole, seconds, number, rng)
            bad += bool(outcome["differences"])
            print(json.dumps({"run": number, **outcome}), flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
