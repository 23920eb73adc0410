"""What objectives make of recursive and entangled forms, against exact arithmetic."""

import chex
import numpy as np
import pytest
from support import world

from dinado_jax.config.schema import Train
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.objectives.draws import LabeledBatch, NormBatch
from dinado_jax.objectives.norm import prompt_rate
from dinado_jax.objectives.published import PublishedBatch
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.ops.masks import target_mask

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FORM = "clamped-merge"
LABEL = (np.arange(len(world.CONTINUATIONS)) % 3 == 0).astype(np.float32)


def norm_batch(prompt) -> NormBatch:
    rows = world.batch(prompt)
    ones = np.ones(len(LABEL), np.float32)
    suffix = np.ones((len(LABEL), world.WIDTH - 1), np.float32)
    return NormBatch(
        **vars(rows), label=LABEL, shift=ones, suffix=suffix, rate=0.3 * ones, bellman=ones
    )


def published_batch(prompt, suffix) -> PublishedBatch:
    ones = np.ones(len(LABEL), np.float32)
    return PublishedBatch(
        **vars(world.batch(prompt)), label=LABEL, suffix=np.float32(suffix), bellman=ones
    )


@pytest.mark.parametrize("prompt", world.PROMPTS)
def test_the_rate_is_learned_by_the_value_of_the_prompt(prompt):
    control, params, base = world.control(FORM), world.params(FORM), world.base_params()
    _, log_value, _ = world.exact(control, base, params, prompt)
    value, weight = np.exp(log_value[0, 0]), np.where(LABEL > 0, 1.0, np.e)
    term = prompt_rate(control, params, base, norm_batch(prompt))
    entropy = -(0.3 * np.log(value) + 0.7 * np.log1p(-value))
    assert float(term.weight) == pytest.approx(weight.sum(), rel=1e-5)
    assert float(term.sum) == pytest.approx(weight.sum() * entropy, rel=1e-4)


@pytest.mark.parametrize("detach", [True, False])
def test_recursive_forms_learn_more_than_the_rate_only_if_nothing_is_detached(detach):
    norm = norm_batch([0, 3])
    successes = LabeledBatch(**vars(world.batch([0, 3])), label=LABEL)
    objective = OBJECTIVES["matching"](Train(detach=detach))
    batch = TwoPartBatch(direction=successes, norm=norm)
    terms = objective.terms(world.control(FORM), world.params(FORM), world.base_params(), batch)
    assert terms.keys() == {"direction", *(["rate"] if detach else ["rate", "value", "terminal"])}


@pytest.mark.parametrize("kind", ["nado", FORM])
def test_published_labels_every_prefix_weighted_by_what_follows(kind):
    """BCE(R after each token, C), each with the weight of its suffix."""
    control, base = world.control(kind), world.base_params()
    params, prompt = world.params(kind, scale=0.05), [0, 3]
    suffix = np.random.default_rng(0).uniform(0.5, 2, (len(LABEL), world.WIDTH - 1))
    batch = published_batch(prompt, suffix)
    _, _, log_after = world.exact(control, base, params, prompt)
    drawn = np.take_along_axis(log_after, world.CONTINUATIONS[..., None], 2)[..., 0]
    after = np.exp(drawn)
    assert after.max() < 0.99
    entropy = -(LABEL[:, None] * np.log(after) + (1 - LABEL[:, None]) * np.log1p(-after))
    wanted = (suffix[:, world.targets(prompt)] * entropy).sum()
    terms = OBJECTIVES["published"](Train()).terms(control, params, base, batch)
    assert ("bellman" in terms) == (kind == "nado")
    inside = target_mask(batch).sum()
    assert inside == len(LABEL) * world.N
    assert float(terms["prefixes"].sum) == pytest.approx(wanted, rel=1e-4)
    chex.assert_tree_all_finite(terms)


def test_the_split_form_is_labelled_at_the_end_alone():
    params = world.params("merge")
    batch = published_batch([0, 3], np.ones((len(LABEL), world.WIDTH - 1)))
    terms = OBJECTIVES["published"](Train()).terms(
        world.control("merge"), params, world.base_params(), batch
    )
    assert terms.keys() == {"terminal", "bellman"}
