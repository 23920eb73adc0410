"""Worlds whose base is a network: what decoding draws there is what enumeration says."""

import jax
import numpy as np
import pytest
from scipy.stats import chi2
from support import tiny

from dinado_jax.config.schema import Optim
from dinado_jax.exact import neural
from dinado_jax.exact.compare import setting
from dinado_jax.exact.world import World

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WORLD = World(vocabulary=4, length=3, ends=True, rarity=0.1)
COUNT, FEW = 20_000, 4096  # as many as are decoded at once: one program for both


@pytest.fixture(scope="module")
def cases(compiled_quickly):
    """A base hardly trained is a base too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neural, "_SFT", Optim(steps=40, batch=64, learning_rate=5e-3, warmup=5))
        neural.train_base.cache_clear()
        known = {variant: setting("neural", WORLD, variant, 0) for variant in ("merge", "hard")}
        with_state = ("merge", "soft")
        yield known | {f"{v}, state": setting("neural", WORLD, v, 0, True) for v in with_state}
        neural.train_base.cache_clear()


def test_the_base_is_what_the_model_says(cases):
    one = cases["merge"]
    log_p = one.optimum.log_p
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-5)
    fresh = one.control.init(jax.random.key(0), one.base_params, 0.3)
    log_base, ratio, *_ = one.evaluated(fresh)
    np.testing.assert_allclose(log_base.sum(1), log_p, rtol=0, atol=1e-4)
    assert np.abs(ratio).max() < 1e-5
    learned = np.abs(np.exp(log_p) - np.exp(WORLD.log_tabled())).sum() / 2
    uniform = np.abs(np.exp(WORLD.log_tabled()) - 1 / len(log_p)).sum() / 2
    assert learned < uniform


@pytest.mark.parametrize(
    "variant, of_base",
    [
        ("merge", True),
        ("merge", False),
        ("hard", False),
        ("merge, state", False),
        ("soft, state", False),
    ],
)
def test_decoded_draws_follow_the_enumeration(cases, variant, of_base):
    one = cases[variant]
    log_q, params = one.optimum.log_p, None
    if not of_base:
        fresh = one.control.init(jax.random.key(0), one.base_params, 0.3)
        params = tiny.noisy(fresh, 0.1)
        log_q = log_q + one.evaluated(params)[1].sum(1)
        moved = one.measured(params)
        assert moved["kl_to_base"] > 0.02
        if "state" in variant:
            assert moved["satisfaction"] == pytest.approx(1, abs=1e-5)
    rows = one.draw(params, COUNT, 3)
    index = WORLD.index(rows.tokens)
    np.testing.assert_array_equal(WORLD.rows.tokens[index], rows.tokens)
    np.testing.assert_array_equal(WORLD.rows.length[index], rows.length)
    np.testing.assert_allclose(rows.log_proposal, log_q[index], rtol=0, atol=2e-4)
    np.testing.assert_allclose(rows.log_base, one.optimum.log_p[index], rtol=0, atol=2e-4)
    np.testing.assert_array_equal(rows.label, one.optimum.label[index])
    expected = COUNT * np.exp(log_q)
    found = np.bincount(index, minlength=len(log_q))
    often = expected >= 8
    statistic = ((found - expected) ** 2 / expected)[often].sum()
    assert often.sum() > 10 and chi2.sf(statistic, often.sum()) > 1e-4
    other = one.draw(params, FEW, 4)
    assert (other.tokens != rows.tokens[:FEW]).any()
