"""Enumerable worlds: what is known of them, how controls measure there, and what they learn."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chi2
from support import tiny

from dinado_jax.config.schema import Train
from dinado_jax.data.batching import take
from dinado_jax.errors import InputError
from dinado_jax.evaluation.metrics import kl_floor
from dinado_jax.exact import learn as learning
from dinado_jax.exact import measure as measuring
from dinado_jax.exact.compare import VARIANTS, setting
from dinado_jax.exact.measure import evaluate_sequences, measure
from dinado_jax.exact.table import Table
from dinado_jax.exact.world import Optimum, World, prefix_numbers
from dinado_jax.objectives.published import Published, PublishedBatch

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WORLDS = {
    "table": World(vocabulary=3, length=3, rarity=0.1),
    "ends": World(vocabulary=3, length=3, rarity=0.1, ends=True),
}
kinds = pytest.mark.parametrize("kind", WORLDS)
variants = pytest.mark.parametrize("variant", VARIANTS)


@functools.cache
def case(kind, variant="merge"):
    return setting(kind, WORLDS[kind], variant, 0)


def fresh(case):
    return case.control.init(jax.random.key(0), case.base_params, 0.3)


def measured(case, params):
    return measure(case.world, case.optimum, case.control, case.base_params, params)


def sequences(world):
    """Every sequence as a tuple, from the definition."""
    out = set()
    for row in itertools.product(range(world.vocabulary), repeat=world.length):
        out.add(row[: row.index(0) + 1] if world.ends and 0 in row else row)
    return out


def told(world):
    """The sequences as the world has them."""
    return [tuple(row[1:n]) for row, n in zip(world.rows.tokens.tolist(), world.rows.length)]


# The world


@kinds
def test_every_sequence_comes_once(kind):
    world = WORLDS[kind]
    assert len(told(world)) == len(set(told(world))) and set(told(world)) == sequences(world)
    assert (world.rows.tokens[:, 0] == 0).all() and (world.rows.prompt_length == 1).all()
    np.testing.assert_array_equal(world.inside.sum(1), [len(row) for row in told(world)])
    order = np.random.default_rng(0).permutation(len(world.rows))
    np.testing.assert_array_equal(world.index(world.rows.tokens[order]), order)


@kinds
def test_a_prefix_has_one_number_and_a_number_one_prefix(kind):
    world, numbers = WORLDS[kind], {}
    for row, row_numbers in zip(told(world), world.prefix.tolist()):
        for t in range(len(row)):
            numbers.setdefault(row[:t], set()).add(row_numbers[t])
    assert all(len(found) == 1 for found in numbers.values())
    found = [number for (number,) in numbers.values()]
    assert len(set(found)) == len(found) and max(found) < world.prefixes and numbers[()] == {0}
    if not world.ends:
        assert set(found) == set(range(world.prefixes))
    jitted = jax.jit(prefix_numbers, static_argnums=1)(world.rows.tokens, world.vocabulary)
    np.testing.assert_array_equal(jitted[:, :-1], world.prefix)


@kinds
def test_the_tables_are_looked_up(kind):
    """p of whole sequences, and the table model's p of every token, from the tables by hand."""
    world, tables, found = WORLDS[kind], WORLDS[kind].tables(), case(kind)
    np.testing.assert_allclose(np.exp(tables).sum(0), np.ones(world.prefixes), rtol=1e-5)
    number = {row[:t]: n[t] for row, n in zip(told(world), world.prefix) for t in range(len(row))}
    by_hand = [[tables[row[t], number[row[:t]]] for t in range(len(row))] for row in told(world)]
    log_p = np.array([sum(row) for row in by_hand])
    np.testing.assert_allclose(world.log_tabled(), log_p, rtol=1e-5)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-5)
    log_base = evaluate_sequences(world, found.control, found.base_params, fresh(found))[0]
    for row, hand in zip(log_base, by_hand, strict=True):
        np.testing.assert_allclose(row, hand + [0] * (len(row) - len(hand)), rtol=0, atol=1e-5)
    out = Table(world.vocabulary, world.length + 1, world.prefixes).apply(
        {"params": found.base_params}, jnp.asarray(world.rows.tokens)
    )
    wanted = np.moveaxis(tables[:, world.prefix], 0, -1)
    inside = world.inside
    np.testing.assert_allclose(np.asarray(out.logits)[:, :-1][inside], wanted[inside], rtol=1e-5)


