"""Ways to satisfy an oracle side by side, on one base and the same prompts.

    python benchmarks/side_by_side.py CONFIG --out FOLDER [--variants NAME ..]
        [--settings KEY=VALUE ..]

Each variant is a run of the configuration with a few settings changed; all share the base and its
first rollouts. Prints a line of JSON per variant: success, coverage and other metrics of the task,
KL (nats per sequence), floor by prompt, efficiency, share that ended, log-probability per token
under the base, rollouts, seconds. Finished runs are not repeated.

`masks` and `state, guarantee` draw from what `blind` and `state` have trained, under the mask of
the oracle's automata; `masks` at strength 0, which leaves the base under it.
"""

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STAGES = ("sft", "rollout", "train")
VARIANTS = {
    "blind": ("control.state=false",),
    "state": ("control.state=true",),
    "tuned on successes": (  # of as many samples, all of the base
        "control.state=false",
        "train.objective=matching",
        "train.warmup_direction=0",
        "train.mixture=1.0",
    ),
}
# Of the same trained control: whose it is, and what changes.
GUARANTEED = {
    "masks": ("blind", ("decode.guarantee=true", "decode.strength=0")),
    "state, guarantee": ("state", ("decode.guarantee=true",)),
}


def _settings(common: list[str], own: tuple[str, ...]) -> list[str]:
    """Those of a variant replace common ones."""
    return list({setting.partition("=")[0]: setting for setting in (*common, *own)}.values())


def _run(config: str, folder: Path, settings: list[str]) -> str:
    """Runs or continues a run; returns its last line of error, if any."""
    run = [f"run.folder={folder.parent}", f"name={folder.name}"]
    command = [sys.executable, "-m", "dinado_jax", "run", config, *run, *settings]
    with folder.with_suffix(".log").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=log)
    lines = folder.with_suffix(".log").read_text().strip().splitlines()
    return lines[-1] if done.returncode else ""


def _record(folder: Path, name: str) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    figures = json.loads((folder / "train" / "done.json").read_text())["figures"]
    rounds = [value for key, value in figures.items() if key.startswith("round_")]
    own = summary["control"]
    skipped = ("label", "examples")
    return {
        "variant": name,
        **{key: value for key, value in own.items() if key not in skipped},
        "floor_by_prompt": summary["kl_floor_by_prompt"],
        "efficiency_by_prompt": summary["efficiency_by_prompt"],
        "rounds": [round(value["newest_success_rate"], 3) for value in rounds],
        "rollouts": rounds[-1]["rollouts"],
        "seconds": summary["seconds"],
        "warnings": summary["warnings"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True)
    names = [*VARIANTS, *GUARANTEED]
    parser.add_argument("--variants", nargs="+", choices=names, default=names)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="of all")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = {name: args.out / name.replace(", ", "_").replace(" ", "_") for name in names}
    failed = False

    def trained(name: str) -> None:
        nonlocal failed
        error = _run(args.config, folder[name], _settings(args.settings, VARIANTS[name]))
        record = {"variant": name, "error": error} if error else None
        failed |= bool(error)
        print(json.dumps(record or _record(folder[name], name)), flush=True)

    wanted = {GUARANTEED[name][0] if name in GUARANTEED else name for name in args.variants}
    first, *others = [name for name in VARIANTS if name in wanted]
    shared = folder[first]
    if not (shared / "rollout" / "done.json").exists():
        for stage in ("sft", "rollout"):
            _stage(args.config, stage, shared, _settings(args.settings, VARIANTS[first]))
    for name in others:
        if not folder[name].exists():
            partial = folder[name].with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            for stage in ("sft", "rollout"):
                shutil.copytree(shared / stage, partial / stage)
            partial.rename(folder[name])
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(trained, [first, *others]))
    summary = json.loads((shared / "summary.json").read_text())
    print(json.dumps({"variant": "base", **summary["base"]}), flush=True)

    def guaranteed(name: str) -> None:
        nonlocal failed
        (trained, changes), own = GUARANTEED[name], folder[name]
        if not own.exists():
            partial = own.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            for stage in STAGES:
                shutil.copytree(folder[trained] / stage, partial / stage)
            partial.rename(own)
        settings = _settings(args.settings, (*VARIANTS[trained], *changes))
        error = _run(args.config, own, settings)
        failed |= bool(error)
        print(json.dumps({"variant": name, "error": error} if error else _record(own, name)))

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(guaranteed, [name for name in GUARANTEED if name in args.variants]))
    sys.exit(failed)


def _stage(config: str, stage: str, folder: Path, settings: list[str]) -> None:
    run = [f"run.folder={folder.parent}", f"name={folder.name}"]
    command = [sys.executable, "-m", "dinado_jax", stage, config, *run, *settings]
    with folder.with_suffix(".log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


if __name__ == "__main__":
    main()
