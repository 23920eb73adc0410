"""What holds for the objectives of the table, under a merge control."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import objectives, tiny
from support.objectives import MIXED, B

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NAMES = ["published", "matching", "ratio"]
names = pytest.mark.parametrize("name", NAMES)
names_and_consistency = pytest.mark.parametrize("name", [*NAMES, "consistency"])


def leaves_with_paths(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@names
def test_gradients_against_finite_differences(name):
    """Along a random direction of every leaf of its own.

    What stop_gradient makes a constant has no finite differences: the norm's terms of `matching`
    and `ratio` are differentiated by the norm only.
    """
    objective, params = objectives.objective(name), tiny.random_params()
    batch = objectives.batch(name, objectives.rows(MIXED))
    gradients = objectives.gradients(objective, params, batch)
    rng = np.random.default_rng(0)
    paths = list(leaves_with_paths(params))
    leaves, structure = jax.tree.flatten(params)
    compared = 0
    for index, (path, leaf) in enumerate(zip(paths, leaves)):
        tangent = rng.standard_normal(leaf.shape)
        tangent *= 0.02 / max(1e-9, np.linalg.norm(tangent))

        def at(step, index=index, leaf=leaf, tangent=tangent):
            moved = [*leaves]
            moved[index] = jnp.float32(leaf + step * tangent)
            return objectives.terms(objective, jax.tree.unflatten(structure, moved), batch)

        above, below = at(1), at(-1)
        for term, gradient in gradients.items():
            if name != "published" and term != "direction" and "norm" not in path:
                continue
            slope = np.sum(np.float64(leaves_with_paths(gradient)[path]) * tangent)
            difference = (float(above[term].sum) - float(below[term].sum)) / 2
            assert difference == pytest.approx(slope, rel=0.02, abs=2e-4), (term, path)
            compared += abs(slope) > 2e-3
    assert compared > 10


@names_and_consistency
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    "part",
    [
        {"label": np.zeros(B)},
        {"label": np.ones(B)},
        {"label": MIXED, "prompt_length": [9] * B, "length": [10] * B},  # one target token each
        {"label": MIXED, "prompt_length": [1, 2, 3, 4, 5, 10], "length": [1, 2, 3, 4, 5, 10]},
        {"label": MIXED, "prompt_length": [1] * B, "length": [1] * B},  # rows of a single token
    ],
)
def test_nothing_is_ever_nan_or_infinite(name, fresh, part):
    params = tiny.fresh_params() if fresh else tiny.random_params(scale=1.0)
    part = objectives.rows(**part)
    objectives.assert_finite(name, params, objectives.batch(name, part, part))


@names_and_consistency
def test_the_terms_of_two_halves_add_up_to_those_of_the_whole(name):
    objective, params = objectives.objective(name), tiny.random_params()
    batch = objectives.batch(name, objectives.rows(MIXED))
    both = objectives.terms(objective, params, batch)
    halves = [
        objectives.terms(objective, params, jax.tree.map(lambda x, h=half: x[h], batch))
        for half in (slice(B // 2), slice(B // 2, None))
    ]
    for term, expected in both.items():
        a, b = (half[term] for half in halves)
        assert a.weight + b.weight == expected.weight
        assert float(a.sum + b.sum) == pytest.approx(float(expected.sum), rel=1e-5)
