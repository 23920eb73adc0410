"""Log-odds of prefixes: of nothing later, of nothing before the prompt's end, as written out."""

import numpy as np
from support import tiny

from dinado_jax.classifiers.bag import empty_bag
from dinado_jax.classifiers.prefixes import init_head, log_odds_after, running_mean


def test_the_running_mean_is_that_of_the_text_so_far():
    states = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    found = np.asarray(running_mean(states, np.array([1, 3])))
    for row, start in ((0, 0), (1, 2)):
        assert not found[row, :start].any()
        for t in range(start, 6):
            np.testing.assert_allclose(found[row, t], states[row, start : t + 1].mean(0), rtol=1e-5)


def test_no_later_token_counts():
    model = tiny.model()
    head = tiny.noisy(init_head(model.width, 0), 0.3)
    bag = tiny.noisy(empty_bag(model.vocab_size), 0.3)
    bag = bag._replace(square=np.exp(bag.square))
    params = {"trunk": tiny.base_params(), "head": head, "bag": bag}
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, model.vocab_size, (3, 8)).astype(np.int32)
    lengths = np.array([1, 2, 3], np.int32)
    found = np.asarray(log_odds_after(model, params, tokens, lengths))
    assert found.shape == (3, 8) and found.std() > 1e-3
    changed = tokens.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % model.vocab_size
    other = np.asarray(log_odds_after(model, params, changed, lengths))
    np.testing.assert_allclose(other[:, :5], found[:, :5], rtol=1e-5, atol=1e-6)
    assert (np.abs(other[:, 5:] - found[:, 5:]) > 1e-6).all()


def test_an_untrained_head_corrects_nothing():
    model = tiny.model()
    bag = empty_bag(model.vocab_size)._replace(bias=np.float32(0.7))
    params = {"trunk": tiny.base_params(), "head": init_head(model.width, 3), "bag": bag}
    tokens = np.zeros((1, 4), np.int32)
    found = np.asarray(log_odds_after(model, params, tokens, np.array([1])))
    np.testing.assert_array_equal(found, np.full((1, 4), 0.7, np.float32))
