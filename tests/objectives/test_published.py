"""The published objective against float64, and where it rests."""

import chex
import jax
import numpy as np
import pytest
from support import objectives, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PUBLISHED = objectives.objective("published")


def batch(label):
    return objectives.batch("published", objectives.rows(label))


def test_terms_against_the_reference():
    params, given = tiny.random_params(), batch(objectives.MIXED)
    steps = objectives.reference(params, given)
    expected = {
        "terminal": objectives.expected_terminal(steps, objectives.MIXED),
        # The sum over positions, per row: as published.
        "bellman": (objectives.expected_bellman(steps)[0], objectives.B),
    }
    objectives.assert_terms(objectives.terms(PUBLISHED, params, given), expected)


def test_both_terms_move_direction_and_norm():
    gradients = objectives.gradients(PUBLISHED, tiny.random_params(), batch(objectives.MIXED))
    for gradient in gradients.values():
        assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("success_rate", [1e-7, 1 - 1e-7])
@pytest.mark.parametrize("label", [0, 1])
def test_a_norm_that_is_certain_and_wrong_stays_finite(success_rate, label):
    params = tiny.fresh_params(success_rate=success_rate)
    given = batch(np.full(objectives.B, label))
    terms = objectives.terms(PUBLISHED, params, given)
    chex.assert_tree_all_finite((terms, objectives.gradients(PUBLISHED, params, given)))
    wrong = (success_rate < 0.5) == bool(label)
    assert (terms["terminal"].sum / objectives.B > 10) == wrong


def test_padding_changes_no_term():
    """A wider batch, and other tokens beyond the ends of the rows."""
    params, given = tiny.random_params(), batch(objectives.MIXED)
    wider = given.replace(
        tokens=np.pad(given.tokens, ((0, 0), (0, 4)), constant_values=7),
        suffix=np.pad(given.suffix, ((0, 0), (0, 4))),
    )
    found, expected = (objectives.terms(PUBLISHED, params, each) for each in (wider, given))
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
