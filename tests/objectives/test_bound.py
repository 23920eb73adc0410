"""The excess of values over what they can be, by hand in a small world."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from support.enumerated import COUNT, WORLD, at_optimum, case, fresh, noisy

from dinado_jax.config.schema import Train
from dinado_jax.data.batching import take
from dinado_jax.objectives.bound import lost_excess, prefix_excess, value_excess
from dinado_jax.objectives.consistency import ConsistencyBatch
from dinado_jax.objectives.regression import TargetBatch
from dinado_jax.objectives.table import OBJECTIVES

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROWS = take(WORLD.rows, np.arange(COUNT))


@functools.partial(jax.jit, static_argnames="variant")
def excess(params, log_rate, variant="merge", rows=ROWS, excluded=None):
    one = case(variant)
    scalars = one.control.step_inputs(one.base_params, params, rows).scalars
    if excluded is not None:
        scalars = scalars._replace(excluded=excluded)
    return value_excess(scalars, log_rate, rows)


@functools.partial(jax.jit, static_argnames="variant")
def lost(params, excluded, log_rate, variant="merge"):
    one = case(variant)
    scalars = one.control.step_inputs(one.base_params, params, ROWS).scalars
    given = scalars._replace(excluded=excluded), log_rate, ROWS
    return lost_excess(*given), prefix_excess(*given)


def constant(log_rate):
    return np.full(COUNT, log_rate, np.float32)


def judged(kind, log_rate, **others):
    """The rows as a batch of regression, or of what extends it."""
    some = constant(0.5)
    return kind(
        **vars(ROWS),
        label=some,
        target=some - 2,
        log_rate=log_rate,
        optimal_ratio=some,
        log_proposal=some - 3,
        **others,
    )


def log_ratios(params):
    """log q / p of every next token after every prefix of every row: float64 [S, T-1, V]."""
    tilted = np.float64(WORLD.tables() + params["direction"])
    log_q = tilted - np.log(np.exp(tilted).sum(0))
    return np.moveaxis(log_q - WORLD.tables(), 0, 1)[WORLD.prefix]


def by_hand(params, log_rate):
    """In plain loops: Huber's loss of what the highest value after each prefix exceeds 1 by; of
    later tokens e.
    """
    ratios, total = log_ratios(params), np.zeros(COUNT)
    for row in range(COUNT):
        log_value = log_rate[row]
        for column in np.flatnonzero(WORLD.inside[row]):
            over = max(log_value + ratios[row, column].max() - (column > 0), 0)
            total[row] += over**2 / 2 if over <= 1.5 else 1.5 * (over - 0.75)
            log_value += ratios[row, column, WORLD.rows.tokens[row, column + 1]]
    return total


@pytest.mark.parametrize("log_rate", [-0.2, -0.9])
def test_the_excess_by_hand(log_rate):
    params, rate = noisy(4.0, seed=4), constant(log_rate)
    wanted = by_hand(params, rate)
    assert (wanted > 1.5).any() and (wanted.all() == (log_rate > -0.5))
    np.testing.assert_allclose(excess(params, rate), wanted, rtol=1e-4, atol=1e-5)


def test_nothing_counts_beyond_the_end_of_a_row():
    """Cut to one target, a row has the excess of the prompt alone, the same for all."""
    cut = dataclasses.replace(ROWS, length=ROWS.prompt_length + 1)
    params, rate = noisy(4.0, seed=4), constant(-0.1)
    over = rate[0] + log_ratios(params)[0, 0].max()
    assert over > 0
    np.testing.assert_allclose(excess(params, rate, rows=cut), np.full(COUNT, over**2 / 2), 1e-4)


@pytest.mark.parametrize("variant", ["merge", "soft", "nado"])
def test_the_base_and_the_optimum_have_none(variant):
    rate = constant(np.log(case(variant).optimum.rate))
    np.testing.assert_allclose(excess(fresh(variant), rate, variant), np.zeros(COUNT), atol=1e-6)
    optimum = at_optimum(12.0, variant)
    np.testing.assert_allclose(excess(optimum, rate, variant), np.zeros(COUNT), atol=1e-6)


def test_a_token_that_nobody_drew_is_lowered():
    """One row, and a rare token beside it that q has raised too far: descent lowers the token, and
    leaves alone all the prefixes that the row has not.
    """
    row = next(r for r in range(COUNT) if WORLD.inside[r].sum() == 2)
    prefix, drawn = WORLD.prefix[row, 1], WORLD.rows.tokens[row, 2]
    others = np.delete(np.arange(WORLD.vocabulary), drawn)
    other = others[WORLD.tables()[others, prefix].argmin()]
    params = jax.tree.map(np.array, fresh())
    params["direction"][other, prefix] = 2.0
    force = jax.grad(lambda direction: excess({**params, "direction": direction}, constant(0))[row])
    pulled = np.asarray(force(params["direction"]))
    assert pulled[other, prefix] > 0 > pulled[drawn, prefix]
    assert not np.any(np.delete(pulled, prefix, axis=1))


def some_excluded():
    """Sums of p over tokens that R would exclude, [S, T-1]: 0 after some prefixes."""
    draws = np.random.default_rng(1).random(WORLD.inside.shape).astype(np.float32)
    return np.where(draws < 0.3, 0, draws)


def huber(over):
    over = max(over, 0)
    return over**2 / 2 if over <= 1.5 else 1.5 * (over - 0.75)


def test_the_excess_of_lost_prefixes_by_hand():
    """Values of prefixes against the base's probability of the tokens that are not excluded."""
    params, rate, excluded = noisy(4.0, seed=4), constant(1.0), some_excluded()
    ratios, wanted = log_ratios(params), np.zeros((2, COUNT))
    for row in range(COUNT):
        log_value, found = rate[row], False
        for column in np.flatnonzero(WORLD.inside[row]):
            over = log_value - np.log(1 - excluded[row, column])
            if excluded[row, column]:
                wanted[1, row] += huber(over - 1)
            if excluded[row, column] > 0.5 and not found:
                wanted[0, row], found = huber(over), True
            log_value += ratios[row, column, WORLD.rows.tokens[row, column + 1]]
    assert (wanted > 1.2).any(1).all() and (wanted == 0).any(1).all()
    np.testing.assert_allclose(lost(params, excluded, rate), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["merge", "soft", "nado"])
