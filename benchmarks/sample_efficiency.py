"""Success and KL against rollouts, for every kind of control and reweighting.

    python benchmarks/sample_efficiency.py CONFIG --out FOLDER [--per-prompt 1 2 4 8 16]
        [--prompts N ..] [--kinds merge soft nado hard state] [--weightings ..] [--seeds 3 4 5]
        [--settings KEY=VALUE ..]

Each run is `dinado run CONFIG` with so many prompts in each round (CONFIG's unless given) and so
many rollouts for each, of the first round and of the later ones; the number of steps depends on
neither. `state` is merge with the state of the oracle, by the settings of configs/demo_state.toml.
Runs of one seed share the base, and those with as many rollouts the first of these. Finished runs
are not repeated: what was stopped goes on with the same command. Writes FOLDER/records.jsonl and
FOLDER/efficiency.svg, prints a line of JSON per run, and at the end a table. Intervals are the
central 95% of bootstrap samples of prompts, those of all seeds together. A run of the demo takes 2
to 4 minutes on 2 cores.

    python benchmarks/sample_efficiency.py configs/demo.toml --out STUDY
    python benchmarks/sample_efficiency.py configs/commongen_small.toml --out STUDY \
        --settings task.source=COMMONGEN sft.pretrain_path=CAPTIONS train.objective=regression
    python benchmarks/sample_efficiency.py configs/demo.toml --out STUDY --kinds merge state \
        --weightings importance --prompts 12 50 200 800 --per-prompt 8
"""

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from dinado_jax.evaluation.intervals import bootstrap_interval
from dinado_jax.evaluation.samples import read_samples
from dinado_jax.evaluation.summary import read_summary

KINDS = {
    **{kind: (f"control.kind={kind}",) for kind in ("merge", "soft", "nado", "hard")},
    "state": ("control.state=true", "train.weight_decay=0.3", "train.prefix_bound=0.3"),
}
WEIGHTINGS = {
    "importance": (),
    "not clipped": ("train.weight_clip=1.0",),
    "none": ("train.weights=none",),
}
KEYS = ("kind", "weighting", "prompts", "per_prompt", "seed")
QUALITIES = {"success": "success", "kl": "KL to the base (nats)"}


def dinado(command: str, config: Path, folder: Path, settings: list[str]) -> str:
    """Runs a command on a folder; returns what it says if it fails."""
    run = [sys.executable, "-m", "dinado_jax", command, str(config), "--out", str(folder)]
    done = subprocess.run([*run, "--quiet", *settings], capture_output=True, text=True)
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return said[-1] if done.returncode else ""


def of_study(args: argparse.Namespace) -> dict:
    """What all cells of a study share."""
    return {"config": str(args.config), "settings": sorted(args.settings)}


def begin(folder: Path, stages: list[Path]) -> None:
    """Makes a run's folder of finished stages of others, in links to their files."""
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for stage in stages:
            shutil.copytree(stage, partial / stage.name, copy_function=os.link)
        partial.rename(folder)


def run(
    args: argparse.Namespace, kind: str, weighting: str, prompts: int, per_prompt: int, seed: int
) -> dict:
    """Runs a cell of the study, or continues it; 0 prompts are those of the configuration."""
    record = dict(zip(KEYS, (kind, weighting, prompts, per_prompt, seed), strict=True))
    of_seed, count = args.out / f"seed{seed}", f"{prompts or 'all'}_{per_prompt}"
    drawn, base = of_seed / f"rollouts_{count}", of_seed / "base"
    common = [*args.settings, *KINDS[kind], *WEIGHTINGS[weighting], f"seed={seed}"]
    common += [f"rollout.samples={per_prompt}", f"train.refresh_samples={per_prompt}"]
    if prompts:
        common += [f"rollout.prompts={prompts}", f"train.refresh_prompts={prompts}"]
    fault = dinado("sft", args.config, base, common)
    if not fault:
        begin(drawn, [base / "sft"])
        fault = dinado("rollout", args.config, drawn, common)
    if not fault:
        folder = of_seed / f"{kind}_{weighting.replace(' ', '_')}_{count}"
        begin(folder, [drawn / "sft", drawn / "rollout"])
        fault = dinado("run", args.config, folder, common)
    if fault:
        return {**record, "error": fault}
    summary = read_summary(folder / "summary.json", f"delete {folder} and run again")
    of_prompts = per_prompt_figures(folder / "generate" / "control.jsonl")
    known = {"efficiency": summary.floors.efficiency, **summary.control.metrics}
    return {
        **record,
        **of_study(args),
        "base": summary.base.success_rate,
        "rollouts": summary.stages.train.rounds[-1].rollouts,
        "seconds": summary.seconds["train"],
        **{name: value if math.isfinite(value) else None for name, value in known.items()},
        **{name: figures(values) for name, values in of_prompts.items()},
        "of_prompts": of_prompts,
    }


