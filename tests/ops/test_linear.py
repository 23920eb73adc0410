"""Products with weights stored as (out, in), whatever the number of rows."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinado_jax.ops.linear import linear

WEIGHT = np.random.default_rng(0).standard_normal((24, 16)).astype(np.float32)


def rows(*shape):
    return np.random.default_rng(1).standard_normal((*shape, 16)).astype(np.float32)


@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (48,), (49,), (7, 9)])
def test_values_and_gradients(shape):
    x, g = rows(*shape), np.random.default_rng(2).standard_normal((*shape, 24))

    def total(x, weight):
        y = linear(x, weight)
        return (y * jnp.float32(g)).sum(), y

    with jax.default_matmul_precision("highest"):
        grad = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
        (_, y), (of_x, of_weight) = grad(x, WEIGHT)
    flat = np.float64(x).reshape(-1, 16), g.reshape(-1, 24)
    np.testing.assert_allclose(y, np.float64(x) @ WEIGHT.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_x, g @ WEIGHT, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_weight, flat[1].T @ flat[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [8, 64])
def test_sums_are_of_the_dtype_asked_for(count):
    """Rounded inputs, exact sums: bfloat16 sums of 16 products would be off by percents."""
    x = jnp.asarray(rows(count), jnp.bfloat16)
    y = jax.jit(lambda x, weight: linear(x, weight, jnp.float32))(x, WEIGHT)
    expected = np.float64(x) @ np.float64(jnp.asarray(WEIGHT, jnp.bfloat16)).T
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert linear(x, WEIGHT).dtype == jnp.bfloat16


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of programs for CPUs")
@pytest.mark.parametrize(("count", "result"), [(8, "24,8"), (64, "64,24")])
def test_the_weight_of_few_rows_is_the_left_factor(count, result):
    """The compiler would exchange the factors of a transposed product again."""
    text = jax.jit(linear).lower(rows(count), WEIGHT).compile().as_text()
    assert re.search(rf"= f32\[{result}\]\S* dot\(", text)
