"""Metrics of texts and of control, computed on the host."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dinado_jax.errors import InputError
from dinado_jax.metrics.diversity import distinct
from dinado_jax.tasks.keyword.lexical import words


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of the corpus, of lower-case words, in [0, 1].

    See `metrics.diversity.distinct`. Raises InputError if n < 1.
    """
    if n < 1:
        raise InputError(f"n = {n}, distinct_n: give n >= 1")
    return distinct(list(map(words, texts)), n)


def kl_floor(success: float, base_success: float) -> float:
    """The least KL(q || p), in nats per sequence, of any q that succeeds with rate s = `success`
    where the base p succeeds with rate R0 = `base_success`:

        s log(s / R0) + (1 - s) log((1 - s) / (1 - R0)),    0 log 0 = 0.

    By the data-processing inequality: judging a sequence maps q and p to two Bernoulli
    distributions, and a map cannot raise the KL. inf if q does what the base never does.
    Raises InputError for a rate outside [0, 1].
    """
    for rate in (success, base_success):
        if not 0 <= rate <= 1:
            raise InputError(f"success rate {rate}, kl_floor: give rates in [0, 1]")

    def term(q: float, p: float) -> float:
        if q == 0:
            return 0.0
        return q * math.log(q / p) if p > 0 else math.inf

    return term(success, base_success) + term(1 - success, 1 - base_success)


