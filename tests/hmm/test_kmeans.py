"""The first counts: those of clusters of the base's hidden states."""

import jax
import numpy as np
import pytest
from support import tiny
from support.refusal import error_of

from dinado_jax.config.schema import Parallel
from dinado_jax.data.sequences import Sequences
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.hmm import em
from dinado_jax.hmm.kmeans import Clustering, first_counts
from dinado_jax.hmm.model import Rows, random_hmm

pytestmark = pytest.mark.usefixtures("compiled_quickly")
N, T, H, STOPS = 100, 10, 6, (3, 7)
ONE = Parallel(devices=1)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, tiny.VOCABULARY, (N, T)).astype(np.int32)
    return Sequences(tokens, np.full(N, 2, np.int32), rng.integers(4, T + 1, N).astype(np.int32))


def counted(rows, begin, states=H, settings=ONE):
    plan = make_plan(settings)
    params = plan.shard(jax.device_get(tiny.base_params()))
    how = Clustering(plan, 32, 0)
    return first_counts(tiny.model(), params, rows, begin, states, STOPS, how)


@pytest.mark.parametrize("begin", [0, 2])
def test_every_token_is_counted_once(rows, begin):
    counts = counted(rows, np.full(N, begin))
    read = [row[begin:end] for row, end in zip(rows.tokens, rows.length)]
    tokens = np.concatenate(read)
    np.testing.assert_array_equal(
        counts.emission.sum(1), np.bincount(tokens, minlength=tiny.VOCABULARY)
    )
    assert counts.initial.sum() == N and counts.transition.sum() == len(tokens) - N
    # What leads to a state, or begins in it, is what it emits.
    of_state = counts.initial + counts.transition.sum(0)
    np.testing.assert_array_equal(of_state, counts.emission.sum(0))
    stops = list(STOPS)
    assert (counts.emission[stops, :-1] == 0).all() and (counts.emission[stops, -1] > 0).all()
    assert counts.emission[:, -1].sum() == counts.emission[stops].sum()
    assert (counts.emission.sum(0) > 0).all()  # no centre is of nothing


def test_clusters_know_more_than_chance(rows):
    """Of a model with them the likelihood is higher than of one with random parameters."""
    begin = np.full(N, 2)
    counts = counted(rows, begin)
    own = Rows(rows.tokens[:, 2:], rows.length - 2)
    found = em.maximised(counts, counts, 0.1)
    other = random_hmm(H, tiny.VOCABULARY, 0)
    likelihood = [em.log_probs(jax.device_get(hmm), own, 50).sum() for hmm in (found, other)]
    assert likelihood[0] > likelihood[1] + 0.1 * own.count


def test_devices_share_the_rows(rows):
    alone, shared = (counted(rows, rows.prompt_length, H, s) for s in (ONE, Parallel()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3), alone, shared)


def test_more_states_than_hidden_states_are_refused(rows):
    few = Sequences(rows.tokens[:2], rows.prompt_length[:2], rows.length[:2])
    message = error_of(counted, few, few.prompt_length, 30)
    assert "different hidden states, fewer than the 30 states of the HMM: draw more" in message
