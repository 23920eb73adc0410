"""Objectives of two halves: what each of them moves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import objectives, tiny, world

from dinado_jax.config.schema import Train
from dinado_jax.objectives.table import OBJECTIVES

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


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_a_loss_of_r_needs_the_base_of_a_policy_that_scores_alone(name):
    objective, control = OBJECTIVES[name](Train()), world.control("merge")
    assert control.scores_alone
    read = {
        **dict.fromkeys(("regression", "contrastive", "ppo"), ("direction", "norm")),
        **dict.fromkeys(("consistency", "prefixes", "published"), ("",)),
        "policy_iteration": ("rows", "newest"),
    }
    assert objective.reads_states(control) == read.get(name, ("norm",))