def kl_floor_of_labels(
    controlled: np.ndarray, base: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """The least KL(q || p), in nats per sequence, of any q whose labels C are positive as often as
    `controlled`, with the same mean logarithm, where p has the labels `base`:

        s (log s - log E_p[C] + E_q[log C | C > 0]) + (1 - s) log((1 - s) / P_p(C = 0)),
        s = P_q(C > 0).

    The variational bound KL >= E_q[f] - log E_p[e^f] (Donsker, Varadhan) with f = log C, and for
    C = 0 the best number. It is reached by q* proportional to p C, and is `kl_floor` for labels 0
    and 1. inf if q does what the base never does.

    Args:
      controlled: [N] labels in [0, 1] of samples of q.
      base: [M] labels of samples of p, or of another proposal.
      weight: [M] p / proposal; None for samples of p.
    """
    good = controlled[controlled > 0]
    share = len(good) / len(controlled)
    failing, mean = (float(np.average(x, weights=weight)) for x in (base == 0, base))
    if (share > 0 and mean == 0) or (share < 1 and failing == 0):
        return math.inf
    floor = share * float(np.log(good * share / mean).mean()) if share else 0.0
    floor += (1 - share) * math.log((1 - share) / failing) if share < 1 else 0.0
    return max(floor, 0.0)  # the bound says nothing of a q that moved the other way


def kl_floor_of_samples(
    controlled: np.ndarray, base: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """The least KL(q || p), in nats per sequence, that labels of samples prove: `kl_floor` of their
    means, or for graded labels `kl_floor_of_labels` if that is higher and finite.

    Args: as for `kl_floor_of_labels`.
    """
    floor = kl_floor(float(controlled.mean()), float(np.average(base, weights=weight)))
    by_label = kl_floor_of_labels(controlled, base, weight)
    return max(floor, by_label) if by_label < math.inf else floor


def rate_distribution(hits: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits the distribution of success rates among prompts by EM on a grid.

    Per-prompt empirical rates would mistake the noise of few samples for differences. Rates below
    about 1 / draws are hardly resolved, and a floor computed from the estimate is then too low.

    Args:
      hits: [P] successes per prompt.
      draws: [P] samples per prompt.

    Returns:
      Rates [G] and their probabilities [G].
    """
    rates = (np.arange(200) + 0.5) / 200
    log_likelihood = np.outer(hits, np.log(rates)) + np.outer(draws - hits, np.log1p(-rates))
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    probability = np.full(rates.size, 1 / rates.size)
    for _ in range(300):
        posterior = likelihood * probability
        probability = (posterior / posterior.sum(1, keepdims=True)).mean(0)
    return rates, probability


def kl_floor_by_prompt(success: float, rates: np.ndarray, probability: np.ndarray) -> float:
    """`kl_floor` where prompts differ: the least mean KL(q || p) of any q that succeeds with rate
    `success` over prompts on which the base succeeds with rates [G] of the given probabilities.

    The optimal q of each prompt is p tilted by e^{t C}, with one t for all, and the floor is
    max_t t s - E log(1 + R0 (e^t - 1)). It is never below the floor of the mean rate, and equals it
    if all rates are equal. Rates must lie strictly between 0 and 1.
    """

    def tilted(t):
        return rates / (rates + (1 - rates) * np.exp(-t))

    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if probability @ tilted(middle) < success else (low, middle)
    log_normaliser = np.log1p(rates * np.expm1(low))
    return float(low * success - probability @ log_normaliser)


def kl_of_target(label: np.ndarray, excess: np.ndarray, prompt: np.ndarray) -> float:
    """KL(q* || p), nats per sequence, averaged over prompts, from samples chosen among particles:

        KL(q* || p) = E_{q*}[log C] - log R0

    An estimate from above, as the particles' estimates of R0 are unbiased and their logarithm is
    concave; the more particles, the closer. nan if no sample of some prompt succeeds.

    Args:
      label: [N] C, in [0, 1].
      excess: [N] nats, of `decoding.particles.choose`: log C minus the log of an estimate of R0.
      prompt: int [N], which each continues, from 0.
    """
    log_label = np.log(label, out=np.zeros(len(label)), where=label > 0)
    rate = np.where(label > 0, np.exp(log_label - excess), 0.0)
    total = np.bincount(prompt, rate)
    if (total == 0).any():
        return math.nan
    kl = np.bincount(prompt, rate * log_label) / total - np.log(total / np.bincount(prompt))
    return float(kl.mean())


def efficiency(floor: float, kl: float) -> float:
    """Returns floor / kl: 1 if the control uses no more KL than its success rate requires.

    nan if kl <= 0, an estimate from few samples or a control without effect, and if the floor is
    inf because no sample of the base succeeds.
    """
    return floor / kl if kl > 0 and math.isfinite(floor) else math.nan


def calibration_error(predicted: np.ndarray, rates: np.ndarray, bins: int) -> float:
    """The expected calibration error without what chance adds to it:

        sum_b n_b / P sqrt(max(0, m_b^2 - s_b^2)),

    m_b the mean of rate - prediction in a bin and s_b its standard error, over bins of equally many
    prompts in the order of their predictions. (Subtracted from squares, where it is exact: Kumar et
    al., arXiv 1909.10155. Of a right prediction about s / 3 remains, where |m| would leave 0.8 s.)

    Args:
      predicted: [P] success rates.
      rates: [P] shares of successes among the samples of each prompt.
      bins: number of bins; s_b is unknown, and taken as 0, in a bin of one prompt.
    """
    total = sum(
        each.count * math.sqrt(max(0.0, (each.measured - each.predicted) ** 2 - each.error**2))
        for each in calibration_bins(predicted, rates, bins)
    )
    return total / len(rates)


class CalibrationBin(NamedTuple):
    """Prompts with similar predictions."""

    count: int
    predicted: float  # mean of their predictions
    measured: float  # mean of their success rates
    error: float  # standard error of measured - predicted; 0 for one prompt


def calibration_bins(predicted: np.ndarray, rates: np.ndarray, bins: int) -> list[CalibrationBin]:
    """Divides prompts into bins of equally many in the order of their predictions.

    Args:
      predicted: [P] success rates.
      rates: [P] shares of successes among the samples of each prompt.
      bins: their number; there are fewer where there are fewer prompts.
    """
    order = np.argsort(predicted, kind="stable")
    return [
        CalibrationBin(
            len(part),
            float(predicted[part].mean()),
            float(rates[part].mean()),
            float((rates - predicted)[part].std() / math.sqrt(max(len(part) - 1, 1))),
        )
        for part in np.array_split(order, bins)
        if len(part)
    ]


def mean_and_error(x: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The mean of x [N] and its standard error, nan if N = 1. Raises InputError if N = 0."""
    x = np.asarray(x, np.float64)
    if x.size == 0:
        raise InputError("no values, mean and standard error: give at least one")
    error = x.std(ddof=1) / math.sqrt(x.size) if x.size > 1 else math.nan
    return float(x.mean()), float(error)
