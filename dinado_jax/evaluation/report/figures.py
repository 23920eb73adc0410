"""The figures of the report; what a run has no records for is left out."""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from dinado_jax.evaluation.metrics import CalibrationBin, calibration_bins
from dinado_jax.evaluation.report import round_figures, training_figures
from dinado_jax.evaluation.report.prompts import by_prompt
from dinado_jax.evaluation.report.records import Records
from dinado_jax.evaluation.report.rounds import finished, of_rounds
from dinado_jax.evaluation.report.strengths import of_strengths
from dinado_jax.evaluation.report.svg import draw
from dinado_jax.evaluation.summary import CALIBRATION_BINS


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure with its title and what it means, in a sentence."""

    title: str
    meaning: str
    svg: str


def of_rounds_of_training(records: Records) -> list[Figure]:
    """Draws success, KL and effective sample size by round, and the success-KL plane."""
    rounds, end = of_rounds(records.summary), finished(records.summary)
    base = records.summary.base.success_rate
    found = []
    if rounds and records.judged_by_label:
        found.append(
            _figure(
                "Success by round",
                "How often the texts that each round sampled on training prompts satisfy the "
                "oracle, and in the end those of held-out prompts, with a 95% interval.",
                partial(round_figures.success_by_round, rounds=rounds, end=end),
            )
        )
    if rounds:
        found.append(
            _figure(
                "KL and its floor by round",
                "How far each round's texts are from the base; the dashed line is the least KL of "
                "anything that succeeds as often.",
                partial(round_figures.kl_by_round, rounds=rounds, end=end),
            )
        )
    if records.judged_by_label and 0 < base < 1:
        strengths = of_strengths(records.summary)
        curve = ", the curve from little strength of the control to much" if strengths else ""
        found.append(
            _figure(
                "Success and KL",
                "What success costs: nothing can be in the shaded area, and a perfect control is "
                f"on its edge; the thin line leads from the first rounds to the control{curve}.",
                partial(
                    round_figures.plane, base=base, rounds=rounds, end=end, strengths=strengths
                ),
            )
        )
    if rounds:
        found.append(
            _figure(
                "Effective sample size by round",
                "How many equally weighted successes the weighted rollouts are worth; a control is "
                "hardly learned from fewer than the dotted line.",
                partial(round_figures.effective_successes, rounds=rounds),
            )
        )
    return found


def of_steps(records: Records) -> list[Figure]:
    """Draws the parts of the loss and the Bellman residual by step of training."""
    log, found = records.training, []
    if training_figures.parts(log):
        found.append(
            _figure(
                "Parts of the loss by step",
                "Each term of the objective as it was logged; every round has other rollouts, so "
                "that jumps between rounds are no fault.",
                partial(training_figures.losses, log=log),
            )
        )
    if any("bellman" in line for line in log):
        found.append(
            _figure(
                "Bellman residual by step",
                "How far the values of neighbouring prefixes contradict each other; where it stays "
                "above the dashed line, R no longer helps q.",
                partial(training_figures.bellman, log=log),
            )
        )
    return found


def of_norm(records: Records) -> list[Figure]:
    """Draws the reliability of V(prompt)."""
    if not records.judged_by_label:
        return []
    return [
        _figure(
            "Reliability of V(prompt)",
            "The success rate of the base that the control predicts for a prompt against the "
            "measured one, by tenths of the prompts; on the dashed line it is calibrated.",
            partial(training_figures.reliability, bins=reliability(records)),
        )
    ]


def reliability(records: Records) -> list[CalibrationBin]:
    """Returns what is drawn of V(prompt), by tenths of the prompts."""
    rows = by_prompt(records.base, records.base)
    predicted, rates = (np.array(x) for x in zip(*((row.value, row.base) for row in rows)))
    return calibration_bins(predicted, rates, CALIBRATION_BINS)


def _figure(title: str, meaning: str, plot: Callable[..., None]) -> Figure:
    return Figure(title, meaning, draw(title, plot))
