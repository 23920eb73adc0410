"""Which rollouts the norm sees, with which weights."""

import dataclasses

import numpy as np
import pytest
from support import rows

from dinado_jax.config.schema import Train
from dinado_jax.objectives.draws import bellman_at, norm_rows

ONES = np.ones(30, np.float32)


def ten_steps(rollouts, train):
    """All steps that share their draws."""
    at = norm_rows(rollouts, ONES, train, seed=0)
    return [at(step, 40) for step in range(10)]


@pytest.mark.parametrize("balance", [True, False])
def test_the_norm_sees_the_suffix_weights_of_its_rows(balance):
    rollouts = rows.three_prompts()
    # Every column of a row has the number of the row as its weight.
    log_prefix = np.tile(-np.log(np.arange(1, 31, dtype=np.float32))[:, None], (1, 47))
    rollouts = dataclasses.replace(
        rollouts,
        log_proposal=rollouts.log_base,
        prompt_length=np.ones(30, np.int32),
        log_prefix=log_prefix,
    )
    batches = ten_steps(rollouts, Train(balance=balance, weight_clip=1.0))
    for batch in batches:
        index = batch.length - 10
        assert batch.suffix.shape == (40, batch.tokens.shape[1] - 1)
        np.testing.assert_allclose(batch.suffix[:, 0], index + 1, rtol=1e-5)
        np.testing.assert_array_equal(batch.label, rollouts.label[index])
        shift = np.log(19 / 11) if balance else 0
        np.testing.assert_allclose(batch.shift, np.full(40, shift), rtol=0, atol=1e-5)
    share = np.mean([batch.label.mean() for batch in batches])
    assert share == pytest.approx(0.5 if balance else 11 / 30, abs=0.01)


@pytest.mark.parametrize("balance", [True, False])
def test_references_teach_the_norm_only_beside_as_many_failures(balance):
    """Most are successes: unbalanced, they would raise the rate."""
    rollouts = rows.three_prompts()
    last = np.arange(30) >= 25
    log_proposal = np.where(last, np.nan, rollouts.log_base)
    rollouts = dataclasses.replace(rollouts, log_proposal=log_proposal)
    batches = ten_steps(rollouts, Train(balance=balance))
    seen = np.concatenate([batch.length for batch in batches]) - 10
    assert (seen >= 25).any() == balance


def test_lambda_is_zero_before_its_start():
    train = Train(bellman=0.3, bellman_start=7)
    np.testing.assert_array_equal(bellman_at(train, 6, 4), np.zeros(4))
    np.testing.assert_array_equal(bellman_at(train, 7, 4), np.full(4, np.float32(0.3)))
