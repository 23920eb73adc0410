"""Records of a run that was never made, for its report."""

import dataclasses
import math

from dinado_jax.config.schema import Config
from dinado_jax.evaluation.aggregate import aggregate, floors
from dinado_jax.evaluation.report.records import Records
from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.stage_figures import (
    GenerateFigures,
    RolloutFigures,
    RoundFigures,
    SftFigures,
    StageFigures,
    TrainFigures,
)
from dinado_jax.evaluation.summary import Device, Summary
from dinado_jax.oracles.table import resolve

WORDS = ("dog", "cat", "fox", "ball", "box")


def samples(prompts: int, each: int, good: int) -> list[Sample]:
    """Of each prompt the first `good` samples have its keyword; KL 1.5 nats."""
    return [
        Sample(
            number,
            f"{WORDS[number % 5]} =",
            f"the {WORDS[number % 5]}s wait ." if index < good else "nobody waits .",
            float(index < good),
            -3.0 - index / 10,
            -4.5 - index / 10,
            4,
            True,
            0.2 + number / prompts / 10,
        )
        for number in range(prompts)
        for index in range(each)
    ]


def a_round(number: int) -> RoundFigures:
    return RoundFigures(
        oracle_failures=0,
        rollouts=100 * (1 + number),
        repeated=0.0,
        newest_success_rate=min(0.95, 0.25 + 0.3 * number),
        newest_kl=0.7 * number,
        newest_efficiency=0.8 if number else math.nan,
        newest_finished=1.0,
        newest_log_prob_per_token=-1.0,
        effective_successes=90.0 * (1 + number),
    )


def log(steps: int = 40) -> list[dict]:
    return [
        {
            "step": 20 * (1 + i),
            "stage": f"train round {i // 20}",
            "tokens_per_s": 100,
            "grad_norm": 1.0,
            "loss": 3.0 / (1 + i),
            "direction": 2.0 / (1 + i),
            "value": 0.5,
            "bellman": 0.1 + i / 50,
        }
        for i in range(steps)
    ]


def records(
    base: list[Sample] | None = None, control: list[Sample] | None = None, **changes
) -> Records:
    """Of a finished run; `changes` are fields of its summary."""
    base = samples(12, 4, 1) if base is None else base
    control = samples(12, 4, 3) if control is None else control
    figures = aggregate(base, control, [], [()] * len(base), 0)
    summary = Summary(
        base=figures[0],
        control=figures[1],
        floors=floors(base, control, figures[1]),
        seconds={"sft": 1.0, "train": 61.0},
        stages=StageFigures(
            SftFigures(10, "0f"),
            RolloutFigures(100, 25, 0.25, 1.0, 0, "q* of the base"),
            TrainFigures(5, tuple(map(a_round, range(3)))),
            GenerateFigures(12, 0, 0),
        ),
        warnings=("efficiency 0.20: lower train.learning_rate",),
        config=dataclasses.replace(Config(), name="wait").as_dict(),
        versions={"jax": "0.0"},
        device=Device("cpu", "cpu", 2),
    )
    summary = dataclasses.replace(summary, **changes)
    return Records(summary, (), base, control, log(), resolve("lexical").wanted_in, {})
