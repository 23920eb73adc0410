"""The generalised KL: its terms against float64, its rest at the optimum, and its rows."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import objectives, rows, tiny

from dinado_jax.config.schema import Train
from dinado_jax.objectives.table import OBJECTIVES

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def expected_divergence(params, batch):
    total = 0.0
    given = zip(
        objectives.reference(params, batch), batch.optimal_ratio, np.float64(batch.log_proposal)
    )
    for steps, share, log_proposal in given:
        log_q = sum(step[0] for step in steps)
        log_ratio = log_q - log_proposal
        total += np.exp(min(log_ratio, 3)) * (1 + max(log_ratio - 3, 0)) - share * log_q
    return total, objectives.B


def test_terms_against_the_reference():
    params = tiny.random_params()
    batch = objectives.batch("ratio", objectives.rows(objectives.MIXED))
    expected = objectives.expected_norm(params, batch.norm)
    expected["direction"] = expected_divergence(params, batch.direction)
    found = objectives.terms(objectives.objective("ratio"), params, batch)
    objectives.assert_terms(found, expected)


def test_a_direction_that_is_right_is_left_alone():
    """Where q / d is each row's ratio already, no row pushes, while likelihood would."""
    params = tiny.random_params()
    batch = objectives.batch("ratio", objectives.rows(objectives.MIXED))
    log_q = [sum(step[0] for step in s) for s in objectives.reference(params, batch.direction)]
    share = np.linspace(0.1, 2, objectives.B)
    right = batch.direction.replace(
        optimal_ratio=np.float32(share), log_proposal=np.float32(log_q - np.log(share))
    )
    at_rest = objectives.gradients(
        objectives.objective("ratio"), params, batch.replace(direction=right)
    )["direction"]
    chex.assert_trees_all_close(at_rest, jax.tree.map(jnp.zeros_like, at_rest), atol=2e-3)
    batch = objectives.batch("matching", objectives.rows(objectives.MIXED))
    other = objectives.gradients(objectives.objective("matching"), params, batch)["direction"]
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(other)) > 0.1


# Rows


def direction_rows(rollouts):
    """The direction's rows of the ten steps that share their draws."""
    at = OBJECTIVES["ratio"](Train(batch=40)).batches(rollouts, np.ones(30, np.float32), seed=0)
    parts = [at(step).direction for step in range(10)]
    names = ("length", "optimal_ratio", "log_proposal")
    return [np.concatenate([getattr(part, name) for part in parts]) for name in names]


def test_rows_come_from_prompts_with_a_success_and_know_their_share_of_the_optimum():
    """Prompt 0 succeeds always, prompt 1 in one of ten, prompt 2 never."""
    rollouts, weight = rows.three_prompts(), np.ones(30, np.float32)
    length, share, _ = direction_rows(rollouts)
    drawn = length - 10
    np.testing.assert_allclose(
        np.bincount(drawn, minlength=30)[:20] / len(drawn), 1 / 20, atol=0.01
    )
    assert drawn.max() < 20, "of prompt 2 no success is known"
    wanted = np.where(np.arange(30) < 10, 1, np.where(np.arange(30) == 10, 10, 0))
    np.testing.assert_allclose(share, wanted[drawn])
    of_ratio, of_matching = (
        OBJECTIVES[name](Train(batch=40)).batches(rollouts, weight, seed=0)(3)
        for name in ("ratio", "matching")
    )
    chex.assert_trees_all_equal(of_ratio.norm, of_matching.norm)


def test_a_reference_has_no_proposal_and_adds_no_sample():
    log_proposal = np.full(30, -20, np.float32)
    log_proposal[10] = np.nan
    rollouts = dataclasses.replace(rows.three_prompts(), log_proposal=log_proposal)
    length, share, log_proposal = direction_rows(rollouts)
    reference = length == 20
    assert reference.any() and np.isposinf(log_proposal[reference]).all()
    assert np.all(share[reference] == 9)
    assert np.all(log_proposal[~reference] == -20)
