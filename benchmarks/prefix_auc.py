"""How well a control tells from the beginning of a text whether it will succeed.

    python benchmarks/prefix_auc.py RUN [--prompts 400]

RUN is a finished run of a keyword task. The base's samples for its first held-out prompts, on which
nothing was trained, are ranked by R of their beginnings and, for comparison, by the share of the
prompt's keywords that a beginning has. For each share of a text's tokens, its end left out, prints
a line of JSON with the area under the curve (AUC; 0.5 is chance, ties count half) of both: between
samples of one prompt, as a mean over the prompts that have successes and failures, and between all
samples.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.stats

from dinado_jax.evaluation.samples import read_samples
from dinado_jax.oracles.judge import is_success
from dinado_jax.scoring import values as values_of
from dinado_jax.stages.pipeline import load_run
from dinado_jax.tasks.keyword.lexical import coverage

SHARES = (0.25, 0.5, 0.75, 1.0)


def auc(scores: np.ndarray, success: np.ndarray) -> float:
    """The chance that a success scores higher than a failure; NaN where there is only one kind."""
    wins = scipy.stats.rankdata(scores)[success].sum() - success.sum() * (success.sum() + 1) / 2
    pairs = success.sum() * (~success).sum()
    return float(wins / pairs) if pairs else np.nan


def mean_within(scores: np.ndarray, success: np.ndarray, prompts: Sequence[int]) -> float:
    """The mean over prompts of the AUC between their own samples."""
    groups = [np.equal(prompts, prompt) for prompt in sorted(set(prompts))]
    return float(np.nanmean([auc(scores[own], success[own]) for own in groups]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=400)
    args = parser.parse_args()
    drawn = read_samples(args.run / "generate" / "base.jsonl")
    samples = [each for each in drawn if each.prompt_id < args.prompts and each.finished]
    prompts = [each.prompt_id for each in samples]
    success = np.array([is_success(each.label) for each in samples])
    found = values_of(
        load_run(args.run),
        [each.prompt for each in samples],
        [each.text for each in samples],
    )
    for share in SHARES:
        ends = [int(share * (len(each.tokens) - 1)) for each in found]
        values = np.array([each.values[end] for each, end in zip(found, ends, strict=True)])
        states = np.array(
            [
                coverage(each.prompt, "".join(each.tokens[:end]))
                for each, end in zip(found, ends, strict=True)
            ]
        )
        figures = {
            f"{what}_{name}": round(measure, 3)
            for name, scores in (("control", values), ("keywords", states))
            for what, measure in (
                ("within_prompts", mean_within(scores, success, prompts)),
                ("overall", auc(scores, success)),
            )
        }
        print(json.dumps({"share": share, "samples": len(samples), **figures}), flush=True)


if __name__ == "__main__":
    main()
