"""Distributional targets: the tilt C e^(lambda . phi) of p whose features phi have wanted means.

Generation with distributional control (Khalifa et al., arXiv 2012.11635) for conditional models
(Korbak et al., arXiv 2112.00791): of all distributions with these means, q* proportional to
p(x | prompt) C(x) e^(lambda . phi(x)) is the closest to p C.

N samples of P prompts, K features.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import cast

import numpy as np
import scipy.optimize

from dinado_jax.errors import InputError
from dinado_jax.oracles.judge import FEATURES, Oracle, judge, require_labels

_ROUNDS = 200  # of re-estimated normalisers; each divides the error by a constant
_STEPS = 100  # Newton's, of one round
_SETTLED = 1e-9  # change of lambda, in nats per standard deviation of a feature
_SINGULAR = 1e-9  # smallest eigenvalue of a correlation matrix that counts as regular
_LARGEST = 700.0  # nats of a tilt: its exponential is finite


@dataclasses.dataclass(frozen=True)
class Tilt:
    """e^(lambda . phi - bound), which multiplies the labels of an oracle."""

    coefficients: tuple[float, ...]  # lambda, nats per unit of each feature
    bound: float  # nats, the largest lambda . phi among the samples it was fitted to
    smallest: float  # nats, the smallest one

    def log(self, values: np.ndarray) -> np.ndarray:
        """Returns lambda . phi - bound in nats, float64 [N], of features [N, K]."""
        return values @ np.array(self.coefficients) - self.bound

    def labels(self, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Returns min(1, C e^(lambda . phi - bound)), float64 [N].

        Args:
          labels: [N] in [0, 1], C; a masked array stays one.
          values: float [N, K], phi.
        """
        return np.minimum(labels * np.exp(np.minimum(self.log(values), _LARGEST)), 1.0)


@dataclasses.dataclass(frozen=True)
class TiltedOracle:
    """The oracle of a tilted target: `Tilt.labels` of each text."""

    oracle: Oracle
    features: tuple[Oracle, ...]
    tilt: Tilt

    def __call__(self, prompts: list[str], texts: list[str]) -> Sequence[float]:
        answers = (f(list(prompts), list(texts)) for f in self.features)
        columns = [np.ma.filled(np.ma.asarray(answer, float), np.nan) for answer in answers]
        labels = np.asanyarray(self.oracle(list(prompts), list(texts)))  # masked ones stay so
        labels = self.tilt.labels(labels, np.stack(columns, axis=-1))
        return cast(Sequence[float], np.ma.masked_invalid(labels))


