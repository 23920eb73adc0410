"""Bernoulli losses in float64, for comparison."""

import numpy as np


def log1mexp(log_p):
    log_p = np.minimum(np.float64(log_p), -1e-6)
    return np.where(log_p > -1, np.log(-np.expm1(log_p)), np.log1p(-np.exp(log_p)))


def log_sigmoid(logit):
    return -np.logaddexp(0, -np.float64(logit))


def cross_entropy(logit, label, shift=0.0):
    logit = np.float64(logit) + shift
    return -label * log_sigmoid(logit) - (1 - label) * log_sigmoid(-logit)


def logit(log_p):
    return np.float64(log_p) - log1mexp(log_p)


def kl(a, b):
    """Between Bernoulli distributions of these log-odds."""

    def part(a, b):
        return np.exp(log_sigmoid(a)) * (log_sigmoid(a) - log_sigmoid(b))

    return part(a, b) + part(-a, -b)
