"""Objectives of two halves: what each of them moves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import objectives, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def zeros_like(tree):
    return jax.tree.map(jnp.zeros_like, tree)


@pytest.mark.parametrize("name", ["matching", "ratio"])
def test_direction_and_norm_are_kept_apart(name):
    params = tiny.random_params()
    batch = objectives.batch(name, objectives.rows(objectives.MIXED))
    gradients = objectives.gradients(objectives.objective(name), params, batch)
    direction = gradients.pop("direction")
    chex.assert_trees_all_equal(direction["norm"], zeros_like(params["norm"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(direction["direction"]))
    assert set(gradients) == {"rate", "value", "terminal", "bellman"}
    for gradient in gradients.values():
        chex.assert_trees_all_equal(gradient["direction"], zeros_like(params["direction"]))
        assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["norm"]))
