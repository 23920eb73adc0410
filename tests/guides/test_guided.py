"""Decoding under controls against brute force: enumerated distributions, 100k draws at a time."""

import dataclasses
import functools
import operator

import jax
import numpy as np
import pytest
from support import tiny, world
from support.world import DISTINCT, EOS, MODEL, PROMPTS, N, V

from dinado_jax import language_model as base
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.data.sequences import pad
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.errors import InputError
from dinado_jax.guides.prompt_values import prompt_values
from dinado_jax.guides.protocol import NextValues
from dinado_jax.guides.tilt import PromptValue, Tilt, apply_tilt
from dinado_jax.models.tokenizer import train_codec
from dinado_jax.ops import bernoulli

pytestmark = pytest.mark.usefixtures("compiled_quickly")

DRAWS = 34_000  # of each of the three prompts
BATCH = Prompts(pad(PROMPTS, EOS, 4), np.int32([len(prompt) for prompt in PROMPTS]))


def controlled(kind, seed=0, params=None, of=None, **tilt):
    of = of or base.Base(MODEL, world.base_params(), None)
    params = world.params(kind, seed=seed) if params is None else params
    model = base.Controlled(of, world.control(kind), params)
    return model.tilted(**tilt) if tilt else model


def factors(model):
    """log p of every next token after every prefix, and what guides add to it, by the definition:
    a pair of tables a prompt."""
    parts = model.parts if isinstance(model, base.Composed) else (model,)
    for prompt in PROMPTS:
        added = []
        for part in parts:
            given = world.exact(part.control, part.base.params, part.params, prompt)
            log_p, log_v, log_r = given
            tilt = part.tilt
            added.append(world.tilted(log_r, log_v, tilt.strength, tilt.target_rate, tilt.reject))
        yield log_p, functools.reduce(operator.add, added)


def exact_tables(model):
    """log q of every next token after every prefix: one table a prompt."""
    return [world.log_softmax(log_p + added) for log_p, added in factors(model)]


def drawn(model, method=None, samples=DRAWS, seed=5):
    """[prompts, samples, N] tokens, from one call."""
    sampler = Sampler(model.policy, method or Method(), (EOS,), N, samples)
    ids, key = np.arange(len(PROMPTS), dtype=np.int32), jax.random.key(seed)
    out = jax.device_get(sampler(model.variables, BATCH, ids, key))
    return out.tokens.reshape(-1, samples, N), out.log_probs.sum(1).reshape(-1, samples)


def assert_draws_follow(model, tables, samples=DRAWS, seed=5):
    """And carry the log-probability they were drawn with."""
    tokens, log_probs = drawn(model, samples=samples, seed=seed)
    for table, rows, scores in zip(tables, tokens, log_probs, strict=True):
        outcomes = world.sequence_probs(table)
        probs, found = np.array(list(outcomes.values())), world.outcome_numbers(rows, outcomes)
        assert world.p_value_of_numbers(found, probs) > 1e-4
        np.testing.assert_allclose(scores, np.log(probs[found]), rtol=0, atol=2e-4)


def moved(tables):
    """How far from the base, in total variation of the first token."""
    for prompt, table in zip(PROMPTS, tables):
        log_p, *_ = world.exact(world.control("merge"), world.base_params(), FRESH, prompt)
        yield 0.5 * np.abs(np.exp(table[0, 0]) - np.exp(log_p[0, 0])).sum()


FRESH = world.fresh("merge")
TILTS = {
    "merge": [{"strength": 0.5}, {"reject": 0.5}],
    "projected-nado": [{"target_rate": 0.3}],
    "soft-low_rank": [{"strength": 2.0}, {"strength": 1.5, "target_rate": 0.6, "reject": 0.3}],
    "clamped-merge": [{"target_rate": 0.9}],
}


@pytest.mark.parametrize("kind", DISTINCT)
def test_samples_of_every_kind(kind):
    model = controlled(kind)
    tables = exact_tables(model)
    assert max(moved(tables)) > 0.05
    for seed in (5, 6):
        assert_draws_follow(model, tables, seed=seed)


@pytest.mark.parametrize("kind", ["nado", "merge"])
def test_greedy_takes_the_likeliest_token(kind):
    model = controlled(kind)
    tokens, log_probs = drawn(model, Method(temperature=0), samples=2)
    for table, rows in zip(exact_tables(model), tokens, strict=True):
        wanted, row = [], 0
        for t in range(N):
            token = EOS if EOS in wanted else int(table[row, t].argmax())
            wanted.append(token)
            row += token * V ** (N - 1 - t)
        np.testing.assert_array_equal(rows, [wanted, wanted])
    assert (log_probs == 0).all()


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(policy, variables, batch):
    return policy.log_probs(variables, batch)


def scored(model, prompt=PROMPTS[0]):
    """Forced decoding: log q of every next token of every continuation."""
    out = _log_probs(model.policy, model.variables, world.batch(prompt))
    return np.asarray(out)[:, world.targets(prompt)]