@kinds
def test_chosen_sequences_are_evaluated_as_among_all(kind):
    """Fewer than all of them, and more, with repetitions."""
    one = case(kind)
    params = tiny.noisy(fresh(one), 1.0)
    every, count = one.evaluated(params), len(one.world.rows)
    for chosen in (np.array([3, 1, 3]), np.resize(np.arange(count)[::-1], count + 5)):
        for some, all_of_them in zip(one.evaluated(params, chosen), every, strict=True):
            np.testing.assert_allclose(some, all_of_them[chosen], rtol=1e-5, atol=1e-6)


@kinds
def test_the_optimum(kind):
    """R* is the mean label of what may follow, a martingale; q* is at distance -log R0."""
    world, optimum = WORLDS[kind], case(kind).optimum
    p, label, rows = np.exp(optimum.log_p), optimum.label, told(world)
    assert set(label) == {0, 1} and 0.05 < optimum.rate < 0.2
    assert optimum.rate == pytest.approx((p * label).sum())

    @functools.cache
    def mean(prefix):
        under = np.array([row[: len(prefix)] == prefix for row in rows])
        return (p * label)[under].sum() / p[under].sum(), p[under].sum()

    for i, row in enumerate(rows):
        for t in range(len(row)):
            assert optimum.value[i, t] == pytest.approx(mean(row[:t])[0], abs=1e-9)
            assert optimum.after[i, t] == pytest.approx(mean(row[: t + 1])[0], abs=1e-9)
            steps = {other[: t + 1] for other in rows if other[:t] == row[:t] and len(other) > t}
            total = sum(mean(step)[0] * mean(step)[1] for step in steps) / mean(row[:t])[1]
            assert total == pytest.approx(optimum.value[i, t], abs=1e-9)
    assert optimum.q.sum() == pytest.approx(1)
    good = optimum.q > 0
    kl = (optimum.q[good] * (np.log(optimum.q[good]) - optimum.log_p[good])).sum()
    assert kl == pytest.approx(-np.log(optimum.rate))


def test_an_oracle_of_keywords():
    world = World(vocabulary=4, length=3, ends=True, rarity=0.1)
    log_p = world.log_tabled()
    _, label = world.keywords(log_p)
    rates = {}
    for size in (2, 3):
        for wanted in itertools.combinations(range(1, 4), size):
            hit = np.float32([set(wanted) <= set(row) for row in told(world)])
            rates[wanted] = abs(np.log(max((np.exp(log_p) * hit).sum(), 1e-12) / 0.1)), hit
    np.testing.assert_array_equal(label, min(rates.values(), key=lambda found: found[0])[1])


@pytest.mark.parametrize(
    "bad",
    [
        {"vocabulary": 1},
        {"length": 0},
        {"concentration": 0.0},
        {"rarity": 1.0},
        {"rarity": float("nan")},
        {"vocabulary": 100},
    ],
)
def test_worlds_that_are_refused(bad):
    (name,) = bad
    with pytest.raises(InputError, match=rf"^{name}[^\n]*$"):
        World(**bad)


# Measures


def of_values(case, tables):
    """Parameters of a control that say R(prefix, v) = tables [V, P], prompt's R included."""
    tables = np.clip(tables, 1e-11, 1 - 1e-7)
    log_r, top = np.log(tables), tables.max(0)
    if case.control.entangled:
        return {"direction": jnp.float32(log_r - np.log1p(-tables))}
    if case.control.recursive:  # the prompt alone has a norm
        top = np.full_like(top, (np.exp(case.world.tables()[:, 0]) * tables[:, 0]).sum())
    return {"direction": jnp.float32(log_r), "norm": jnp.float32(np.log(top) - np.log1p(-top))}


