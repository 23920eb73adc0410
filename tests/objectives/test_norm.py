"""The norm's losses: prompts' rates. (Values and consistency: test_matching.py.)"""

import dataclasses

import jax
import numpy as np
import pytest
from support import rows

from dinado_jax.config.schema import Train
from dinado_jax.exact.compare import setting
from dinado_jax.exact.world import World
from dinado_jax.objectives.draws import norm_rows
from dinado_jax.objectives.norm import prompt_rate
from dinado_jax.rollouts.weighting import success_rate_per_prompt

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_the_rates_of_prompts_are_learned_without_selection():
    """Rows drawn by label come from lucky prompts more often; their weights undo it."""
    count = 1600
    label = np.random.default_rng(0).random(count) < 0.1
    prompt_id = np.repeat(np.arange(count // 4), 4)
    rollouts = rows.of_probabilities(np.zeros(count), np.zeros(count), label, prompt_id)
    narrow = {"tokens": rollouts.tokens[:, :2], "log_prefix": rollouts.log_prefix[:, :1]}
    rollouts = dataclasses.replace(rollouts, **narrow, length=np.full(count, 2, np.int32))
    at = norm_rows(rollouts, np.ones(count), Train(), 0)
    steps = [at(step, 4000) for step in range(10)]  # which share their draws
    batch = jax.tree.map(lambda *parts: np.concatenate(parts), *steps)
    case = setting("ends", World(vocabulary=3, length=3, rarity=0.15, ends=True), "merge", 0)
    value = 0.3  # of every prefix, under initial parameters
    params = case.control.init(jax.random.key(0), case.base_params, value)
    term = prompt_rate(case.control, params, case.base_params, batch)
    rate = success_rate_per_prompt(rollouts, shrinkage=0)
    entropy = -(rate * np.log(value) + (1 - rate) * np.log1p(-value))
    assert float(term.sum / term.weight) == pytest.approx(entropy.mean(), rel=2e-3)
    assert batch.rate.mean() > 1.05 * rate.mean()
