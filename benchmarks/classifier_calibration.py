"""How well the classifiers of `dinado oracle train` fit texts that they have not seen.

    python benchmarks/classifier_calibration.py TRAIN --test TEST [--label LABEL] [--seeds 0 1 2]

Prints a line of JSON for each of the two classifiers of a seed: the figures that the command
prints, those on TEST, another file of labelled texts, and process seconds.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from dinado_jax.classifiers.baseline import baseline_accuracy
from dinado_jax.classifiers.calibration import (
    brier_score,
    calibration_error,
    chance_calibration_error,
)
from dinado_jax.classifiers.classifier import Classifier
from dinado_jax.classifiers.labelled import Labelled, divide, read_labelled
from dinado_jax.classifiers.make import Kind, make_classifier


def figures(classifier: Classifier, train: Labelled, test: Labelled) -> dict:
    found, labels = classifier.probabilities(test.prompts, test.texts), test.labels
    return {
        "texts": len(labels),
        "accuracy": float(np.mean((found > 0.5) == labels)),
        "baseline_accuracy": baseline_accuracy(train, test),
        "calibration_error": calibration_error(found, labels),
        "chance_calibration_error": chance_calibration_error(found),
        "brier_score": brier_score(found, labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--label", default="")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    texts, label = read_labelled(args.train, args.label)
    test, _ = read_labelled(args.test, args.label)
    for seed in args.seeds:
        for half, parts in zip("ab", divide(texts, 2, seed)):
            began = time.process_time()
            made = make_classifier(parts, label, Kind(), args.epochs, seed)
            line = {"seed": seed, "half": half, **made.figures}
            line["temperature"] = made.classifier.temperature
            line["on_test"] = figures(made.classifier, parts.train, test)
            line["process_seconds"] = time.process_time() - began
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
