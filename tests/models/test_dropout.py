"""Dropout sites: in the traced program when asked for, each with its own key, and nowhere else."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, twenty_steps

from dinado_jax.models.dropout import Dropout, uniform
from dinado_jax.models.params import (
    abstract_params,
    by_path,
    init_params,
    nested,
    param_shapes,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROWS, WIDTH = 3, 8
# Of the Llama: shared heads, a window shorter than the rows, an output head of its own.
MODELS = {"gpt2": tiny.model(), "llama": twenty_steps.LLAMA}


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@functools.cache
def params(name):
    return tiny.noisy(init_params(MODELS[name], 0), 0.1)


def tokens():
    return np.random.default_rng(0).integers(1, tiny.VOCABULARY, (ROWS, WIDTH)).astype(np.int32)


def seeds(step=0):
    return np.random.default_rng((step, 1)).integers(2**32, size=(ROWS, 2), dtype=np.uint32)


def noise(name, rates, step=0):
    """The collection of all sites, those without a rate among them: one program serves all."""
    sites = by_path(uniform(MODELS[name].dropout_sites, 0.5).noise(seeds(step)))
    rated = {
        site: each.replace(rate=np.float32(rates.get(site, 0))) for site, each in sites.items()
    }
    return nested(rated)


@functools.partial(jax.jit, static_argnums=0)
def _logits(name, variables, tokens):
    out = MODELS[name].apply(variables, tokens)
    return out.hidden @ out.vocabulary.T


def logits(name, dropout=None, ids=None):
    variables = {"params": params(name)} | ({} if dropout is None else {"dropout": dropout})
    return np.asarray(_logits(name, variables, tokens() if ids is None else ids))


def draws(name, dropout):
    """How often the traced program draws random bits."""
    shapes = abstract_params(MODELS[name])

    def program(params, tokens, seeds):
        variables = {"params": params, "dropout": dropout.noise(seeds)}
        return MODELS[name].apply(variables, tokens).hidden

    return bits(jax.make_jaxpr(program)(shapes, tokens(), seeds()).jaxpr)


def bits(jaxpr):
    """In a program and those that it calls."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "random_bits"
        for value in equation.params.values():
            for part in value if isinstance(value, (list, tuple)) else [value]:
                inner = getattr(part, "jaxpr", part)
                count += bits(inner) if hasattr(inner, "eqns") else 0
    return count


def test_a_program_draws_once_for_every_site_with_a_rate(name):
    sites = list(MODELS[name].dropout_sites)
    assert len(sites) == 1 + 3 * MODELS[name].num_layers
    assert draws(name, uniform(sites, 0.0)) == 0
    assert draws(name, uniform(sites, 0.1)) == len(sites)
    assert draws(name, Dropout(((sites[0], 0.1), (sites[1], 0.0), (sites[2], 0.2)), True)) == 2


def test_without_a_rate_the_program_is_that_without_dropout(name):
    """And evaluation and decoding pass no noise at all."""

    def program(**more):
        def hidden(params, tokens):
            return MODELS[name].apply({"params": params, **more}, tokens).hidden

        return str(jax.make_jaxpr(hidden)(abstract_params(MODELS[name]), tokens()))

    zero = uniform(MODELS[name].dropout_sites, 0.0, gaussian=True)
    assert program(dropout=zero.noise(seeds())) == program()
    np.testing.assert_array_equal(logits(name, noise(name, {})), logits(name))


def test_every_site_changes_the_output_by_itself(name):
    """A path that no module asks for would be ignored silently."""
    plain, found = logits(name), []
    for site in MODELS[name].dropout_sites:
        found.append(logits(name, noise(name, {site: 0.5})))
        assert np.abs(found[-1] - plain).max() > 1e-3, site
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations(found, 2))


def test_masks_differ_by_site_row_and_step(name):
    sites = MODELS[name].dropout_sites
    masks = [
        row
        for step in (0, 1)
        for each in by_path(uniform(sites, 0.5).noise(seeds(step))).values()
        for row in np.asarray(each(jnp.ones((ROWS, 64))))
    ]
    assert len(masks) == 2 * len(sites) * ROWS
    assert len({row.tobytes() for row in masks}) == len(masks)


def test_noise_of_a_row_does_not_depend_on_the_rows_beside_it():
    """So it does not on devices and micro-batches."""
    x = np.random.default_rng(0).standard_normal((ROWS, 50)).astype(np.float32)
    whole, part = (uniform(["site"], 0.3).noise(each)["site"] for each in (seeds(), seeds()[1:]))
    np.testing.assert_array_equal(whole(x)[1:], part(x[1:]))


