"""Intervals and tests of metrics: prompts are the independent draws, so they are drawn again.

The same seed gives the same draws of prompts, whatever the metric.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dinado_jax.errors import InputError
from dinado_jax.metrics.protocol import Sums

_DRAWS = 1000
_LEVEL = 0.95
_ROUNDING = 1e-12  # of differences that are equal


class Interval(NamedTuple):
    """The central 95% of a bootstrap distribution, of the draws for which the metric is defined;
    nan for less than two prompts, and where it is defined for none.
    """

    low: float
    high: float


class Comparison(NamedTuple):
    """How one system differs from another on the same prompts."""

    difference: float  # second minus first
    interval: Interval  # of the difference
    # Two-sided, of no difference; nan for less than two prompts, and for an undefined difference.
    p_value: float


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, seed: int, draws: int = _DRAWS
) -> Interval:
    """The percentile interval (Efron, 1979) of the mean of values [P] of prompts.

    Args:
      values: of each prompt.
      seed: of the draws.
      draws: their number.
    """
    rows = np.asarray(values, np.float64)[:, None]
    return bootstrap_interval_of_sums(Sums(rows, lambda sums: sums[:, 0] / len(rows)), seed, draws)


def bootstrap_interval_of_sums(sums: Sums, seed: int, draws: int = _DRAWS) -> Interval:
    """The percentile interval of a metric that is a function of sums over prompts (Koehn, 2004).

    Args:
      sums: of the metric.
      seed: of the draws.
      draws: their number.
    """
    if len(sums.rows) < 2:
        return Interval(math.nan, math.nan)
    return central(sums.value(_drawn(sums.rows, seed, draws)))


def compare(first: Sums, second: Sums, seed: int, draws: int = _DRAWS) -> Comparison:
    """Compares two systems: a paired bootstrap for the interval of their difference, approximate
    randomisation for the p-value (Riezler and Maxwell, 2005).

    The p-value is that of exchanging the two systems' texts on random prompts:
    (1 + draws that differ at least as much) / (1 + draws). A draw for which the metric is undefined
    counts as one that differs as much, so that it makes no difference significant.

    Args:
      first, second: of the same metric on the same P prompts.
      seed: of the draws.
      draws: their number, of each kind.

    Raises:
      InputError: if the numbers of prompts differ.
    """
    prompts = len(first.rows)
    if len(second.rows) != prompts:
        raise InputError(
            f"{prompts} and {len(second.rows)} prompts, comparison: give two systems on the same "
            "prompts"
        )
    totals = [each.rows.sum(0, keepdims=True) for each in (first, second)]
    difference = float((second.value(totals[1]) - first.value(totals[0]))[0])
    if prompts < 2:
        return Comparison(difference, Interval(math.nan, math.nan), math.nan)
    drawn = [each.value(_drawn(each.rows, seed, draws)) for each in (first, second)]
    gap = second.rows - first.rows
    rng = np.random.default_rng(seed)
    exchanged = np.stack([(rng.random(prompts) < 0.5) @ gap for _ in range(draws)])
    null = second.value(totals[1] - exchanged) - first.value(totals[0] + exchanged)
    less = int((np.abs(null) < abs(difference) - _ROUNDING).sum())
    p_value = math.nan if math.isnan(difference) else (1 + draws - less) / (1 + draws)
    return Comparison(difference, central(drawn[1] - drawn[0]), p_value)


def _drawn(rows: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """Sums [draws, K] over as many prompts as there are, drawn with replacement."""
    rng, prompts = np.random.default_rng(seed), len(rows)
    return np.stack(
        [
            np.bincount(rng.integers(prompts, size=prompts), minlength=prompts) @ rows
            for _ in range(draws)
        ]
    )


def central(values: np.ndarray) -> Interval:
    """The central 95% of draws [N], those that are nan left out; nan for no others."""
    defined, tail = values[~np.isnan(values)], (1 - _LEVEL) / 2
    if not defined.size:
        return Interval(math.nan, math.nan)
    return Interval(*map(float, np.quantile(defined, (tail, 1 - tail))))
