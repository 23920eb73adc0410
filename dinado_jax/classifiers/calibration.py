"""How well probabilities fit: temperature scaling (Guo et al., ICML 2017), calibration error and
Brier score.
"""

import numpy as np
import scipy.optimize
import scipy.special

_BINS = 10
_WIDEST = np.log(100)  # of a temperature, either way
_DRAWS = 200  # of labels, to see what chance alone does


def fit_temperature(log_odds: np.ndarray, labels: np.ndarray) -> float:
    """The temperature by which log-odds [N] are to be divided, so that labels bool [N] are most
    likely; in [0.01, 100].

    Its logarithm has a standard normal prior: few texts that are all classified correctly would
    otherwise make everything certain. (Smoothed labels, as Platt's, would prevent that too, but no
    probability could be above (n + 1) / (n + 2) of n texts with a label, and good classifiers would
    come out less certain than right.)
    """
    signed = np.where(labels, log_odds, -log_odds)

    def loss(log_temperature: float) -> float:
        losses = -scipy.special.log_expit(signed / np.exp(log_temperature))
        return losses.sum() + log_temperature**2 / 2

    found = scipy.optimize.minimize_scalar(loss, bounds=(-_WIDEST, _WIDEST), method="bounded")
    return float(np.exp(found.x))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The expected calibration error: the mean distance of probability and frequency in 10 bins.

    Args:
      probabilities: [N], of the label.
      labels: bool [N].
    """
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, probabilities - labels, _BINS)
    return float(np.abs(gaps).sum() / len(labels))


def chance_calibration_error(probabilities: np.ndarray) -> float:
    """The calibration error that probabilities [N] have on average if they are right, since N
    labels are few: the mean over labels that are drawn with them.
    """
    rng = np.random.default_rng(0)
    drawn = (rng.random(len(probabilities)) < probabilities for _ in range(_DRAWS))
    return float(np.mean([calibration_error(probabilities, labels) for labels in drawn]))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean square of probability [N] minus label, bool [N] (Brier, 1950)."""
    return float(np.square(probabilities - labels).mean())