def no_oracle(prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """The oracle of a target of moments alone: C = 1."""
    return [True] * len(texts)


def feature_values(
    features: Sequence[Oracle], prompts: Sequence[str], texts: Sequence[str]
) -> np.ndarray:
    """Computes K features of N texts: float64 [N, K], nan where one failed.

    Raises:
      InputError: if a feature returns anything but a number per text, or fails on all of them.
    """
    columns = []
    for feature in features:
        result = judge(feature, prompts, texts, FEATURES)
        require_labels(feature, result, FEATURES)
        columns.append(result.labels)
    return np.stack(columns, axis=-1).astype(np.float64)


def dual(
    coefficients: np.ndarray, log_weight: np.ndarray, centred: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Computes the convex dual of the constraints, log sum_i w_i e^(lambda . (phi_i - mean)).

    Args:
      coefficients: float64 [K], lambda.
      log_weight: float64 [N], log w.
      centred: float64 [N, K], features minus their wanted means.

    Returns:
      Its value; its gradient [K], the tilted mean of `centred`; its Hessian [K, K], the covariance.
    """
    score = log_weight + centred @ coefficients
    top = score.max()
    share = np.exp(score - top)
    total = share.sum()
    share /= total
    mean = share @ centred
    hessian = (centred * share[:, None]).T @ centred - np.outer(mean, mean)
    return float(top + np.log(total)), mean, hessian


def fit_tilt(
    values: np.ndarray,
    weight: np.ndarray,
    prompt_id: np.ndarray,
    wanted: Sequence[float],
    names: Sequence[str],
) -> Tilt:
    """Finds lambda such that the mean over prompts of E_q*(. | prompt)[phi] is the wanted one.

    The dual of that problem is the mean over prompts of log Z - lambda . mean, with the normaliser
    Z = E_p[C e^(lambda . phi) | prompt], which has to be estimated:

    - A prompt's own samples are too few. With 8 of them and a feature that 10% of texts have, four
      prompts in ten never show it; the fit makes up for them and is .3 off at a mean of .5.
    - One normaliser for all prompts has no such bias, and is exact for a single prompt and for
      prompts of equal Z. But prompts of large Z then count more: where the rate of a feature is
      Beta(.5, 2) distributed over prompts, the fit is .11 off.
    - In between, as done here, by empirical Bayes: the mean of a prompt is shrunk towards that of
      all by the ratio of the variances within and between prompts. Both errors are then below .01;
      where only a few kinds of prompts differ much, .01 to .03 remain.

    Given the Z of prompts at the current lambda, the log of the mean of C e^(lambda . phi) / Z over
    all samples bounds the dual from above (Jensen) and touches it there. It is convex: Newton's
    method minimises it; then Z is estimated again, until lambda has settled.

    Args:
      values: float64 [N, K], phi of samples of the base.
      weight: float64 [N], p / proposal times C, not negative, some of it positive.
      prompt_id: int [N].
      wanted: K means.
      names: K names of the features, for messages.

    Raises:
      InputError: for a feature that does not vary or depends linearly on others, and for means
        that no weighting of the samples has.
    """
    _, group = np.unique(prompt_id, return_inverse=True)
    seen = weight > 0
    unit = _check(values[seen], np.asarray(wanted, np.float64), names)
    centred = (values - np.asarray(wanted)) / unit
    coefficients = _solve(centred, weight, group) / unit
    exponent = values[seen] @ coefficients
    if not np.ptp(exponent) < _LARGEST:
        raise InputError(
            f"target.moments, {_listed(names, wanted)} need a tilt of "
            f"{np.ptp(exponent):.3g} nats: give means nearer to those of the base"
        )
    return Tilt(tuple(coefficients.tolist()), float(exponent.max()), float(exponent.min()))


def _solve(centred: np.ndarray, weight: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Finds lambda [K] of centred features [N, K] by the rounds that `fit_tilt` describes."""
    seen, samples = weight > 0, np.bincount(group)
    coefficients = np.zeros(centred.shape[1])
    for _ in range(_ROUNDS):
        before, tilted = coefficients, np.zeros(len(weight))
        score = centred[seen] @ coefficients
        # The scale of all Z has no part in the result; this one does not overflow.
        tilted[seen] = weight[seen] * np.exp(score - score.max())
        log_share = (
            np.log(weight[seen]) - np.log(_normalisers(tilted, group) * samples)[group[seen]]
        )
        coefficients = _minimise(before, log_share, centred[seen])
        if np.abs(coefficients - before).max() < _SETTLED:
            break
    return coefficients


def _normalisers(weight: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Estimates E[weight | prompt] of each prompt: float64 [P].

    The best linear estimates where the variance within prompts is the same for all (Buehlmann): a
    prompt of n samples has the mean of its own and of `prior` samples of the overall mean.
    """
    samples = np.bincount(group)
    total = np.bincount(group, weight)
    mean = total / samples
    overall = mean.mean()
    if not 1 < len(mean) < len(weight):
        return np.full(len(mean), overall)
    within = np.square(weight - mean[group]).sum() / (len(weight) - len(mean))
    between = mean.var(ddof=1) - within * (1 / samples).mean()
    # All that differs is noise; otherwise one sample at least, so that no Z is 0.
    prior = max(within / between, 1.0) if between > 0 else np.inf
    if not np.isfinite(prior):
        return np.full(len(mean), overall)
    return (total + prior * overall) / (samples + prior)


def _minimise(start: np.ndarray, log_weight: np.ndarray, centred: np.ndarray) -> np.ndarray:
    """Minimises `dual` by Newton's method with a backtracking line search (Armijo's condition)."""
    coefficients = start
    value, gradient, hessian = dual(coefficients, log_weight, centred)
    for _ in range(_STEPS):
        # lstsq: far out all weight may lie on one sample, and the covariance vanishes.
        step = np.linalg.lstsq(hessian, gradient)[0]
        decrease = float(gradient @ step)
        if decrease < 1e-16:
            break
        size = 1.0
        while size > 1e-10:
            at = dual(coefficients - size * step, log_weight, centred)
            if at[0] <= value - 0.25 * size * decrease:
                break
            size /= 2
        else:
            break  # rounding: no step is an improvement
        coefficients, (value, gradient, hessian) = coefficients - size * step, at
    return coefficients


def _check(values: np.ndarray, wanted: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Checks that some lambda gives the samples [N, K] these means; returns the features' standard
    deviations [K].

    Raises:
      InputError: if there is none, or more than one.
    """
    count = f"{len(values)} rollouts that the target admits"
    for name, column, mean in zip(names, values.T, wanted, strict=True):
        low, high = column.min(), column.max()
        if low == high:
            what = "never occurs" if low == 0 else f"is always {low:.4g}"
            raise InputError(
                f"target.moments, feature {name} {what} in the {count}: no tilt changes its mean; "
                "check the feature, or draw more with rollout.samples"
            )
        if not low < mean < high:
            raise InputError(
                f"target.moments, feature {name}: a mean of {mean:.4g} is wanted, and it lies "
                f"between {low:.4g} and {high:.4g} in the {count}: give a mean inside of that "
                "range (what all texts are to have is for rollout.oracle), or draw more with "
                "rollout.samples"
            )
    unit = values.std(axis=0)
    eigenvalues, vectors = np.linalg.eigh(np.corrcoef(values.T).reshape(len(names), -1))
    if eigenvalues[0] < _SINGULAR:
        involved = itertools.compress(names, np.abs(vectors[:, 0]) > 1e-4)
        raise InputError(
            f"target.moments, features {', '.join(involved)} depend linearly on each other in the "
            f"{count}: leave one of them out"
        )
    if len(names) > 1 and not _inside((values - wanted) / unit):
        raise InputError(
            f"target.moments, {_listed(names, wanted)} cannot hold together: no weighting of the "
            f"{count} has these means; change one, or draw more with rollout.samples"
        )
    return unit


def _inside(points: np.ndarray) -> bool:
    """Whether 0 is an inner point of the convex hull of [N, K]: a mean of all points with positive
    weights. Linear program: the largest t such that weights of at least t do.
    """
    points = np.unique(points, axis=0)
    count, width = points.shape
    # Variables: weights w_i - t >= 0, and t.
    equal = np.zeros((width + 1, count + 1))
    equal[:width, :count], equal[:width, count] = points.T, points.sum(axis=0)
    equal[width, :count], equal[width, count] = 1, count
    cost = np.zeros(count + 1)
    cost[count] = -1
    found = scipy.optimize.linprog(cost, A_eq=equal, b_eq=np.append(np.zeros(width), 1))
    return found.status == 0 and count * found.x[count] > 1e-9


def _listed(names: Sequence[str], wanted: Sequence[float] | np.ndarray) -> str:
    return " and ".join(f"{n} = {mean:.4g}" for n, mean in zip(names, wanted, strict=True))
