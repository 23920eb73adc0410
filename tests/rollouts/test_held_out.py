"""Which rollouts are left out of training, and batches of the others."""

import dataclasses

import numpy as np
import pytest
from support import rows

from dinado_jax.config.schema import Train
from dinado_jax.data.batch import batches_in
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.rollouts.arrays import concatenate, select
from dinado_jax.rollouts.held_out import held_out_rows, of_rows


def rollouts(texts, samples=2, first=0):
    """Rows of prompts whose one token is their text's number."""
    found = rows.rollouts(len(texts) * samples)
    tokens, texts = found.tokens.copy(), np.repeat(texts, samples)
    tokens[:, 0] = texts
    return dataclasses.replace(
        found,
        tokens=tokens,
        prompt_length=np.ones_like(found.length),
        prompt_id=first + np.repeat(np.arange(len(texts) // samples), samples).astype(np.int32),
        label=np.float32(np.arange(len(found)) % 2),
    )


@pytest.mark.parametrize(
    "share, count, wanted",
    [(0.1, 30, [9, 19, 29]), (0.25, 9, [3, 7]), (0.5, 4, [1, 3]), (0.3, 10, [3, 6, 9]), (0, 5, [])],
)
def test_a_share_of_the_prompts_with_all_their_rows(share, count, wanted):
    found = held_out_rows(rollouts(range(count)), share)
    np.testing.assert_array_equal(found, np.isin(np.repeat(np.arange(count), 2), wanted))


def test_a_prompt_that_comes_again_is_treated_as_at_first():
    first = rollouts([5, 6, 7, 8, 5])
    both = concatenate([first, rollouts([8, 9, 6, 1, 2, 3, 8], first=5)], 0)
    found = held_out_rows(both, 0.25)
    held = np.unique(both.tokens[found, 0])
    np.testing.assert_array_equal(held, [3, 8])  # the fourth and the eighth, of eight
    np.testing.assert_array_equal(found, np.isin(both.tokens[:, 0], held))
    np.testing.assert_array_equal(held_out_rows(first, 0.25), found[:10])


def test_a_prompt_has_no_order_but_that_of_its_number():
    both = rollouts(range(8))
    order = np.random.default_rng(0).permutation(len(both))
    wanted = held_out_rows(both, 0.25)[order]
    np.testing.assert_array_equal(held_out_rows(select(both, order), 0.25), wanted)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_batches_of_some_rows_have_no_other_and_keep_their_numbers(name):
    both, weight = rollouts(range(12), samples=8), np.ones(96, np.float32)
    chosen = np.flatnonzero(~held_out_rows(both, 0.25))
    objective = OBJECTIVES[name](Train(batch=64))
    batch_at, seen = of_rows(objective.batches, both, weight, 0, chosen), set()
    for step in range(6):
        for part in batches_in(batch_at(step)):
            width = part.tokens.shape[1]
            np.testing.assert_array_equal(part.tokens, both.tokens[part.row, :width])
            assert part.row.dtype == np.int32
            seen |= set(part.row.tolist())
    assert seen <= set(chosen.tolist()) and max(seen) > len(chosen)
