"""Weights, rates and shares of rollouts whose prompts, lengths and weights all differ, against the
same written out row by row."""

import dataclasses

import numpy as np
import pytest
from support import by_hand, uneven

from dinado_jax.rollouts.weighting import (
    align_to_targets,
    duplicate_share,
    effective_sample_size,
    exclusive_cumsum,
    importance_weights,
    log_mixture_weight,
    normalize_per_prompt,
    optimal_ratio,
    success_rate,
    success_rate_per_prompt,
    suffix_importance_weights,
    sum_per_prompt,
)

SEEDS = range(6)
seeds = pytest.mark.parametrize("seed", SEEDS)


@seeds
@pytest.mark.parametrize("mode", ["importance", "none"])
@pytest.mark.parametrize("clip, reference_weight", [(0.6, 0.0), (0.85, 3.0), (1.0, 0.4)])
def test_importance_weights(seed, mode, clip, reference_weight):
    rows = uneven.rollouts(seed)
    wanted = by_hand.importance(rows, mode, clip, reference_weight)
    found = importance_weights(rows, mode, clip, reference_weight)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert (found[-4:] == np.float32(reference_weight)).all()


@seeds
@pytest.mark.parametrize("mode", ["importance", "none"])
def test_suffix_weights(seed, mode):
    rows = uneven.rollouts(seed)
    inside = by_hand.targets(rows)
    wanted, found = by_hand.suffixes(rows, mode), suffix_importance_weights(rows, mode)
    np.testing.assert_allclose(found[inside], wanted[inside], rtol=1e-4)
    assert (found[-4:] == 1).all()


@seeds
def test_the_weight_of_a_whole_row_is_that_of_its_first_suffix(seed):
    """Where nothing is cut and nothing stands before the first token."""
    rows = uneven.rollouts(seed, references=0)
    log_prefix, first = rows.log_prefix.copy(), rows.prompt_length - 1
    log_prefix[np.arange(len(first)), first] = 0
    rows = dataclasses.replace(rows, log_prefix=log_prefix)
    suffix = suffix_importance_weights(rows, "importance")
    whole = importance_weights(rows, "importance", 1.0, 0.0)
    np.testing.assert_allclose(suffix[np.arange(len(first)), first], whole, rtol=1e-4)


@seeds
def test_sums_and_shares_of_prompts(seed):
    rows = uneven.rollouts(seed)
    values = np.random.default_rng(seed).gamma(1, 1, len(rows))
    ids = rows.prompt_id
    wanted = [values[ids == prompt].sum() for prompt in ids]
    np.testing.assert_allclose(sum_per_prompt(values, ids), wanted)
    values[ids == 4] = 0
    share = normalize_per_prompt(values, ids)
    np.testing.assert_allclose(share, by_hand.per_prompt(values, rows))
    assert {p: round(share[ids == p].sum(), 9) for p in (11, 4, 30)} == {11: 1, 4: 0, 30: 1}


@seeds
def test_rates_of_prompts(seed):
    rows = uneven.rollouts(seed)
    found = success_rate_per_prompt(rows)
    np.testing.assert_allclose(found, by_hand.rates(rows), rtol=1e-5)
    np.testing.assert_allclose(success_rate_per_prompt(rows, 0), by_hand.rates(rows, 0), rtol=1e-5)
    assert len(np.unique(found)) == 3
    # References have no part in them.
    other = dataclasses.replace(rows, label=np.where(rows.reference, 1 - rows.label, rows.label))
    np.testing.assert_array_equal(success_rate_per_prompt(other), found)


@seeds
def test_success_rate(seed):
    rows = uneven.rollouts(seed)
    sampled = ~rows.reference
    weight = np.exp(np.float64(rows.log_base - rows.log_proposal)[sampled])
    wanted = (weight * rows.label[sampled]).sum() / weight.sum()
    assert success_rate(rows) == pytest.approx(wanted, rel=1e-5)
    assert wanted != pytest.approx(rows.label[sampled].mean(), rel=1e-2)


@seeds
def test_optimal_ratios(seed):
    """A prompt's shares add up to the number of its samples, references not counted."""
    rows = uneven.rollouts(seed)
    weight = by_hand.importance(rows, "importance", 0.9, 1.3)
    found = optimal_ratio(weight * rows.label, rows.prompt_id, ~rows.reference)
    samples = {11: 5, 4: 2, 30: 9}
    wanted = by_hand.per_prompt(weight * rows.label, rows) * [samples[p] for p in rows.prompt_id]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert not found[rows.prompt_id == 30].any()


@seeds
def test_effective_sample_size(seed):
    weight = np.random.default_rng(seed).gamma(0.5, 1, 17)
    wanted = weight.sum() ** 2 / (weight**2).sum()
    assert effective_sample_size(weight) == pytest.approx(wanted)
    assert effective_sample_size(7 * weight) == pytest.approx(wanted)
    assert wanted < 16


@seeds
@pytest.mark.parametrize("alpha", [0.1, 0.7, 1.0])
def test_weights_of_a_mixture(seed, alpha):
    log_ratio = np.random.default_rng(seed).normal(0, 5, (4, 9))
    found = log_mixture_weight(log_ratio, alpha)
    wanted = -np.log(alpha + (1 - alpha) * np.exp(log_ratio))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.max() <= -np.log(alpha) + 1e-6


@seeds
def test_new_tokens_stand_where_they_are_predicted(seed):
    rows = uneven.rollouts(seed)
    most = int((rows.length - rows.prompt_length).max())
    new = np.random.default_rng(seed).normal(0, 1, (len(rows), most + 2)).astype(np.float32)
    found = align_to_targets(rows, new)
    for n, row in enumerate(found):
        start, end = rows.prompt_length[n] - 1, rows.length[n] - 1
        np.testing.assert_array_equal(row[start:end], new[n, : end - start])
        assert not row[:start].any() and not row[end:].any()
    before = exclusive_cumsum(found)
    for n, row in enumerate(found):
        wanted = [row[:t].sum() for t in range(len(row))]
        np.testing.assert_allclose(before[n], wanted, atol=1e-5)


@seeds
def test_repeated_rows(seed):
    """Of the same prompt, tokens and length; a prompt alone makes no difference elsewhere."""
    rows = uneven.rollouts(seed)
    index = np.array([0, 3, 3, 5, 0, 7, 7, 7])
    tokens, length, ids = rows.tokens[index], rows.length[index], rows.prompt_id[index]
    some = dataclasses.replace(rows, tokens=tokens, length=length, prompt_id=ids)
    assert duplicate_share(some) == pytest.approx(4 / 8)
    other = dataclasses.replace(some, prompt_id=np.arange(8, dtype=np.int32))
    assert duplicate_share(other) == 0
    longer = dataclasses.replace(some, length=np.arange(8, dtype=np.int32) + 5)
    assert duplicate_share(longer) == 0