@pytest.mark.parametrize("gaussian", [False, True])
def test_factors_have_mean_one_and_the_same_variance(gaussian):
    rate, rows = 0.25, 400
    drawn = np.random.default_rng(0).integers(2**32, size=(rows, 2), dtype=np.uint32)
    factors = uniform(["site"], rate, gaussian).noise(drawn)["site"](jnp.full((rows, 500), 3.0))
    factors = np.float64(factors) / 3
    count, variance = factors.size, rate / (1 - rate)
    assert abs(factors.mean() - 1) < 4 * (variance / count) ** 0.5
    # The fourth moment of either kind is below 4 variance^2.
    assert abs(factors.var() - variance) < 4 * variance * (4 / count) ** 0.5
    values = np.unique(np.round(factors, 5))
    assert len(values) > 1000 if gaussian else values.tolist() == [0, 1.33333]


def test_factors_are_independent():
    """Several of them are read from one random word, of which a row may use a part."""
    rows, width = 40_000, 7
    drawn = np.random.default_rng(0).integers(2**32, size=(rows, 2), dtype=np.uint32)
    factors = np.float64(uniform(["site"], 0.5).noise(drawn)["site"](jnp.ones((rows, width))))
    correlations = np.corrcoef(factors.T) - np.eye(width)
    assert np.abs(correlations).max() < 4.5 * rows**-0.5


@pytest.mark.parametrize("rate", [1 / 256, 0.3, 255 / 256, 0.9999])
def test_rates_are_multiples_of_one_in_256(rate):
    drawn = np.random.default_rng(0).integers(2**32, size=(400, 2), dtype=np.uint32)
    factors = np.float64(uniform(["site"], rate).noise(drawn)["site"](jnp.ones((400, 500))))
    levels = min(round(256 * rate), 255)
    assert np.unique(factors).tolist() == [0, pytest.approx(256 / (256 - levels))]
    kept = 1 - levels / 256
    assert abs((factors > 0).mean() - kept) < 4 * (kept * (1 - kept) / factors.size) ** 0.5


def test_explicit_attention_is_the_fused_one(name):
    """Normal factors of a deviation of 1e-6 leave probabilities as they are."""
    sites = [site for site in MODELS[name].dropout_sites if site.endswith("probs")]
    assert len(sites) == MODELS[name].num_layers
    found = logits(name, uniform(sites, 1e-12, gaussian=True).noise(seeds()))
    np.testing.assert_allclose(found, logits(name), rtol=0, atol=1e-4)
    assert (found != logits(name)).any()


def test_no_position_sees_a_later_one(name):
    changed, dropout = tokens(), noise(name, dict.fromkeys(MODELS[name].dropout_sites, 0.3))
    changed[:, 5:] = changed[:, 5:] % (tiny.VOCABULARY - 1) + 1
    before, after = logits(name, dropout), logits(name, dropout, changed)
    np.testing.assert_allclose(before[:, :5], after[:, :5], rtol=0, atol=1e-5)
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


def test_blocks_that_are_computed_again_take_the_same_noise():
    """base.remat."""
    dropout = noise("llama", dict.fromkeys(MODELS["llama"].dropout_sites, 0.3))
    model = MODELS["llama"].replace(remat=True)

    @jax.jit
    def hidden(variables):
        out = model.apply(variables, tokens())
        return out.hidden @ out.vocabulary.T

    found = hidden({"params": params("llama"), "dropout": dropout})
    np.testing.assert_allclose(found, logits("llama", dropout), rtol=0, atol=1e-5)


def test_activations_keep_their_precision(name):
    model = MODELS[name].replace(dtype="bfloat16")

    def hidden(params):
        noisy = uniform(model.dropout_sites, 0.3).noise(seeds())
        return model.apply({"params": params, "dropout": noisy}, tokens()).hidden

    assert jax.eval_shape(hidden, abstract_params(model)).dtype == jnp.bfloat16


def test_sites_name_parameters_of_their_model(name):
    paths, groups = param_shapes(MODELS[name]), MODELS[name].dropout_sites
    named = {s: [p for p in paths if re.fullmatch(group, p)] for s, group in groups.items()}
    assert all(named.values())
    assert len(set(itertools.chain(*named.values()))) == sum(map(len, named.values()))