def after_tables(world, after):
    """R after each token, [S, T-1] -> [V, P]; 1/2 where no sequence leads."""
    out = np.full((world.vocabulary, world.prefixes), 0.5)
    inside = world.inside
    out[world.rows.tokens[:, 1:][inside], world.prefix[inside]] = after[inside]
    return out


@variants
@kinds
def test_the_optimum_itself_measures_as_such(kind, variant):
    one = case(kind, variant)
    figures = measured(one, of_values(one, after_tables(one.world, one.optimum.after)))
    assert figures["satisfaction"] == pytest.approx(1, abs=1e-5)
    assert figures["efficiency"] == pytest.approx(1, abs=1e-4)
    assert figures["kl_to_base"] == pytest.approx(-np.log(one.optimum.rate), abs=1e-4)
    for name in ("total_variation", "kl_optimum", "max_error", "consistency", "bellman"):
        assert abs(figures[name]) < 2e-5, name


@variants
def test_a_fresh_control_measures_as_the_base(variant):
    one = case("ends", variant)
    figures, rate = measured(one, fresh(one)), one.optimum.rate
    assert figures["satisfaction"] == pytest.approx(rate, abs=1e-5)
    assert figures["total_variation"] == pytest.approx(1 - rate, abs=1e-5)
    assert figures["kl_optimum"] == pytest.approx(-np.log(rate), abs=1e-5)
    for name in ("kl_to_base", "kl_floor", "consistency", "bellman"):
        assert abs(figures[name]) < 1e-5, name
    assert np.isnan(figures["efficiency"])


@kinds
def test_figures_of_a_random_control_by_hand(kind, monkeypatch):
    """merge, in float64, prefix by prefix; sequences evaluated a few at a time."""
    monkeypatch.setattr(measuring, "_ROWS", 6)
    one = case(kind)
    world, optimum, params = one.world, one.optimum, tiny.noisy(fresh(one), 1.0)
    log_p = np.float64(world.tables())
    log_q = log_p + np.float64(params["direction"])
    log_p, log_q = (x - np.log(np.exp(x).sum(0)) for x in (log_p, log_q))
    ratio = log_q - log_p
    log_v = -np.logaddexp(0, -np.float64(params["norm"])) - ratio.max(0)
    log_r = log_v + ratio
    q, bellman, errors, gaps, links = [], [], [], [], []
    for i, (row, numbers) in enumerate(zip(told(world), world.prefix)):
        steps = [(token, numbers[t]) for t, token in enumerate(row)]
        q.append(np.exp(sum(log_q[step] for step in steps)))
        links.append(len(row) - 1)
        total = 0.0
        for t, step in enumerate(steps):
            v, r = np.exp(log_v[step[1]]), np.exp(log_r[step])
            errors += [abs(v - optimum.value[i, t]), abs(r - optimum.after[i, t])]
            if t:
                before = np.exp(log_r[steps[t - 1]])
                total += v * np.log(v / before) + (1 - v) * np.log((1 - v) / (1 - before))
                gaps.append(abs(v - before))
        bellman.append(total)
    q, p, label = np.array(q), np.exp(optimum.log_p), optimum.label
    good, satisfied = label > 0, (q * label).sum()
    kl = (q * np.log(q / p)).sum()
    wanted = {
        "satisfaction": satisfied,
        "total_variation": np.abs(q - optimum.q).sum() / 2,
        "kl_optimum": (optimum.q[good] * np.log(optimum.q[good] / q[good])).sum(),
        "kl_to_base": kl,
        "kl_floor": kl_floor(satisfied, optimum.rate),
        "efficiency": kl_floor(satisfied, optimum.rate) / kl,
        "max_error": max(errors),
        "consistency": max(gaps),
        "bellman": (q * bellman).sum() / (q * links).sum(),
    }
    assert q.sum() == pytest.approx(1)
    assert measured(one, params) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@kinds
