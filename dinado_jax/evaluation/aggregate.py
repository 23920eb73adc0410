"""Figures of a run from the samples of the base and of the controlled model."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from dinado_jax.evaluation import metrics
from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.summary import (
    CALIBRATION_BINS,
    BaseFigures,
    ControlFigures,
    Floors,
    StrengthFigures,
)
from dinado_jax.oracles.judge import is_success
from dinado_jax.tasks.protocol import Metric


class _Calibration(TypedDict):
    """Those of `ControlFigures` about V(prompt)."""

    calibration_error: float
    brier_score: float


def aggregate(
    base: Sequence[Sample],
    control: Sequence[Sample],
    task_metrics: Sequence[tuple[Metric, bool]],
    references: Sequence[tuple[str, ...]],
    seed: int,
) -> tuple[BaseFigures, ControlFigures]:
    """Computes the figures of both models.

    Args:
      base, control: samples on the same prompts, at least one.
      task_metrics: the metrics of the task, and whether each is reported.
      references: of each prompt, by its number.
      seed: of the choice of texts for Distinct-2, which compares equal numbers of texts.
    """

    def common(samples: Sequence[Sample]) -> dict:
        rate, rate_error = _mean(samples, _labels(samples))
        log_base, _ = _mean(samples, np.array([s.log_prob_base for s in samples]))
        return {
            "samples": len(samples),
            "success_rate": rate,
            "success_rate_error": rate_error,
            "log_prob_under_base": log_base,
            "log_prob_per_token": _per_token(samples),
            "tokens": float(np.mean([s.tokens for s in samples])),
            "finished": float(np.mean([s.finished for s in samples])),
            "distinct_2": _distinct(samples, equal, seed),
            "metrics": {
                metric.key: _measure(metric, samples, references) if reported else math.nan
                for metric, reported in task_metrics
            },
        }

    successes = [s for s in base if is_success(s.label)]
    equal = min(len(successes), len(control))
    kl, kl_error = _mean(control, _log_ratios(control))
    return (
        BaseFigures(
            **common(base),
            successes=len(successes),
            log_prob_per_token_of_successes=_per_token(successes),
            distinct_2_of_successes=_distinct(successes, equal, seed),
        ),
        ControlFigures(
            **common(control),
            kl_to_base=kl,
            kl_to_base_error=kl_error,
            **_calibration(base),
        ),
    )


def floors(base: Sequence[Sample], control: Sequence[Sample], figures: ControlFigures) -> Floors:
    """Computes the least KL of any controller with the control's success rate; where labels are
    graded, with its mean log-label if that is more.

    Args:
      base: samples by which the success rates of prompts are estimated.
      control: samples of the control.
      figures: of the control.
    """
    floor = metrics.kl_floor_of_samples(_labels(control), _labels(base))
    group = _groups(base)
    hits, draws = np.bincount(group, _labels(base)), np.bincount(group)
    by_prompt = metrics.kl_floor_by_prompt(
        figures.success_rate, *metrics.rate_distribution(hits, draws)
    )
    # Both are lower bounds; if the base hardly ever succeeds, the grid of rates is too coarse.
    by_prompt = max(by_prompt, floor)
    return Floors(
        kl_floor=floor,
        efficiency=metrics.efficiency(floor, figures.kl_to_base),
        kl_floor_by_prompt=by_prompt,
        efficiency_by_prompt=metrics.efficiency(by_prompt, figures.kl_to_base),
    )


def of_strength(strength: float, samples: Sequence[Sample]) -> StrengthFigures:
    """Computes the figures of the control at a strength from its samples."""
    return StrengthFigures(
        strength, *_mean(samples, _labels(samples)), *_mean(samples, _log_ratios(samples))
    )


def kl_of_target(control: Sequence[Sample]) -> float:
    """See `metrics.kl_of_target`; samples of the control that were chosen among particles."""
    return metrics.kl_of_target(_labels(control), _log_ratios(control), _groups(control))


def of_target(
    base: Sequence[Sample], control: Sequence[Sample], figures: ControlFigures
) -> tuple[ControlFigures, Floors]:
    """Computes what depends on the labels of a tilted target: the calibration of V(prompt), and the
    least KL of any controller with the control's mean log-label.

    The floor is one for all prompts: no estimate of each prompt's is at hand.

    Args:
      base, control: samples whose labels are C e^(lambda . phi - bound).
      figures: of the control.
    """
    floor = metrics.kl_floor_of_labels(_labels(control), _labels(base))
    efficiency = metrics.efficiency(floor, figures.kl_to_base)
    figures = dataclasses.replace(figures, **_calibration(base))
    return figures, Floors(floor, efficiency, floor, efficiency)


def feature_mean(samples: Sequence[Sample], values: np.ndarray) -> tuple[float, float]:
    """Returns the mean of a feature [N] of samples, and its standard error; nan are left out."""
    known = np.isfinite(values)
    if not known.any():
        return math.nan, math.nan
    return _mean([s for s, has in zip(samples, known, strict=True) if has], values[known])


def _calibration(base: Sequence[Sample]) -> _Calibration:
    """How well V(prompt) predicts the labels of the base's samples."""
    value, label = np.array([s.value for s in base]), _labels(base)
    predicted, rates = (_per_prompt(base, each) for each in (value, label))
    return {
        "calibration_error": metrics.calibration_error(predicted, rates, CALIBRATION_BINS),
        "brier_score": float(np.square(label - value).mean()),
    }


def _labels(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([s.label for s in samples])


def _log_ratios(samples: Sequence[Sample]) -> np.ndarray:
    """Nats by which each is more probable than under the base: float64 [N]."""
    return np.array([s.log_prob - s.log_prob_base for s in samples])


def _groups(samples: Sequence[Sample]) -> np.ndarray:
    """Returns a number from 0 for each sample's prompt, int [N]."""
    return np.unique([s.prompt_id for s in samples], return_inverse=True)[1]


def _mean(samples: Sequence[Sample], values: np.ndarray) -> tuple[float, float]:
    """Mean over samples and its standard error, where prompts are the independent draws."""
    return float(values.mean()), metrics.mean_and_error(_per_prompt(samples, values))[1]


def _per_prompt(samples: Sequence[Sample], values: np.ndarray) -> np.ndarray:
    """Means of values [N] over the samples of each prompt: float64 [P]."""
    group = _groups(samples)
    return np.bincount(group, values) / np.bincount(group)


def _per_token(samples: Sequence[Sample]) -> float:
    """Log-probability under the base in nats per token, nan without tokens."""
    tokens = sum(s.tokens for s in samples)
    return sum(s.log_prob_base for s in samples) / tokens if tokens else math.nan


def _distinct(samples: Sequence[Sample], count: int, seed: int) -> float:
    """Distinct-2 of `count` of the texts: it falls with their number. nan for none."""
    if not count:
        return math.nan
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    return metrics.distinct_n([samples[i].text for i in chosen], 2)


def _measure(
    metric: Metric, samples: Sequence[Sample], references: Sequence[tuple[str, ...]]
) -> float:
    return metric.measure(
        [s.prompt for s in samples],
        [s.text for s in samples],
        [references[s.prompt_id] for s in samples],
    )
