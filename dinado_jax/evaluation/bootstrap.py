"""95% intervals of a run's figures, by resampling its prompts: the independent draws of a run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dinado_jax.evaluation import metrics
from dinado_jax.evaluation.intervals import Interval, central
from dinado_jax.evaluation.samples import Sample

_DRAWS = 1000


class Intervals(NamedTuple):
    """By the names of the figures in summary.json; those that are not finite are left out."""

    base: dict[str, Interval]
    control: dict[str, Interval]
    floors: dict[str, Interval]


def intervals(base: Sequence[Sample], control: Sequence[Sample], seed: int) -> Intervals:
    """Draws as many prompts as there are, with replacement, a thousand times.

    Base and control get the same prompts in each draw, because their figures are compared.

    Args:
      base, control: samples on the same prompts. With a single prompt there are no intervals.
      seed: of the draws.
    """
    ids = np.unique([s.prompt_id for s in (*base, *control)])
    if len(ids) < 2:
        return Intervals({}, {}, {})
    sides = [_columns(samples, ids) for samples in (base, control)]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(_DRAWS):
        times = np.bincount(rng.integers(len(ids), size=len(ids)), minlength=len(ids))
        p, q = (
            {key: np.repeat(x, times[side["prompt"]]) for key, x in side.items()} for side in sides
        )
        if len(p["label"]) and len(q["label"]):
            drawn.append((_figures(p), _figures(q), _floors(p, q)))
    return Intervals(*(_ranges(figures) for figures in zip(*drawn, strict=True)))


def _columns(samples: Sequence[Sample], ids: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays [N] of samples; `prompt` is the index of each sample's prompt in `ids`."""
    return {
        "prompt": np.searchsorted(ids, [s.prompt_id for s in samples]),
        "label": np.array([s.label for s in samples]),
        "log_prob_base": np.array([s.log_prob_base for s in samples]),
        "kl": np.array([s.log_prob - s.log_prob_base for s in samples]),
        "tokens": np.array([s.tokens for s in samples]),
        "finished": np.array([s.finished for s in samples]),
    }


def _figures(of: dict[str, np.ndarray]) -> dict[str, float]:
    tokens = of["tokens"].sum()
    return {
        "success_rate": of["label"].mean(),
        "log_prob_under_base": of["log_prob_base"].mean(),
        "log_prob_per_token": of["log_prob_base"].sum() / tokens if tokens else math.nan,
        "tokens": of["tokens"].mean(),
        "finished": of["finished"].mean(),
        "kl_to_base": of["kl"].mean(),
    }


def _floors(base: dict[str, np.ndarray], control: dict[str, np.ndarray]) -> dict[str, float]:
    floor = metrics.kl_floor_of_samples(control["label"], base["label"])
    efficiency = metrics.efficiency(floor, float(control["kl"].mean()))
    return {"kl_floor": floor, "efficiency": efficiency}


def _ranges(drawn: Sequence[dict[str, float]]) -> dict[str, Interval]:
    found = {}
    for key in drawn[0]:
        values = np.array([figures[key] for figures in drawn])
        if np.isfinite(values).all():
            found[key] = central(values)
    return found