def per_prompt_figures(samples: Path) -> dict[str, list[float]]:
    """The means of each prompt, in the order of the prompts."""
    rows = read_samples(samples)
    _, group = np.unique([row.prompt_id for row in rows], return_inverse=True)
    values = {
        "success": [row.label for row in rows],
        "kl": [row.log_prob - row.log_prob_base for row in rows],
    }
    return {
        name: np.round(np.bincount(group, own) / np.bincount(group), 6).tolist()
        for name, own in values.items()
    }


def figures(values: list[float]) -> dict:
    """Mean and 95% interval of values of prompts."""
    return {"mean": float(np.mean(values)), "interval": list(bootstrap_interval(values, 0))}


def pooled(records: list[dict], quality: str) -> dict[tuple, dict]:
    """The figures of (kind, weighting, rollouts of a round), prompts of all seeds together."""
    found: dict[tuple, list[float]] = {}
    for record in records:
        if "error" not in record:
            cell = record["kind"], record["weighting"], rollouts_of_a_round(record)
            found.setdefault(cell, []).extend(record["of_prompts"][quality])
    return {cell: figures(values) for cell, values in found.items()}


def rollouts_of_a_round(record: dict) -> int:
    """Of each prompt where all rounds have the configuration's prompts."""
    return max(record["prompts"], 1) * record["per_prompt"]


def table(records: list[dict]) -> str:
    """Success and KL by rollouts, as Markdown."""
    lines = []
    counts = sorted({rollouts_of_a_round(record) for record in records})
    for quality, label in QUALITIES.items():
        cells, form = pooled(records, quality), "{:.3f}" if quality == "success" else "{:.2f}"
        lines += ["", f"| {label} | weights | " + " | ".join(map(str, counts)) + " |"]
        lines.append("| --- " * (2 + len(counts)) + "|")
        for kind, weighting in dict.fromkeys(cell[:2] for cell in cells):
            row = []
            for count in counts:
                found = cells.get((kind, weighting, count))
                both = [found["mean"], *found["interval"]] if found else []
                row.append("{} ({} to {})".format(*map(form.format, both)) if both else "")
            lines.append(f"| {kind} | {weighting} | " + " | ".join(row) + " |")
    return "\n".join(lines[1:])


def plot(records: list[dict], path: Path) -> None:
    """A column per reweighting, a row per quality, a line per kind."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(record["weighting"] for record in records if "error" not in record))
    if not names:
        return
    figure = Figure(figsize=(1 + 3.5 * len(names), 6), layout="constrained")
    axes = figure.subplots(len(QUALITIES), len(names), sharex=True, sharey="row", squeeze=False)
    for (row, quality), (column, weighting) in itertools.product(
        enumerate(QUALITIES), enumerate(names)
    ):
        axis, cells = axes[row, column], pooled(records, quality)
        for number, kind in enumerate(KINDS):
            own = {cell[2]: cells[cell] for cell in cells if cell[:2] == (kind, weighting)}
            counts = sorted(own)
            if counts:
                mean = np.array([own[count]["mean"] for count in counts])
                ends = np.array([own[count]["interval"] for count in counts]).T
                axis.errorbar(
                    counts,
                    mean,
                    np.maximum(np.abs(ends - mean), 0),
                    label=kind,
                    marker="osD^v"[number],
                    capsize=2,
                )
        axis.set_xscale("log", base=2)
        if not row:
            axis.set_title(f"weights: {weighting}")
    for axis, label in zip(axes[:, 0], QUALITIES.values(), strict=True):
        axis.set_ylabel(label)
    for axis in axes[-1]:
        axis.set_xlabel("rollouts in a round" if records[0]["prompts"] else "rollouts per prompt")
    axes[0, -1].legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-prompt", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--prompts", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS)[:4])
    parser.add_argument("--weightings", nargs="+", choices=WEIGHTINGS, default=list(WEIGHTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="of all")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "records.jsonl"
    records = list(map(json.loads, path.read_text().splitlines())) if path.exists() else []
    for record in records:
        if any(record.get(key, value) != value for key, value in of_study(args).items()):
            sys.exit(f"{path} has a study of another CONFIG or --settings: give another --out")
    done = {tuple(record[key] for key in KEYS) for record in records}
    failed = False
    # Seeds first, so that a study that is stopped has all cells of some.
    for seed, *cell in itertools.product(
        args.seeds, args.kinds, args.weightings, args.prompts, args.per_prompt
    ):
        if (*cell, seed) in done:
            continue
        record = run(args, *cell, seed)
        shown = {key: value for key, value in record.items() if key != "of_prompts"}
        print(json.dumps(shown), flush=True)
        failed |= "error" in record
        if "error" not in record:
            records.append(record)
            partial = path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(each) + "\n" for each in records))
            partial.replace(path)
    if records:
        plot(records, args.out / "efficiency.svg")
        print(table(records))
    sys.exit(failed)


if __name__ == "__main__":
    main()
