"""The gradients of matching and ratio as those of DPG and GDC++: unbiased, and their variance."""

import jax
import numpy as np
import pytest
from support import enumerated
from support.enumerated import COUNT, WORLD

from dinado_jax.data.batching import take
from dinado_jax.objectives.draws import LabeledBatch
from dinado_jax.objectives.matching import Likelihood
from dinado_jax.objectives.ratio import Divergence, RatioBatch

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROWS, REPEATS = 16, 4000


def gradients(loss, params, batch):
    """Of every row, [S, parameters]."""
    one = enumerated.case()

    def of_row(row):
        row = jax.tree.map(lambda x: x[None], row)
        return jax.grad(lambda p: loss.term(one.control, p, one.base_params, row).sum)(params)

    found = jax.jit(jax.vmap(of_row))(batch)["direction"]
    return np.float64(found).reshape(COUNT, -1)


@pytest.mark.parametrize("power, factor", [(0.5, 1.0), (1.0, 1e-4)])
def test_from_samples_of_q_both_are_unbiased_and_ratio_has_less_noise(power, factor):
    """With R*^power in place of R*: at q* itself no row of the ratio pushes."""
    params = enumerated.at_optimum(14.0)
    params = {**params, "direction": power * params["direction"]}
    best, log_q = enumerated.case().optimum.q, enumerated.log_policy(params).sum(1)
    a = np.float32(best / np.exp(log_q))
    rows = vars(take(WORLD.rows, np.arange(COUNT)))
    dpg = gradients(Likelihood(), params, LabeledBatch(**rows, label=a))
    batch = RatioBatch(**rows, optimal_ratio=a, log_proposal=np.float32(log_q))
    gdc = gradients(Divergence(), params, batch)
    exact = np.exp(log_q) @ dpg
    draws = np.random.default_rng(0).choice(COUNT, (REPEATS, ROWS), p=np.exp(log_q))
    variances = []
    for per_row in (dpg, gdc):
        estimates = per_row[draws].mean(1)
        error = estimates.std(0) / np.sqrt(REPEATS)
        assert (np.abs(estimates.mean(0) - exact) <= 4.5 * error + 1e-5).all()
        variances.append(estimates.var(0).sum())
    assert variances[1] < factor * variances[0]