@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
def test_a_projected_r_is_consistent_at_any_parameters(kind, scale):
    one = case(kind, "hard")
    params = tiny.noisy(fresh(one), scale, seed=2)
    assert measured(one, params)["consistency"] <= 1e-6
    _, ratio, *values, _ = evaluate_sequences(one.world, one.control, one.base_params, params)
    for log_value in values:
        inside = log_value[one.world.inside]
        assert inside.max() <= 0 and np.isfinite(inside).all()
    assert (np.exp(one.optimum.log_p + ratio.sum(1))).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("variant", ["merge", "soft"])
def test_the_published_loss_has_the_optimum_alone(variant):
    """Off-policy and without weights: every sequence, some several times, whatever p says. The
    oracle is of degrees: towards an R* of 0 or 1 log-odds go on for ever."""
    one = case("table", variant)
    world, rng = one.world, np.random.default_rng(0)
    label = rng.uniform(0.01, 0.99, len(world.rows))
    optimum = Optimum.of(world, one.optimum.log_p, np.float32(label))
    chosen = np.repeat(np.arange(len(world.rows)), rng.integers(1, 5, len(world.rows)))
    rows = PublishedBatch(
        **vars(take(world.rows, chosen)),
        label=np.float32(label[chosen]),
        suffix=np.ones((len(chosen), world.length), np.float32),
        bellman=np.ones(len(chosen), np.float32),
    )
    objective = Published(SHORT)

    def loss(params):
        terms = objective.terms(one.control, params, one.base_params, rows).values()
        return sum(term.coefficient * term.sum / term.weight for term in terms)

    adam = optax.adam(optax.exponential_decay(0.3, 300, 0.4))

    @jax.jit
    def trained(params):
        def step(state, _):
            params, moments = state
            updates, moments = adam.update(jax.grad(loss)(params), moments)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, adam.init(params)), length=3000)[0][0]

    params = trained(fresh(one))
    figures = measure(world, optimum, one.control, one.base_params, params)
    assert figures["max_error"] <= 1e-4


# Learning

SHORT = Train(steps=60, batch=32, learning_rate=0.1, warmup=0, clip=0.0, rounds=3, mixture=0.25)


def learned(one, train=SHORT, budget=1000, seed=0, norm_bias="success_rate"):
    return learning.learn(one, train, budget, norm_bias, seed)


def recorded(one):
    """The setting, and what was drawn with it: [(from the base, how many, in which round)]."""
    calls = []

    def draw(params, count, number):
        calls.append((params is None, count, number))
        return one.draw(params, count, number)

    return dataclasses.replace(one, draw=draw), calls


def test_learning_is_a_function_of_the_seed():
    one = case("table")
    first, again, other = (learned(one, seed=seed) for seed in (0, 0, 1))
    assert first[1] == again[1] and first[1] != other[1]
    for leaf, same in zip(*map(jax.tree.leaves, (first[0], again[0])), strict=True):
        np.testing.assert_array_equal(leaf, same)


def test_the_budget_is_what_is_drawn():
    one, calls = recorded(case("table"))
    _, curve = learned(one)
    assert sum(count for _, count, _ in calls) == 1000
    assert [point["rollouts"] for point in curve] == [333, 667, 1000]
    assert [point["steps"] for point in curve] == [20, 40, 60]
    assert calls == [(True, 333, 0), (True, 84, 1), (False, 250, 1), (True, 83, 2), (False, 250, 2)]


@pytest.mark.parametrize("mixture, of_base", [(1.0, True), (0.0, False)])
def test_rounds_of_the_base_or_of_q_alone(mixture, of_base):
    one, calls = recorded(case("table"))
    learned(one, dataclasses.replace(SHORT, mixture=mixture))
    assert [call[0] for call in calls] == [True, of_base, of_base]


