"""Figures of success and KL: by round, and against each other."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dinado_jax.evaluation.metrics import kl_floor
from dinado_jax.evaluation.report.palette import light
from dinado_jax.evaluation.report.rounds import Point
from dinado_jax.evaluation.report.svg import logarithmic
from dinado_jax.evaluation.summary import StrengthFigures
from dinado_jax.evaluation.warnings import FIRST_SUCCESSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def success_by_round(axes: "Axes", rounds: Sequence[Point], end: Point) -> None:
    """Draws success rates of training prompts as a line, that of held-out ones as a point."""
    _line(axes, rounds, [100 * point.success for point in rounds])
    _end(axes, end, 100 * end.success, 100 * end.success_error)
    axes.set(xlabel="rounds of training", ylabel="success (%)", ylim=(-3, 103))
    _by_round(axes)


def kl_by_round(axes: "Axes", rounds: Sequence[Point], end: Point) -> None:
    """Draws the KL and, where it is known, the least KL for the same success."""
    _line(axes, rounds, [point.kl for point in rounds])
    _end(axes, end, end.kl, end.kl_error)
    points = [point for point in (*rounds, end) if math.isfinite(point.floor)]
    if points:
        axes.plot(
            [point.rounds for point in points],
            [point.floor for point in points],
            color=light("floor"),
            linestyle="--",
            label="least KL",
        )
    axes.set(xlabel="rounds of training", ylabel="KL to the base (nats)")
    axes.set_ylim(bottom=0)
    _by_round(axes)


def effective_successes(axes: "Axes", rounds: Sequence[Point]) -> None:
    """Draws effective sample sizes, and the number below which the first round warns."""
    _line(axes, rounds, [point.effective_successes for point in rounds])
    axes.axhline(FIRST_SUCCESSES, color=light("muted"), linestyle=":", label="too few at the start")
    axes.set(xlabel="rounds of training", ylabel="effective successes")
    logarithmic(axes)
    _by_round(axes)


def plane(
    axes: "Axes",
    base: float,
    rounds: Sequence[Point],
    end: Point,
    strengths: Sequence[StrengthFigures],
) -> None:
    """Draws success against KL with the floor, the least KL for each success rate.

    Args:
      base: success rate of the base, in (0, 1).
      strengths: the finished control at other strengths and its own, ascending; may be empty.
    """
    success = np.linspace(base, 1, 200)
    floor = [kl_floor(rate, base) for rate in success]
    axes.plot(floor, 100 * success, color=light("floor"), linestyle="--", label="least KL")
    axes.fill_betweenx(100 * success, floor, color=light("floor"), alpha=0.12, linewidth=0)
    later = [*rounds[1:], end]
    axes.plot(
        [point.kl for point in later],
        [100 * point.success for point in later],
        color=light("muted"),
        marker="o",
        markersize=4,
        linewidth=0.8,
        label="rounds",
    )
    axes.annotate(
        str(later[0].rounds),
        (later[0].kl, 100 * later[0].success),
        xytext=(-3, -12),
        textcoords="offset points",
    )
    if strengths:
        least, most = strengths[0].strength, strengths[-1].strength
        axes.plot(
            [each.kl_to_base for each in strengths],
            [100 * each.success_rate for each in strengths],
            color=light("line3"),
            linestyle="-.",
            marker="x",
            label=f"strengths {least:g} to {most:g}",
        )
    axes.plot([0], [100 * base], "D", color=light("base"), label="base", clip_on=False)
    axes.errorbar(
        [end.kl],
        [100 * end.success],
        xerr=[_drawn(1.96 * end.kl_error)],
        yerr=[_drawn(196 * end.success_error)],
        fmt="s",
        color=light("control"),
        label="control",
    )
    axes.set(xlabel="KL to the base (nats)", ylabel="success (%)", ylim=(-3, 103))
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")


def _line(axes: "Axes", rounds: Sequence[Point], values: Sequence[float]) -> None:
    axes.plot(
        [point.rounds for point in rounds],
        values,
        color=light("control"),
        marker="o",
        markersize=4,
        label="rollouts",
    )


def _end(axes: "Axes", end: Point, value: float, error: float) -> None:
    axes.errorbar(
        [end.rounds],
        [value],
        yerr=[_drawn(1.96 * error)],
        fmt="s",
        color=light("control"),
        label="held-out prompts",
    )


def _by_round(axes: "Axes") -> None:
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="best")


def _drawn(error: float) -> float:
    return error if math.isfinite(error) else 0.0
