"""The warm-up against float64."""

import pytest
from support import objectives, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_the_warm_up_is_the_likelihood_of_the_direction_alone():
    params, batch = tiny.random_params(), objectives.rows(objectives.MIXED)
    found = objectives.terms(objectives.objective("warmup"), params, batch)
    expected = {"direction": objectives.expected_likelihood(params, batch)}
    objectives.assert_terms(found, expected)
