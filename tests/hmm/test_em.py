"""EM: what it promises, and what it finds."""

import itertools

import jax
import numpy as np
import pytest
from support.hmm import sample

from dinado_jax.config.schema import Parallel
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.hmm import em
from dinado_jax.hmm.model import Hmm, Rows, random_hmm

pytestmark = pytest.mark.usefixtures("compiled_quickly")
V, STOP = 6, 5
ONE = Parallel(devices=1)


def epochs(hmm, rows, count, settings=ONE, size=512, pseudocount=0.0):
    """The models, and the log-likelihood of the rows before each epoch."""
    plan = make_plan(settings)
    step, found = em.make_step(plan), []
    for _ in range(count):
        new, total = em.epoch(step, plan, hmm, rows, size, pseudocount)
        found.append((hmm, total))
        hmm = new
    return found


def by_hand(hmm, rows):
    """Expected counts and log-likelihoods by the sum over all paths, float64."""
    H = hmm.states
    initial, transition, emission = (np.float64(x) for x in jax.tree.leaves(hmm))
    counts, logs = [np.zeros(H), np.zeros((H, H)), np.zeros(emission.shape)], []
    for row, length in zip(rows.tokens, rows.length):
        tokens, total, own = row[:length], 0.0, [np.zeros_like(each) for each in counts]
        for path in itertools.product(range(H), repeat=int(length)):
            prob = initial[path[0]] * np.prod(emission[tokens, path])
            prob *= np.prod(transition[path[:-1], path[1:]])
            own[0][path[0]] += prob
            np.add.at(own[1], (path[:-1], path[1:]), prob)
            np.add.at(own[2], (tokens, path), prob)
            total += prob
        counts = [count + each / total for count, each in zip(counts, own)]
        logs.append(np.log(total))
    return counts, np.array(logs)


def test_posteriors_are_the_expected_counts_of_each_token():
    hmm = random_hmm(3, V, 1)
    rows = sample(hmm, 7, 4, STOP)
    inside = np.arange(4)[None] < rows.length[:, None]
    found = np.asarray(em.posteriors(hmm, rows.tokens, inside))
    np.testing.assert_allclose(found.sum(-1), inside, atol=1e-5)
    emission = np.zeros((V, 3))
    np.add.at(emission, rows.tokens, found)
    np.testing.assert_allclose(emission, by_hand(hmm, rows)[0][2], atol=1e-4)


def test_expected_counts_are_sums_over_all_paths():
    """Of rows of different lengths, the shortest with one token."""
    hmm = random_hmm(3, V, 0, 2.0)
    tokens = np.random.default_rng(0).integers(0, V, (5, 5)).astype(np.int32)
    rows = Rows(tokens, np.array([5, 1, 3, 4, 2], np.int32))
    wanted, logs = by_hand(hmm, rows)
    counts, found = jax.jit(em.expected_counts)(hmm, *rows.take(np.arange(5), 6))
    for one, other in zip(jax.tree.leaves(counts), wanted):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:5], logs, rtol=1e-5)
    assert found[5] == 0  # a row that fills the batch
    log_probs = em.log_probs(hmm, rows, 2)
    np.testing.assert_allclose(log_probs.sum(1), logs, rtol=1e-5)


def test_an_epoch_never_lowers_the_likelihood():
    rows = sample(random_hmm(4, V, 1, 3.0), 300, 8, STOP)
    totals = [total for _, total in epochs(random_hmm(5, V, 2), rows, 25)]
    assert (np.diff(totals) > -1e-6 * abs(totals[0])).all() and totals[-1] > totals[0] + 50


def test_a_known_model_is_recovered():
    """From 20,000 samples, its states in another order."""
    transition = np.float32([[0.8, 0.15, 0.05], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    emission = np.float32(
        [[0.6, 0.3, 0, 0, 0, 0.1], [0, 0.1, 0.7, 0.2, 0, 0], [0, 0, 0, 0.1, 0.7, 0.2]]
    )
    true = Hmm(np.float32([0.7, 0.2, 0.1]), transition, np.ascontiguousarray(emission.T))
    rows = sample(true, 20_000, 10, STOP)
    (found, total) = epochs(random_hmm(3, V, 0), rows, 120, size=4096)[-1]
    ((_, of_truth),) = epochs(true, rows, 1, size=4096)
    assert abs(total / of_truth - 1) < 0.005

    def distance(order):
        order = list(order)
        moved = found.transition[np.ix_(order, order)], found.emission[:, order]
        return max(np.abs(a - b).max() for a, b in zip(moved, (transition, emission.T)))

    assert min(map(distance, itertools.permutations(range(3)))) < 0.05


@pytest.mark.parametrize("settings", [Parallel(), Parallel(mode="shard_map")], ids=str)
def test_devices_share_the_rows(settings):
    rows = sample(random_hmm(4, V, 1, 3.0), 300, 8, STOP)
    start = random_hmm(4, V, 2)
    (_, alone), (one, _) = epochs(start, rows, 2, size=100)
    (_, total), (other, _) = epochs(start, rows, 2, settings, size=100)
    assert total == pytest.approx(alone, rel=1e-6)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_pseudocount_leaves_nothing_impossible():
    rows = sample(random_hmm(2, V, 1, 3.0), 20, 4, STOP)
    rows = Rows(np.minimum(rows.tokens, 2), rows.length)
    *_, (without, _) = epochs(random_hmm(3, V, 2), rows, 2)
    *_, (found, _) = epochs(random_hmm(3, V, 2), rows, 2, pseudocount=0.1)
    assert (without.emission[3:] == 0).all() and (found.emission[3:] > 0).all()
    for each in (found, without):
        np.testing.assert_allclose(each.emission.sum(0), 1, rtol=1e-5)
        np.testing.assert_allclose(each.transition.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(each.initial.sum(), 1, rtol=1e-5)
