"""The figures before and after control, one row each, in the order of the report."""

import dataclasses
import math
from collections.abc import Sequence

from dinado_jax.evaluation.bootstrap import Interval, Intervals
from dinado_jax.evaluation.summary import Summary
from dinado_jax.tasks.protocol import Metric

NO_INTERVALS = Intervals({}, {}, {})
_SUCCESS = (
    "success rate",
    "success_rate",
    "{:.1%}",
    "The share of texts that satisfy the oracle, or their mean label.",
)
_ROWS = (
    (
        "Distinct-2 (equal counts)",
        "distinct_2",
        "{:.3f}",
        "Different pairs of neighbouring words among all: low where texts repeat each other.",
    ),
    (
        "log-probability under the base (nats)",
        "log_prob_under_base",
        "{:z.2f}",
        "How probable the base finds a text: higher is more fluent, and shorter.",
    ),
    (
        "the same per token",
        "log_prob_per_token",
        "{:z.2f}",
        "The same for texts of different lengths: higher is more fluent.",
    ),
    (
        "per token of the base's successes",
        "log_prob_per_token_of_successes",
        "{:z.2f}",
        "What the line above is to be compared with: the base's own texts that satisfy the oracle.",
    ),
    ("length (tokens)", "tokens", "{:.1f}", "New tokens of a text, the end of text included."),
    ("ended by itself", "finished", "{:.1%}", "The share of texts that were not cut off."),
    (
        "KL to the base (nats per sequence)",
        "kl_to_base",
        "{:z.2f}",
        "How far control moved the distribution of texts away from the base.",
    ),
    (
        "calibration error of V(prompt)",
        "calibration_error",
        "{:.3f}",
        "How far the predicted success rates of the base are off, beyond chance.",
    ),
    (
        "Brier score of V(prompt)",
        "brier_score",
        "{:.3f}",
        "The mean square of label minus V(prompt) over the base's texts. If V is their mean label "
        "r everywhere, it is the variance of the labels (for labels 0 or 1: r (1 - r)); less if V "
        "tells the prompts apart.",
    ),
)
_FLOORS = (
    (
        "no controller can have a lower KL than",
        "kl_floor",
        "The least KL of anything that succeeds as often.",
    ),
    ("efficiency (1 is perfect)", "efficiency", "That least KL divided by the KL."),
    (
        "the floor, prompts differing (estimate)",
        "kl_floor_by_prompt",
        "The least KL where some prompts are harder for the base than others.",
    ),
    ("efficiency by that floor", "efficiency_by_prompt", "That least KL divided by the KL."),
    (
        "KL of q* (estimate, from above)",
        "kl_of_target",
        "What full success costs at least, by the particles' weights; the KL is an upper bound.",
    ),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure of base and control as texts; "" where it was not measured."""

    label: str
    base: str
    control: str
    meaning: str  # one sentence
    base_interval: str = ""  # 95%
    control_interval: str = ""


def rows(
    summary: Summary, task_metrics: Sequence[Metric], intervals: Intervals = NO_INTERVALS
) -> list[Row]:
    """Returns the figures that were measured, with the intervals that are given."""
    kinds = [
        _SUCCESS,
        *((m.label, m.key, m.form, m.meaning) for m in task_metrics),
        *_ROWS,
    ]
    base, control = (vars(side) | side.metrics for side in (summary.base, summary.control))
    found = [
        Row(
            f"{label}, at most" if key == "kl_to_base" and summary.kl_is_bound else label,
            cell(base.get(key, math.nan), form),
            cell(control.get(key, math.nan), form),
            meaning,
            _range(intervals.base.get(key) if key in base else None, form),
            _range(intervals.control.get(key) if key in control else None, form),
        )
        for label, key, form, meaning in kinds
    ]
    floors = dataclasses.asdict(summary.floors)
    found += [
        Row(
            label,
            "",
            cell(floors[key], "{:z.2f}"),
            meaning,
            "",
            _range(intervals.floors.get(key), "{:z.2f}"),
        )
        for label, key, meaning in _FLOORS
    ]
    found += [
        Row(
            f"mean of {moment.feature} (wanted: {moment.wanted:.4g})",
            f"{moment.base:.3f} ± {moment.base_error:.3f}",
            f"{moment.control:.3f} ± {moment.control_error:.3f}",
            "The mean of a feature over all texts, and its standard error.",
        )
        for moment in summary.moments
    ]
    return [row for row in found if row.base or row.control]


def cell(value: float, form: str) -> str:
    """Formats a figure; "" for one that is not finite, since it was not measured."""
    return form.format(value) if math.isfinite(value) else ""


def _range(interval: Interval | None, form: str) -> str:
    return f"{form.format(interval.low)} to {form.format(interval.high)}" if interval else ""
