"""The Bernoulli losses against float64, at both ends too."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import float64

from dinado_jax.ops import bernoulli

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PROBABILITIES = np.concatenate(
    [10.0 ** np.arange(-30, 0), [0.3, 0.5, 0.500001, 0.7, 0.9], 1 - 10.0 ** np.arange(-2, -7, -1)]
)
LOG_P = np.float32(np.log(PROBABILITIES))
EDGES = jnp.float32([0.0, -1e-7, -1e-6, -2e-6, -np.log(2), -69.9, -70.0])
LOGITS = np.float32(np.concatenate([np.arange(-90, 91, 7.5), [-1, -0.1, 0, 0.1, 1, 1e4, -1e4]]))


def test_log1mexp_and_logit():
    np.testing.assert_allclose(bernoulli.log1mexp(LOG_P), float64.log1mexp(LOG_P), rtol=1e-6)
    expected = float64.logit(LOG_P)
    np.testing.assert_allclose(bernoulli.logit(LOG_P), expected, rtol=1e-5, atol=1e-6)
    # Certainty counts as the ceiling, and what lies beyond still has a gradient back.
    assert bernoulli.log1mexp(jnp.float32(0)) == pytest.approx(np.log(1e-6), rel=1e-6)
    assert jax.grad(bernoulli.logit)(jnp.float32(0.5)) == 1


@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("shift", [0.0, 3.5, -3.5])
def test_cross_entropy_and_its_gradient(label, shift):
    of = jax.vmap(jax.value_and_grad(lambda x: bernoulli.cross_entropy(x, label, shift)))
    value, gradient = of(LOGITS)
    expected = float64.cross_entropy(LOGITS, label, shift)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-37)
    logits = np.float64(LOGITS) + shift
    p, not_p = np.exp(float64.log_sigmoid(logits)), np.exp(float64.log_sigmoid(-logits))
    np.testing.assert_allclose(gradient, (1 - label) * p - label * not_p, rtol=2e-5, atol=1e-37)


def test_kl():
    a, b = (x.ravel() for x in np.meshgrid(LOGITS, LOGITS))
    out, (of_a, of_b) = jax.vmap(jax.value_and_grad(bernoulli.kl, (0, 1)))(a, b)
    np.testing.assert_allclose(out, float64.kl(a, b), rtol=1e-5, atol=2e-7)
    np.testing.assert_array_equal(out[a == b], 0)
    assert (out >= -1e-7).all() and (out[np.abs(a - b) > 1] >= 0).all()
    # To the precision of what they are next to 1, not of 1 itself.
    p, not_p, other, not_other = (np.exp(float64.log_sigmoid(x)) for x in (a, -a, b, -b))
    expected = p * not_p * (np.float64(a) - b)
    rounding = 1e-6 * p * not_p + 1e-35
    assert (np.abs(of_a - expected) <= 1e-4 * np.abs(expected) + rounding).all()
    np.testing.assert_allclose(of_b, other * not_p - p * not_other, rtol=1e-4, atol=1e-7)
    far = np.minimum(p, not_p) < 1e-6
    close = np.abs(of_b - (other * not_p - p * not_other)) < 1e-4 * np.maximum(
        other * not_p, p * not_other
    )
    assert close[far & (a != b)].all()
    near = jnp.linspace(-5, 30, 500)
    assert (bernoulli.kl(near, near * 1.0001) >= -1e-6).all()


def test_scaled_is_the_product_at_both_ends():
    """sigmoid(z) e^-d for factors near 1, exactly 1 and near 0; and its gradients."""
    d = np.concatenate([[0, 1e-30, 1e-12], 10.0 ** np.arange(-6, 2), [90]])
    z, d = (x.ravel() for x in np.meshgrid(np.float64(LOGITS), d))
    out = bernoulli.scaled(np.float32(z), np.float32(-d), np.float32(-np.expm1(-d)))
    with np.errstate(divide="ignore"):
        exact = -d - np.logaddexp(-z, np.log(-np.expm1(-d)))
    sure = (z > bernoulli.SURE) & (-np.expm1(-d) < np.exp(-bernoulli.SURE))
    np.testing.assert_allclose(out[~sure], exact[~sure], rtol=1e-5, atol=1e-5)
    assert (out[sure] > bernoulli.SURE - 1).all()
    gradients = jax.vmap(jax.grad(bernoulli.scaled, (0, 1, 2)))(*np.float32([z, -d, -np.expm1(-d)]))
    chex.assert_tree_all_finite(gradients)
    inside = z <= bernoulli.SURE
    excess = -np.expm1(-d) * np.exp(np.minimum(z, 100))
    weight = np.exp(-np.logaddexp(-z, np.log(np.maximum(-np.expm1(-d), 1e-300))))
    np.testing.assert_allclose(gradients[2][inside], -weight[inside], rtol=1e-4, atol=1e-37)
    np.testing.assert_allclose(
        gradients[0][inside], 1 / (1 + excess[inside]), rtol=1e-4, atol=1e-37
    )


@pytest.mark.parametrize("function", [bernoulli.log1mexp, bernoulli.logit])
def test_values_and_gradients_are_finite_at_both_ends(function):
    values, gradients = jax.vmap(jax.value_and_grad(function))(EDGES)
    chex.assert_tree_all_finite((values, gradients))


@pytest.mark.parametrize("rate", [0.003, 0.08, 0.5, 0.9])
def test_with_logit_adjustment_balanced_labels_fit_the_rate_of_the_population(rate):
    shift = np.log1p(-rate) - np.log(rate)

    @jax.jit
    def balanced(logit):
        return sum(bernoulli.cross_entropy(logit, label, shift) for label in (0.0, 1.0))

    logit = jnp.float32(-shift)
    assert jax.grad(balanced)(logit) == pytest.approx(0.0, abs=1e-4)
    grid = jnp.linspace(logit - 2, logit + 2, 4001)
    best = grid[jnp.argmin(balanced(grid))]
    assert 1 / (1 + np.exp(-best)) == pytest.approx(rate, rel=2e-2)
