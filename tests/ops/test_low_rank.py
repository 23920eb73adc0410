"""The low-rank product: what it says and its gradient, against the formula by automatic means."""

import chex
import jax
import jax.numpy as jnp
import pytest

from dinado_jax.ops.low_rank import low_rank_product

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize("lead", [(6,), (2, 3), ()])
@pytest.mark.parametrize("dtype, atol", [("float32", 1e-5), ("bfloat16", 0.1)])
def test_product_and_gradient(lead, dtype, atol):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (*lead, 5), (5, 2), (2, 7), (*lead, 7)
    *args, weight = (jax.random.normal(k, shape, dtype) for k, shape in zip(keys, shapes))

    def loss(product):
        return lambda *args: (product(*args).astype(jnp.float32) * weight).sum()

    found, wanted = (
        jax.jit(jax.value_and_grad(loss(product), (0, 1, 2)))(*args)
        for product in (low_rank_product, lambda x, a, b: (x @ a) @ b)
    )
    chex.assert_trees_all_equal_dtypes(found, wanted)
    chex.assert_trees_all_close(*jax.tree.map(jnp.float32, (found, wanted)), rtol=0.05, atol=atol)
