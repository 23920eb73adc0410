"""Labels after every token against float64."""

import pytest
from support import objectives, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_labels_judge_every_prefix_by_r_after_its_last_token():
    params = tiny.random_params()
    batch = objectives.batch("prefixes", objectives.rows(objectives.MIXED))
    steps = objectives.reference(params, batch)
    expected = {
        "value": objectives.expected_after_tokens(steps, batch),
        "bellman": objectives.expected_bellman(steps),
    }
    found = objectives.terms(objectives.objective("prefixes"), params, batch)
    objectives.assert_terms(found, expected)
