"""Logistic regression on features of texts, by L-BFGS, on the host."""

from typing import Any

import numpy as np
import scipy.optimize
import scipy.special

_OF_THE_BIAS = 1e-4  # keeps it finite where all labels are the same


def fit_logistic(features: Any, labels: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Fits weights w and a bias to minimise the summed cross entropy plus penalty |w|^2 / 2.

    Args:
      features: array or sparse array [N, F].
      labels: bool [N].
      penalty: above 0.

    Returns:
      The weights, float64 [F], and the bias.
    """
    signs = np.where(labels, 1.0, -1.0)
    penalties = np.append(np.full(features.shape[1], penalty), _OF_THE_BIAS)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = signs * (features @ weights[:-1] + weights[-1])
        slope = -signs * scipy.special.expit(-margin)
        gradient = np.append(features.T @ slope, slope.sum()) + penalties * weights
        return -scipy.special.log_expit(margin).sum() + penalties @ weights**2 / 2, gradient

    start = np.zeros(features.shape[1] + 1)
    weights = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x
    return weights[:-1], float(weights[-1])
