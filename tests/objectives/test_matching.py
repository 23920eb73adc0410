"""Distribution matching: its terms against float64, and the prompts that its rows come from."""

import numpy as np
import pytest
from support import objectives, rows, tiny

from dinado_jax.config.schema import Train
from dinado_jax.objectives.table import OBJECTIVES

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_terms_against_the_reference():
    params = tiny.random_params()
    batch = objectives.batch("matching", objectives.rows(objectives.MIXED))
    expected = objectives.expected_norm(params, batch.norm)
    expected["direction"] = objectives.expected_likelihood(params, batch.direction)
    found = objectives.terms(objectives.objective("matching"), params, batch)
    objectives.assert_terms(found, expected)


def test_the_direction_sees_every_prompt_equally_and_the_norm_follows_the_weights():
    rollouts, count = rows.three_prompts(), 30
    label, prompt_id = rollouts.label, rollouts.prompt_id
    at = OBJECTIVES["matching"](Train(batch=40)).batches(
        rollouts, np.ones(count, np.float32), seed=0
    )
    steps = [at(step) for step in range(10)]
    drawn = np.concatenate([batch.direction.length for batch in steps]) - 10
    np.testing.assert_allclose(
        np.bincount(prompt_id[drawn], minlength=3) / len(drawn), [0.5, 0.5, 0], atol=0.01
    )
    norm = np.concatenate([batch.norm.length for batch in steps]) - 10
    wanted = np.concatenate([batch.norm.label for batch in steps])
    np.testing.assert_array_equal(label[norm], wanted)
    successes = np.bincount(norm[wanted > 0], minlength=count)
    assert successes[10] == pytest.approx(successes[:11].mean(), abs=2)
    assert steps[0].norm.shift[0] == pytest.approx(np.log(19 / 11), abs=1e-5)
