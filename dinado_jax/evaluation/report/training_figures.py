"""Figures of the norm and of training: losses and Bellman residual by step, calibration."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dinado_jax.evaluation.metrics import CalibrationBin
from dinado_jax.evaluation.report.palette import LINES, light
from dinado_jax.evaluation.report.svg import logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BELLMAN = 0.5  # nats: arXiv 2306.11825 finds that a residual above it keeps R from improving q
_DASHES = ("-", "--", "-.", ":")
_NOT_PARTS = ("step", "stage", "tokens_per_s", "grad_norm", "loss", "bellman", "diverged", "rows")
_NOT_PARTS += ("held_out", "best", "best_step")  # of rows that are not trained on


def parts(log: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the loss parts in the lines of a training log, except the Bellman residual."""
    names = dict.fromkeys(key for line in log for key in line)
    return [name for name in names if name not in _NOT_PARTS and _of(log, name)[0]]


def losses(axes: "Axes", log: Sequence[dict[str, Any]]) -> None:
    """Draws each part of the loss as a line; on a logarithmic scale if all are positive."""
    positive = True
    for number, name in enumerate(parts(log)):
        steps, values = _of(log, name)
        positive = positive and min(values) > 0
        axes.plot(
            steps,
            values,
            color=light(LINES[number % len(LINES)]),
            linestyle=_DASHES[number % len(_DASHES)],
            linewidth=1.3,
            label=name,
        )
    axes.set(xlabel="step", ylabel="loss")
    if positive:
        logarithmic(axes)
    axes.figure.legend(ncols=3, loc="outside upper left")


def bellman(axes: "Axes", log: Sequence[dict[str, Any]]) -> None:
    """Draws the Bellman residual and the value below which it should stay."""
    axes.plot(*_of(log, "bellman"), color=light("control"), linewidth=1.3)
    axes.axhline(_BELLMAN, color=light("base"), linestyle="--", label="should stay below")
    axes.set(xlabel="step", ylabel="Bellman residual (nats)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")


def reliability(axes: "Axes", bins: Sequence[CalibrationBin]) -> None:
    """Draws measured against predicted success rates of the base, by bins of prompts."""
    predicted, measured = ([100 * x for x in xs] for xs in zip(*(each[1:3] for each in bins)))
    most = min(100.0, 1.1 * max(*predicted, *measured, 1.0))
    axes.plot([0, most], [0, most], color=light("muted"), linestyle="--", label="calibrated")
    axes.errorbar(
        predicted,
        measured,
        yerr=[196 * each.error for each in bins],
        fmt="o",
        markersize=4,
        color=light("control"),
        label="prompts",
    )
    axes.set(xlabel="predicted by V(prompt) (%)", ylabel="success of the base (%)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")


def _of(log: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    lines = [line for line in log if isinstance(line.get(name), int | float)]
    return [line["step"] for line in lines], [line[name] for line in lines]