@pytest.mark.parametrize("kind, variant", [("table", "merge"), ("ends", "hard")])
def test_learning_reaches_satisfaction(kind, variant):
    one = case(kind, variant)
    train = dataclasses.replace(SHORT, steps=390, batch=64)
    params, curve = learned(one, train, 6000)
    assert curve[-1]["satisfaction"] >= 0.9 > 3 * one.optimum.rate
    assert curve[-1]["kl_optimum"] < 0.3
    figures = measured(one, params)
    assert {name: curve[-1][name] for name in figures} == pytest.approx(figures)
    assert all(np.isfinite(value) for name, value in curve[-1].items() if name.startswith("loss"))


@pytest.mark.parametrize("objective", ["published", "regression", "ratio", "prefixes"])
def test_every_objective_learns(objective):
    train = dataclasses.replace(SHORT, steps=150, objective=objective)
    _, curve = learned(case("table"), train, 3000)
    assert curve[-1]["satisfaction"] > 2.5 * case("table").optimum.rate


def test_without_a_success_the_base_comes_back():
    one = case("table")
    failures = np.flatnonzero(one.optimum.label == 0)

    def draw(params, count, number):
        assert params is None
        index = np.resize(failures, count)
        ratio = np.zeros((count, one.world.length))
        return learning.judged(one.world, one.optimum, index, ratio, 0.0, 0)

    params, (point,) = learned(dataclasses.replace(one, draw=draw))
    assert (point["steps"], point["rollouts"]) == (0, 1000)
    assert point["satisfaction"] == pytest.approx(one.optimum.rate, abs=1e-5)
    assert point["kl_to_base"] == pytest.approx(0, abs=1e-6)
    assert measured(one, params)["total_variation"] == pytest.approx(point["total_variation"])


# Draws


@kinds
def test_draws_follow_q_and_their_weights_the_mixture(kind):
    """Under merge, whose q comes from the tables by hand."""
    one, alpha, count = case(kind), 0.25, 8000
    world, params = one.world, tiny.noisy(fresh(one), 1.0, seed=3)
    log_q = np.float64(world.tables() + params["direction"])
    log_q -= np.log(np.exp(log_q).sum(0))
    tokens = world.rows.tokens[:, 1:]
    by_token = np.where(world.inside, log_q[tokens, world.prefix], 0)
    base = np.where(world.inside, world.tables()[tokens, world.prefix], 0)
    log_q, log_p = by_token.sum(1), one.optimum.log_p

    mixed = learning.draw_round(one, params, count, alpha, 1)
    plain = learning.draw_round(one, params, count, 0.0, 1)
    first = learning.draw_round(one, None, count, alpha, 0)
    wanted = np.logaddexp(np.log(alpha) + log_p, np.log(1 - alpha) + log_q)
    for rows, log_d in ((mixed, wanted), (plain, log_q), (first, log_p)):
        index = world.index(rows.tokens)
        np.testing.assert_allclose(rows.log_proposal, log_d[index], rtol=0, atol=2e-5)
        np.testing.assert_allclose(rows.log_base, log_p[index], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(rows.label, one.optimum.label[index])
        assert follows(index, np.exp(log_d)) > 1e-4
    upto = np.cumsum(by_token - base, axis=1) - (by_token - base)
    index = world.index(mixed.tokens)
    prefix = -np.log(alpha + (1 - alpha) * np.exp(upto))[index]
    np.testing.assert_allclose(mixed.log_prefix, prefix, rtol=0, atol=2e-5)


def follows(index, probs):
    """The p-value of Pearson's chi-square."""
    expected = len(index) * probs / probs.sum()
    found = np.bincount(index, minlength=len(probs))
    often = expected >= 5
    pairs = [
        np.append(x[often], x[~often].sum() + 1e-9 * (~often).any()) for x in (found, expected)
    ]
    keep = pairs[1] > 1e-3
    found, expected = pairs[0][keep], pairs[1][keep]
    return chi2.sf(((found - expected) ** 2 / expected).sum(), len(found) - 1)