def taken(table):
    return np.take_along_axis(table, world.CONTINUATIONS[..., None], 2)[..., 0]


# Zeros of a rejected token come as -inf on both sides.
@pytest.mark.parametrize("kind, tilt", [(kind, tilt) for kind in TILTS for tilt in TILTS[kind]])
def test_scores_of_tilted_controls(kind, tilt):
    model = controlled(kind, **tilt)
    found, wanted = scored(model), taken(exact_tables(model)[0])
    # After a token that is never drawn anything may follow.
    reached = np.cumsum(np.isneginf(wanted), axis=1) <= np.isneginf(wanted)
    np.testing.assert_allclose(found[reached], wanted[reached], rtol=0, atol=1e-4)


def test_strength_0_is_the_base_and_1_the_control():
    model = controlled("soft-small", strength=0)
    np.testing.assert_allclose(scored(model), scored(model.base), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(
        scored(controlled("soft-small", strength=1.0)), scored(controlled("soft-small"))
    )


def test_a_rate_of_1_is_the_control_and_the_value_of_the_prompt_the_base():
    """rho(R) is R / R0 at r = 1, and 1 for every R at r = R0."""
    params = {**world.params("merge"), "norm": FRESH["norm"]}
    model = controlled("merge", params=params)
    _, log_v, _ = world.exact(model.control, model.base.params, params, PROMPTS[0])
    start = float(np.exp(log_v[0, 0]))
    np.testing.assert_allclose(
        scored(model.tilted(target_rate=start)), scored(model.base), rtol=0, atol=1e-4
    )
    near = scored(model.tilted(target_rate=1 - 1e-6))
    np.testing.assert_allclose(near, scored(model), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_where_r_is_exact_the_rate_is_met_exactly(rate):
    """p and an oracle at random, R* by summation backwards; q by the tilt, its success by hand."""
    rng = np.random.default_rng(0)
    rows = world.CONTINUATIONS
    log_p = np.zeros((len(rows), N, V))
    value = rng.integers(0, 2, [V] * N).astype(float)  # C of every outcome
    log_r, log_v = np.zeros_like(log_p), np.zeros(log_p.shape[:2])
    for t in reversed(range(N)):
        prefix = tuple(rows[:, :t].T)
        p = rng.dirichlet(np.ones(V), [V] * t)
        log_p[:, t], log_r[:, t] = np.log(p[prefix]), np.log(np.maximum(value[prefix], 1e-30))
        value = (p * value).sum(-1)
        log_v[:, t] = np.log(np.maximum(value[prefix], 1e-30))
    start = log_v[:, 0]
    drawn_r = taken(log_r)[:, -1]
    tilt = Tilt(target_rate=rate)
    start32 = PromptValue(np.float32(start), bernoulli.logit(np.float32(start)))

    def added(t):
        logs = np.float32(log_v[:, t]), np.float32(log_r[:, t])
        values = NextValues(*logs, *map(bernoulli.logit, logs))
        return np.asarray(apply_tilt(tilt.flags, tilt.numbers, values, start32))

    added = np.stack([added(t) for t in range(N)], axis=1)
    log_q = taken(world.log_softmax(log_p + np.maximum(added, -80)))
    success = np.exp(log_q.sum(1))[drawn_r > -1].sum()
    assert 0.2 < np.exp(start[0]) < 0.8
    assert success == pytest.approx(rate, abs=2e-5)


@pytest.mark.parametrize("rate", [1e-12, 0.5, 1 - 2**-20])
def test_a_rate_aimed_at_where_a_token_all_but_surely_succeeds(rate):
    """nado: log(1 - R) comes from the logits, of the prompt too."""
    odds = np.float32([[40.0, 25.0, 18.0, 9.0, -30.0]])
    start = PromptValue(np.float32([-np.log1p(np.exp(-20.0))]), np.float32([20.0]))
    values = NextValues(None, np.float32(-np.logaddexp(0, -odds)), None, odds)
    tilt = Tilt(target_rate=rate)
    found = np.asarray(apply_tilt(tilt.flags, tilt.numbers, values, start))
    success, failure = (-np.logaddexp(0, -s * np.float64(odds)) for s in (1, -1))
    success += np.log(rate) + np.log1p(np.exp(-20.0))
    failure += np.log1p(-rate) + np.logaddexp(0, 20.0)
    np.testing.assert_allclose(found, np.logaddexp(success, failure), rtol=1e-5, atol=1e-5)


def programs():
    """How many are compiled."""
    return [f._cache_size() for f in (Sampler.prefill, Sampler.decode, _log_probs)]


@pytest.mark.parametrize("kind", ["nado", "merge"])
def test_samples_and_scores_of_tilts_whose_numbers_compile_nothing(kind):
    model = controlled(kind, strength=0.5, target_rate=0.6, reject=0.2)
    first = drawn(model, samples=12_000), scored(model)
    before = programs()
    other = model.tilted(strength=0.7, target_rate=0.8, reject=0.05)
    assert_draws_follow(other, exact_tables(other), 12_000)
    found, wanted = scored(other), taken(exact_tables(other)[0])
    assert programs() == before
    reached = np.cumsum(np.isneginf(wanted), axis=1) <= np.isneginf(wanted)
    np.testing.assert_allclose(found[reached], wanted[reached], rtol=0, atol=1e-4)
    both = np.isfinite(found) & np.isfinite(first[1])
    assert np.abs(found[both] - first[1][both]).max() > 0.05
    again = drawn(model, samples=12_000)
    np.testing.assert_array_equal(again[0], first[0][0])
    assert programs() == before


def test_other_numbers_of_composed_tilts_compile_nothing():
    parts = controlled("soft-small", strength=0.5), controlled("nado", seed=1, target_rate=0.6)
    scored(base.compose(*parts))
    before = programs()
    other = base.compose(parts[0].tilted(strength=3.0), parts[1].tilted(target_rate=0.0))
    wanted = taken(exact_tables(other)[0])
    np.testing.assert_allclose(scored(other), wanted, rtol=0, atol=2e-4)
    assert programs() == before


def test_a_neutral_tilt_adds_nothing_to_a_program_but_its_strength():
    model = controlled("nado")
    assert model.policy == model.tilted(strength=1, target_rate=1.0, reject=0).policy
    assert model.variables["tilts"] == ({"strength": 1.0},)


def test_tilted_models_of_a_single_pass_share_a_program_too():
    model = controlled("merge", strength=0.5)
    neutral = model.tilted(strength=1.0)
    assert neutral.policy == model.policy
    alone = dataclasses.replace(neutral, beside_base=False)
    assert alone.policy != neutral.policy
    np.testing.assert_allclose(scored(neutral), scored(alone), rtol=0, atol=1e-4)


# Several controls


def test_samples_of_two_controls_of_different_strengths():
    parts = controlled("projected-soft"), controlled("nado", seed=1, strength=0.5)
    model = base.compose(*parts)
    assert_draws_follow(model, exact_tables(model))


def test_a_neutral_control_changes_nothing():
    one = controlled("soft-small")
    neutral = controlled("merge", params=FRESH)
    for parts in ((one, neutral), (neutral, one), (one,)):
        np.testing.assert_allclose(scored(base.compose(*parts)), scored(one), rtol=0, atol=1e-4)
    alone = scored(base.compose(neutral))
    np.testing.assert_allclose(alone, scored(neutral.base), rtol=0, atol=1e-4)


def test_a_merged_control_is_a_base_for_the_next():
    first = controlled("merge")
    second = controlled("projected-merge", seed=2, of=first.as_base())
    np.testing.assert_allclose(scored(second.base), scored(first), rtol=0, atol=1e-4)
    assert_draws_follow(second, exact_tables(second))


def test_what_cannot_be_composed_or_be_a_base():
    merged = controlled("merge")
    for model in (controlled("nado"), controlled("projected-merge"), merged.tilted(strength=2)):
        with pytest.raises(InputError, match=r"^only a merge control[^\n]*$"):
            model.as_base()
    with pytest.raises(InputError, match=r"^compose needs[^\n]*$"):
        base.compose()
    other = base.Base(MODEL, tiny.noisy(world.base_params(), 0.1), None)
    with pytest.raises(InputError, match=r"^these controls have different bases[^\n]*$"):
        base.compose(merged, controlled("merge", of=other))
    with pytest.raises(InputError, match=r"^these controls have different bases[^\n]*$"):
        base.compose(merged, controlled("merge", of=merged.as_base()))
    templated = dataclasses.replace(
        merged.base, known=train_codec(["a dog"], 257).with_template("Q {prompt}")
    )
    with pytest.raises(InputError, match=r"^these controls have different prompt templates[^\n]*$"):
        base.compose(merged, dataclasses.replace(merged, base=templated))


@pytest.mark.parametrize(
    "bad",
    [
        {"strength": -0.1},
        {"strength": float("nan")},
        {"strength": float("inf")},
        {"strength": "strong"},
        {"target_rate": 1.1},
        {"target_rate": -0.1},
        {"target_rate": float("nan")},
        {"reject": 1.0},
        {"reject": -0.5},
        {"reject": float("nan")},
    ],
)
def test_tilts_that_are_refused(bad):
    (name,) = bad
    with pytest.raises(InputError, match=rf"^{name}[^\n]*$"):
        controlled("nado").tilted(**bad)


@pytest.mark.parametrize("kind", ["merge", "projected-nado"])
def test_values_of_prompts_batch_by_batch(kind):
    model, prompts = controlled(kind), TokenizedPrompts(PROMPTS)
    given = (MODEL, model.control, model.base.params, model.params)
    values = prompt_values(*given, prompts, fill=EOS, batch=2)
    for prompt, value in zip(PROMPTS, values, strict=True):
        _, log_v, _ = world.exact(model.control, model.base.params, model.params, prompt)
        assert value == pytest.approx(np.exp(log_v[0][0]), rel=1e-4)
