"""Sample efficiency in exact worlds, for all variants, techniques, budgets of rollouts and seeds.

    python benchmarks/exact_study.py --out study.jsonl [--plot study.svg]

Prints and writes a line of JSON per run; runs that are in the file already are not repeated. At the
end it prints tables of mean and standard deviation over seeds. It takes about half an hour on one
core; --learners, --techniques, --rates, --budgets and --seeds choose a part.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np

from dinado_jax.exact.compare import TRAIN, WORLDS, setting
from dinado_jax.exact.learn import learn

LEARNERS = {
    "nado, published": ("nado", "published"),
    "soft, published": ("soft", "published"),
    "merge, published": ("merge", "published"),
    "hard, published": ("hard", "published"),
    "merge, matching": ("merge", "matching"),
    "hard, matching": ("hard", "matching"),
}
# (rounds, share of p in the draws of later rounds, initial bias of the norm)
TECHNIQUES = {
    "plain": (1, 1.0, "zero"),
    "norm bias": (1, 1.0, "success_rate"),
    "mixture": (5, 0.5, "success_rate"),
    "refresh": (5, 0.0, "success_rate"),
}
RATES = (0.2, 0.02, 0.002)
BUDGETS = (64, 256, 1024, 4096, 16384)
KEYS = ("learner", "technique", "rate", "budget", "seed")
FIGURES = ("satisfaction", "total_variation", "kl_optimum", "kl_to_base", "bellman")


def run(learner: str, technique: str, rate: float, budget: int, seed: int) -> dict:
    variant, objective = LEARNERS[learner]
    rounds, mixture, bias = TECHNIQUES[technique]
    world = dataclasses.replace(WORLDS["table"], rarity=rate, seed=seed)
    train = dataclasses.replace(
        TRAIN["table"],
        learning_rate=0.1,
        objective=objective,
        rounds=rounds,
        mixture=mixture,
    )
    _, curve = learn(setting("table", world, variant, seed), train, budget, bias, seed)
    return {key: curve[-1][key] for key in FIGURES}


def table(records: list[dict], rate: float, key: str, chosen: argparse.Namespace) -> str:
    """Returns mean and standard deviation of a figure, learners and techniques by budgets."""
    lines = [
        f"| {key.replace('_', ' ')}, R0 {rate} | technique | "
        + " | ".join(str(n) for n in chosen.budgets)
        + " |",
        "| --- " * (2 + len(chosen.budgets)) + "|",
    ]
    for learner, technique in itertools.product(chosen.learners, chosen.techniques):
        cells = []
        for budget in chosen.budgets:
            found = [
                r[key]
                for r in records
                if (r["learner"], r["technique"], r["rate"], r["budget"])
                == (learner, technique, rate, budget)
                and r["seed"] in chosen.seeds
            ]
            cells.append(f"{np.mean(found):.2f} ± {np.std(found, ddof=1):.2f}" if found else "")
        lines.append(f"| {learner} | {technique} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(records: list[dict], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, len(RATES), sharex=True, sharey="row")
    for column, rate in enumerate(RATES):
        for learner, technique in (
            ("nado, published", "plain"),
            ("merge, published", "plain"),
            ("merge, published", "norm bias"),
            ("merge, published", "refresh"),
            ("merge, matching", "plain"),
            ("merge, matching", "mixture"),
            ("hard, matching", "mixture"),
        ):
            for axis, key in zip(axes[:, column], ("satisfaction", "total_variation"), strict=True):
                points = [
                    [
                        r[key]
                        for r in records
                        if (r["learner"], r["technique"], r["rate"], r["budget"])
                        == (learner, technique, rate, budget)
                    ]
                    for budget in BUDGETS
                ]
                axis.errorbar(
                    BUDGETS,
                    [np.mean(p) for p in points],
                    [np.std(p, ddof=1) for p in points],
                    label=f"{learner}, {technique}",
                    capsize=2,
                )
        axes[0, column].set(title=f"R0 = {rate}", xscale="log")
        axes[1, column].set(xlabel="rollouts", xscale="log")
    axes[0, 0].set_ylabel("satisfaction")
    axes[1, 0].set_ylabel("total variation to q*")
    axes[0, -1].legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--techniques", nargs="+", choices=TECHNIQUES, default=list(TECHNIQUES))
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--plot", help="a figure of the whole study")
    args = parser.parse_args()
    whole = (args.learners, args.techniques) == (list(LEARNERS), list(TECHNIQUES))
    if args.plot and (not whole or args.rates != RATES or args.budgets != BUDGETS):
        parser.error("--plot draws the whole study: leave out the options that choose a part")
    if len(args.seeds) < 2:
        parser.error("--seeds: a standard deviation needs two or more")
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {tuple(record[key] for key in KEYS) for record in records}
    with args.out.open("a") as file:
        chosen = args.learners, args.techniques, args.rates, args.budgets, args.seeds
        for case in itertools.product(*chosen):
            if case not in done:
                records.append(dict(zip(KEYS, case, strict=True)) | run(*case))
                print(json.dumps(records[-1]), file=file, flush=True)
                print(json.dumps(records[-1]), file=sys.stderr)
    for key, rate in itertools.product(("satisfaction", "total_variation"), args.rates):
        print(table(records, rate, key, args), end="\n\n")
    if args.plot:
        plot(records, args.plot)


if __name__ == "__main__":
    main()