def test_the_optimum_has_no_lost_prefix(variant):
    """Where the last token of a failure is known to be impossible."""
    one = case(variant)
    last = np.arange(WORLD.length) == (ROWS.length - 2)[:, None]
    failed = last & (one.optimum.label == 0)[:, None]
    excluded = np.where(failed, probability_of_drawn(), 0).astype(np.float32)
    rate = constant(np.log(one.optimum.rate))
    optimum = at_optimum(12.0, variant)
    none = np.zeros((2, COUNT))
    np.testing.assert_allclose(lost(optimum, excluded, rate, variant), none, atol=1e-6)
    assert (np.asarray(lost(noisy(6.0), excluded, constant(4.0))) > 0.1).any(1).all()


def probability_of_drawn():
    """p of each token of the rows, [S, T-1]."""
    return np.exp(WORLD.tables()[WORLD.rows.tokens[:, 1:], WORLD.prefix])


def test_what_precedes_a_lost_prefix_is_lowered():
    row = next(r for r in range(COUNT) if WORLD.inside[r].sum() == 3)
    params, rate = fresh(), constant(0.0)
    tokens, prefix = WORLD.rows.tokens[row, 1:], WORLD.prefix[row]

    def pulled(which, share):
        excluded = np.zeros(WORLD.inside.shape, np.float32)
        excluded[row, 2] = share

        def penalty(direction):
            return lost({**params, "direction": direction}, excluded, rate)[which][row]

        change = np.asarray(jax.grad(penalty)(params["direction"]))
        assert not change[:, prefix[2]].any()
        return [change[tokens[i], prefix[i]] > 0 for i in (0, 1)]

    everywhere, at_its_last_token = pulled(0, 0.9), pulled(1, 0.9)
    assert everywhere == [True, True] and at_its_last_token == [False, True]
    assert pulled(0, 0.49) == [False, False] and pulled(1, 0.4) == [False, False]


def test_lost_prefixes_are_part_of_the_loss_of_rows():
    one, params, rate = case(), noisy(4.0, seed=4), constant(1.0)
    batch = judged(TargetBatch, rate)
    objective = OBJECTIVES["regression"](Train())
    blind = one.control.step_inputs(one.base_params, params, ROWS)
    assert not blind.scalars.excluded.any()
    stated = blind._replace(scalars=blind.scalars._replace(excluded=some_excluded()))
    extra = np.asarray(objective.loss.losses(stated, batch) - objective.loss.losses(blind, batch))
    less = excess(params, rate) - excess(params, rate, excluded=some_excluded())
    of_all, of_last = lost(params, some_excluded(), rate)
    wanted = of_all + Train().prefix_bound * of_last - Train().bound * less
    np.testing.assert_allclose(extra, wanted, rtol=1e-4, atol=1e-4)


def test_what_is_already_above_its_bound_does_not_count_again():
    """After a prefix whose other tokens are impossible, the base's share of the rest is allowed."""
    params, rate = noisy(4.0, seed=4), constant(3.0)
    nearly = np.where(WORLD.inside, np.float32(1 - 1e-6), 0)
    assert (excess(params, rate) > 1).any()
    ratios = log_ratios(params).max(-1)
    assert ratios[WORLD.inside].max() < -np.log(1e-6)
    np.testing.assert_array_equal(excess(params, rate, excluded=nearly), np.zeros(COUNT))


@pytest.mark.parametrize("name", ["regression", "consistency"])
def test_the_setting_is_its_coefficient(name):
    params, rate = noisy(4.0, seed=4), constant(-0.2)
    batch = judged(ConsistencyBatch, rate, bellman=constant(0.5))

    def loss(bound):
        train, one = Train(bound=bound), case()
        objective = OBJECTIVES[name](train)
        if name == "regression":
            return objective.loss.term(one.control, params, one.base_params, batch).sum
        return objective.terms(one.control, params, one.base_params, batch)["direction"].sum

    wanted = 2 * float(excess(params, rate).sum())
    assert float(loss(2.0) - loss(0.0)) == pytest.approx(wanted, rel=1e-5)
