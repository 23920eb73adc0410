"""Draws finished runs beside each other: KL by round, and log q / p of the final texts.

    python benchmarks/compare_runs.py docs/bound.svg 'no bound=RUN' 'bound=RUN'

The last panels have the histograms of each run's successes and failures: a text of high log q / p
is one that q raised far above the base, and no text need be raised by more than -log R0.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

COLORS = {"success": "#2a78b5", "failure": "#c8452f"}


def rounds(folder: Path) -> list[float]:
    """KL (nats per text) of what each round samples, and of the final control."""
    figures = json.loads((folder / "train" / "done.json").read_text())["figures"]
    summary = json.loads((folder / "summary.json").read_text())
    found = [value["newest_kl"] for key, value in figures.items() if key.startswith("round_")]
    return [*found, summary["control"]["kl_to_base"]]


def log_ratios(folder: Path) -> dict[str, np.ndarray]:
    """log q / p (nats) of the control's texts that succeed and that fail."""
    lines = (folder / "generate" / "control.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    ratio = np.array([row["log_prob"] - row["log_prob_base"] for row in rows])
    success = np.array([row["label"] > 0.5 for row in rows])
    return {"success": ratio[success], "failure": ratio[~success]}


def draw(runs: dict[str, Path]) -> plt.Figure:
    figure, axes = plt.subplots(1, 1 + len(runs), figsize=(4 * (1 + len(runs)), 3.2))
    for name, folder in runs.items():
        axes[0].plot(rounds(folder), marker="o", label=name)
    axes[0].set(xlabel="round (the last: final)", ylabel="KL, nats per text", ylim=(0, None))
    axes[0].legend(frameon=False)
    every = {name: log_ratios(folder) for name, folder in runs.items()}
    found = np.concatenate([part for parts in every.values() for part in parts.values()])
    edges = np.linspace(found.min(), found.max(), 60)
    for axis, (name, parts) in zip(axes[1:], every.items(), strict=True):
        for label, values in parts.items():
            axis.hist(values, edges, histtype="step", color=COLORS[label], label=label)
        axis.set(title=name, xlabel="log q / p, nats", ylabel="texts")
        axis.set(yscale="log", ylim=(0.7, None))
        axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="a picture, .svg or .png")
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="a title, and a run's folder")
    args = parser.parse_args()
    runs = {name: Path(folder) for name, folder in (each.rsplit("=", 1) for each in args.runs)}
    plt.rcParams |= {"svg.hashsalt": "dinado_jax", "svg.fonttype": "none"}
    draw(runs).savefig(args.out, metadata={"Date": None} if args.out.endswith(".svg") else None)


if __name__ == "__main__":
    main()
