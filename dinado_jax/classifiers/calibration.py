"""How well probabilities fit: temperature scaling (Guo et al., ICML 2017) and calibration error."""

import numpy as np
import scipy.optimize
import scipy.special

_BINS = 10
_WIDEST = np.log(100)  # of a temperature, either way


def fit_temperature(log_odds: np.ndarray, labels: np.ndarray) -> float:
    """The temperature by which log-odds [N] are to be divided, so that labels bool [N] are most
    likely; in [0.01, 100].

    Of n texts with a label one more is taken to have it, and one not to (Platt, 1999): few texts
    that are all told apart would otherwise make everything certain.
    """
    count = np.where(labels, labels.sum(), (~labels).sum())
    target = np.where(labels, (count + 1) / (count + 2), 1 / (count + 2))

    def loss(log_temperature: float) -> float:
        scaled = log_odds / np.exp(log_temperature)
        losses = target * scipy.special.log_expit(scaled)
        return -(losses + (1 - target) * scipy.special.log_expit(-scaled)).mean()

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
