"""Formal translations by a control and by FUDGE, on the same base.

    python benchmarks/formal_translation.py RUN --judge CLASSIFIER [--rule formal_de]
        [--strengths 0.5 1 2] [--target-rates 0] [--fudge 1 2 4] [--fudge-classifier DIR]
        [--prompts 300] [--samples 2] [--show 10]

RUN is a finished run of a task of translation; CLASSIFIER judges and is not the one of its oracle.
FUDGE is p times a classifier's probability after each token (`guides.classifier`), raised to a
strength: of the classifier of the run's oracle or of another one, which reads the base's tokens
(`dinado oracle train DATA --out DIR --tokenizer BASE`). A target rate of 0 is the opposite of the
control: what the base writes where the oracle says no. Prints a line of JSON for the base and for
each strength and rate: the share of texts that CLASSIFIER, the run's own one and the rule call
formal with standard errors, the metrics of the task (BLEU against all references), the KL to the
base and the least KL with as much of the own classifier's label, the share of texts that end, and
seconds. With --show, some translations by the control follow, a strength beside the other.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinado_jax.classifiers.classifier import Classifier
from dinado_jax.data.prompts import PromptSet
from dinado_jax.errors import InputError
from dinado_jax.evaluation.aggregate import aggregate, floors
from dinado_jax.evaluation.metrics import mean_and_error
from dinado_jax.evaluation.of_model import sample_of
from dinado_jax.evaluation.samples import Sample
from dinado_jax.generation import generate
from dinado_jax.guides.classifier import classifier_guide
from dinado_jax.language_model import Controlled, LanguageModel
from dinado_jax.oracles.classifier import ClassifierOracle
from dinado_jax.oracles.expression import find_oracle
from dinado_jax.oracles.judge import Oracle, is_success, judge
from dinado_jax.oracles.table import NamedOracle
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import load_run, run_config


@dataclasses.dataclass(frozen=True)
class Test:
    """What is translated, and how it is judged."""

    context: Context
    prompts: PromptSet
    judges: dict[str, Oracle]
    samples: int  # of each prompt

    def translate(self, model: LanguageModel) -> list[Sample]:
        """Samples translations, labelled by the run's own oracle."""
        decode = self.context.config.decode
        new, batch = decode.max_new_tokens, decode.batch
        made = generate(model, self.prompts, samples=self.samples, max_new_tokens=new, batch=batch)
        labels = self._labels(self.context.oracle.function, made)
        return [
            sample_of(i // self.samples, one, float(label))
            for i, (one, label) in enumerate(zip(made, labels, strict=True))
        ]

    def figures(self, base: Sequence[Sample], samples: Sequence[Sample]) -> dict[str, float]:
        """Computes the figures of a model's translations."""
        references = [each.references for each in self.context.held_out]
        metrics = [(metric, True) for metric in self.context.task.metrics]
        _, found = aggregate(base, samples, metrics, references, 0)
        least = floors(base, samples, found)
        line = {
            "mean_label": found.success_rate,
            "kl_to_base": found.kl_to_base,
            "kl_floor": least.kl_floor,
            "efficiency": least.efficiency,
            "finished": found.finished,
            "log_prob_per_token": found.log_prob_per_token,
            **found.metrics,
        }
        for name, oracle in self.judges.items():
            formal = np.array(is_success(self._labels(oracle, samples)), float)
            by_prompt = formal.reshape(len(self.prompts.texts), -1).mean(1)
            line[name], line[f"{name}_error"] = mean_and_error(by_prompt)
        return {name: round(value, 4) for name, value in line.items() if math.isfinite(value)}

    def _labels(self, oracle: Oracle, made: Sequence) -> np.ndarray:
        return judge(oracle, [one.prompt for one in made], [one.text for one in made]).labels


def classifiers_in(oracle: NamedOracle) -> list[Classifier]:
    """The classifiers that an oracle is made of."""
    own = [oracle.function.classifier] if isinstance(oracle.function, ClassifierOracle) else []
    return own + [each for part in oracle.parts for each in classifiers_in(part)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--rule", default="formal_de")
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.5, 1, 2])
    parser.add_argument("--target-rates", type=float, nargs="*", default=[])
    parser.add_argument("--fudge", type=float, nargs="*", default=[1, 2, 4])
    parser.add_argument("--fudge-classifier", type=Path, help="by default that of the run's oracle")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--show", type=int, default=0)
    args = parser.parse_args()
    context = Context.of(run_config(args.run), args.run)
    judges = {
        "judge": find_oracle(f"classifier:{args.judge}").function,
        "own": context.oracle.function,
        "rule": find_oracle(args.rule).function,
    }
    prompts = PromptSet([example.prompt for example in context.held_out[: args.prompts]])
    test = Test(context, prompts, judges, args.samples)
    control = load_run(args.run)
    models: dict[str, LanguageModel] = {"base": control.base}
    models |= {f"rate {one:g}": control.tilted(target_rate=one) for one in args.target_rates}
    models |= {f"control {one:g}": control.tilted(strength=one) for one in args.strengths}
    if args.fudge:
        named = context.oracle
        if args.fudge_classifier:
            named = find_oracle(f"classifier:{args.fudge_classifier}")
        found = classifiers_in(named)
        if not found:
            raise InputError(
                f"oracle {named.name} has no classifier: give --fudge-classifier DIR, or --fudge "
                "without values"
            )
        classifier = found[0]
        fudge = Controlled(control.base, *classifier_guide(classifier, control.base.codec))
        models |= {f"fudge {one:g}": fudge.tilted(strength=one) for one in args.fudge}
    made: dict[str, list[Sample]] = {}
    for name, model in models.items():
        began = time.monotonic()
        made[name] = test.translate(model)
        line = {"model": name, "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps(line | test.figures(made["base"], made[name])), flush=True)
    shown = [name for name in made if not name.startswith("fudge")]
    for number in range(min(args.show, len(prompts.texts))):
        print(prompts.texts[number])
        for name in shown:
            print(f"  {name:12} {made[name][number * args.samples].text}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
