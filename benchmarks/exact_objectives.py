"""Trains every objective in enumerable worlds and compares it with what it should converge to.

    python benchmarks/exact_objectives.py --out FILE [--worlds table neural] [--objectives ..]

The worlds and their settings are those of `dinado exact`, the control is merge. The optimum is q*,
for reinforce and ppo q proportional to p e^(C / beta), with beta of the last round. Prints and
appends a line of JSON per run, and ends with a table of all lines in the file. A run takes a minute
(table) or a few (neural) on a core.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np

from dinado_jax.config.schema import Train
from dinado_jax.exact.compare import ROLLOUTS, TRAIN, WORLDS, setting
from dinado_jax.exact.learn import Setting, learn
from dinado_jax.exact.measure import measure
from dinado_jax.exact.world import Optimum
from dinado_jax.objectives.ppo import Ppo
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.rollouts.arrays import Rollouts, concatenate

# What differs from the settings of `dinado exact`: regression needs more rows than the others to be
# trained to its end; variance lets q keep failures up to p e^-margin in probability; ppo learns
# from samples of q, in many rounds.
CHANGES = {
    ("table", "regression"): {"batch": 512},
    ("table", "variance"): {"margin": 8.0},
    ("table", "ppo"): {"mixture": 0.0, "rounds": 60, "steps": 3000, "batch": 512},
    ("neural", "ppo"): {"mixture": 0.0, "rounds": 25},
}
FIGURES = ("total_variation", "kl_optimum", "satisfaction", "kl_to_base", "kl_floor")


def own_optimum(case: Setting, train: Train, rollouts: Rollouts) -> tuple[Optimum, float]:
    """Returns what an objective converges to, and 1 / beta; 0 for q*."""
    if train.objective not in ("reinforce", "ppo"):
        return case.optimum, 0.0
    reward = train.margin
    if train.objective == "ppo":
        reward = 1 / Ppo(train.margin).beta(rollouts)
    label = np.exp(reward * (case.optimum.label - 1))
    return Optimum.of(case.world, case.optimum.log_p, label), reward


def run(kind: str, objective: str, seed: int) -> dict:
    """Trains one objective in a world; returns its figures."""
    changes = CHANGES.get((kind, objective), {})
    train = dataclasses.replace(TRAIN[kind], objective=objective, **changes)
    case = setting(kind, WORLDS[kind], "merge", seed)
    drawn = []

    def draw(params: dict | None, count: int, number: int) -> Rollouts:
        drawn.append(case.draw(params, count, number))
        return drawn[-1]

    started = time.monotonic()
    recorded = dataclasses.replace(case, draw=draw)
    params, curve = learn(recorded, train, ROLLOUTS[kind], "success_rate", seed)
    seconds = time.monotonic() - started
    optimum, reward = own_optimum(case, train, concatenate(drawn, 0))
    own = measure(case.world, optimum, case.control, case.base_params, params)
    return {
        "reward": reward,
        **{name: round(own[name], 5) for name in FIGURES[:2]},
        **{name: round(curve[-1][name], 5) for name in FIGURES[2:]},
        "total_variation_to_q*": round(curve[-1]["total_variation"], 5),
        "seconds": round(seconds, 1),
    }


def table(records: list[dict]) -> str:
    lines = [
        "| world | objective | total variation | KL(optimum, q) | success | KL(q, p) | floor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        cells = " | ".join(f"{record[name]:.3f}" for name in FIGURES)
        lines.append(f"| {record['world']} | {record['objective']} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--worlds", nargs="+", choices=["table", "neural"], default=["table", "neural"]
    )
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with args.out.open("a") as file:
        for kind in args.worlds:
            for objective in args.objectives:
                record = {"world": kind, "objective": objective, "seed": args.seed}
                record |= run(kind, objective, args.seed)
                print(json.dumps(record), file=file, flush=True)
                print(json.dumps(record), file=sys.stderr, flush=True)
    print(table([json.loads(line) for line in args.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()
