"""How well a temperature can be known from few texts, and what an error of calibration means then.

    python benchmarks/temperature.py TRAIN --test TEST [--label LABEL] [--seeds 20]

The classifier is a stand-in that takes a second: TF-IDF and logistic regression, with so small a
penalty that it is too sure, as networks are. For every way to divide texts and to fit a
temperature, on 10% or 20% of a half, it prints a line of JSON: means over divisions of the
accuracy, of the temperature, and of calibration errors on the other half and on TEST, another file
of labelled texts, beside what chance alone would make of them.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.special

from dinado_jax.classifiers.baseline import fit_baseline
from dinado_jax.classifiers.calibration import (
    calibration_error,
    chance_calibration_error,
    fit_temperature,
)
from dinado_jax.classifiers.labelled import Labelled, divide, read_labelled


def smoothed(log_odds: np.ndarray, labels: np.ndarray) -> float:
    """The temperature for smoothed labels (Platt, 1999)."""
    count = np.where(labels, labels.sum(), (~labels).sum())
    target = np.where(labels, (count + 1) / (count + 2), 1 / (count + 2))

    def loss(log_temperature: float) -> float:
        scaled = log_odds / np.exp(log_temperature)
        losses = target * scipy.special.log_expit(scaled)
        return -(losses + (1 - target) * scipy.special.log_expit(-scaled)).sum()

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-4.6, 4.6)).x))


WAYS = {"none": lambda *_: 1.0, "smoothed labels": smoothed, "prior": fit_temperature}


def rows(
    texts: Labelled, test: Labelled, seed: int, penalty: float
) -> Iterator[tuple[tuple[str, int], dict[str, float]]]:
    """Yields (way, texts to calibrate, figures)."""
    parts = divide(texts, 2, seed)[0]
    log_odds_of = fit_baseline(parts.train, penalty)
    other, unseen = log_odds_of(parts.test.texts), log_odds_of(test.texts)
    calibrate = log_odds_of(parts.calibrate.texts)
    for count in (len(calibrate) // 2, len(calibrate)):
        for way, fit in WAYS.items():
            temperature = fit(calibrate[:count], parts.calibrate.labels[:count])
            found = {"temperature": temperature}
            sides = ("half", other, parts.test.labels), ("test", unseen, test.labels)
            for name, log_odds, labels in sides:
                probabilities = scipy.special.expit(log_odds / temperature)
                found |= {
                    f"accuracy_{name}": np.mean((log_odds > 0) == labels),
                    f"error_{name}": calibration_error(probabilities, labels),
                    f"chance_{name}": chance_calibration_error(probabilities),
                }
            yield (way, count), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--label", default="")
    parser.add_argument("--penalty", type=float, default=1 / 30)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    args = parser.parse_args()
    texts, test = (read_labelled(path, args.label)[0] for path in (args.train, args.test))
    alone = texts._replace(prompts=[""] * len(texts.texts))
    for division, each in (("text", alone), ("prompt", texts)):
        found: dict[tuple[str, int], list[dict]] = {}
        for seed in range(args.seeds):
            for key, figures in rows(each, test, seed, args.penalty):
                found.setdefault(key, []).append(figures)
        for (way, count), runs in found.items():
            means = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
            print(json.dumps({"divided_by": division, "way": way, "texts": count, **means}))


if __name__ == "__main__":
    main()
