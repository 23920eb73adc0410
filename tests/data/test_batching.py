"""Batches as functions of seed and step, and draws by weight."""

import chex
import numpy as np
import pytest
from support.rows import WIDTH, sequences

from dinado_jax.data.batching import Draws, Epochs, GroupDraws, bucket, take


def numbers(batch):
    return batch.tokens[:, 0].tolist()


# Epochs


@pytest.mark.parametrize(
    ("length", "limit", "width"), [(1, 64, 8), (8, 64, 8), (9, 64, 16), (64, 64, 64), (9, 12, 12)]
)
def test_bucket(length, limit, width):
    assert bucket(length, limit) == width


def test_a_batch_is_cut_to_a_bucket_and_never_cuts_a_row():
    rows = sequences(50)
    batch = take(rows, np.array([3, 1, 3]))
    assert numbers(batch) == [3, 1, 3]
    short = np.flatnonzero(rows.length <= 16)[:2]
    assert take(rows, short).tokens.shape == (2, bucket(rows.length[short].max(), WIDTH))
    for step in range(12):
        batch = Epochs(rows, 4, seed=0).at(step)
        width = batch.tokens.shape[1]
        assert width % 8 == 0 or width == WIDTH
        assert batch.length.max() <= width < batch.length.max() + 8
        index = numbers(batch)
        np.testing.assert_array_equal(batch.tokens, rows.tokens[index, :width])
        np.testing.assert_array_equal(batch.prompt_length, rows.prompt_length[index])
        np.testing.assert_array_equal(batch.length, rows.length[index])


@pytest.mark.parametrize(("count", "batch"), [(40, 8), (43, 8), (700, 7), (5, 1)])
def test_every_row_comes_once_an_epoch(count, batch):
    """Except for the rest that fills no batch."""
    epochs = Epochs(sequences(count), batch, seed=3)
    assert epochs.per_epoch == count // batch
    orders = []
    for epoch in range(3):
        steps = range(epoch * epochs.per_epoch, (epoch + 1) * epochs.per_epoch)
        order = [number for step in steps for number in numbers(epochs.at(step))]
        assert len(order) == len(set(order)) == count // batch * batch
        orders.append(order)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_rows_left_out_differ_by_epoch():
    epochs = Epochs(sequences(43), 8, seed=0)
    seen = {number for step in range(8 * 5) for number in numbers(epochs.at(step))}
    assert seen == set(range(43))


def test_batches_are_a_function_of_seed_and_step():
    rows = sequences(60)
    first, second = Epochs(rows, 4, seed=1), Epochs(rows, 4, seed=1)
    forward = [first.at(step) for step in range(50)]
    for step in reversed(range(50)):
        chex.assert_trees_all_equal(second.at(step), forward[step])
    other = Epochs(rows, 4, seed=2)
    assert [numbers(other.at(step)) for step in range(5)] != [numbers(b) for b in forward[:5]]


def test_rows_of_similar_length_share_a_batch():
    rows = sequences(400)
    epochs = Epochs(rows, 8, seed=0)
    spreads = [np.ptp(epochs.at(step).length) for step in range(epochs.per_epoch)]
    assert np.mean(spreads) < 3  # of 28
    # Their order is shuffled all the same: lengths do not grow along the epoch.
    means = [epochs.at(step).length.mean() for step in range(epochs.per_epoch)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


def test_a_set_smaller_than_a_batch_is_repeated():
    epochs = Epochs(sequences(3), 8, seed=0)
    assert epochs.per_epoch == 1
    for step in range(4):
        counts = np.bincount(numbers(epochs.at(step)), minlength=3)
        assert counts.sum() == 8 and counts.min() >= 2
    assert numbers(Epochs(sequences(1), 2, seed=0).at(5)) == [0, 0]


# Draws


def test_draws_follow_the_weights():
    weight = np.array([0.0, 1.0, 0.5, 0.0, 7.0, 0.25, 3.0, 0.0])
    steps, count = 400, 8
    draws = Draws(weight, seed=0)
    drawn = np.concatenate([draws.at(step, count) for step in range(steps)])
    found = np.bincount(drawn, minlength=len(weight))
    expected = weight / weight.sum() * steps * count
    assert (found[weight == 0] == 0).all()
    inside = weight > 0
    # Systematic resampling varies less than independent draws, whose 95% quantile this is.
    assert (((found - expected) ** 2)[inside] / expected[inside]).sum() < 9.5


def test_ten_steps_hold_every_heavy_row_its_due_number_of_times():
    weight = np.array([4.0, 1.0, 1.0, 2.0])
    draws = Draws(weight, seed=1)
    for block in range(5):
        drawn = np.concatenate([draws.at(10 * block + step, 16) for step in range(10)])
        np.testing.assert_array_equal(np.bincount(drawn, minlength=4), [80, 20, 20, 40])


def test_draws_are_a_function_of_seed_and_step():
    weight = np.random.default_rng(0).random(100)
    first, second = Draws(weight, seed=5), Draws(weight, seed=5)
    batches = [first.at(step, 10).tolist() for step in range(25)]
    assert [second.at(step, 10).tolist() for step in reversed(range(25))] == batches[::-1]
    assert len({tuple(batch) for batch in batches}) > 15
    assert Draws(weight, seed=6).at(0, 10).tolist() != batches[0]


def test_every_step_is_a_systematic_sample_of_all_rows():
    """A row that is due k times on average is drawn floor(k) or ceil(k) times in each step."""
    weight = np.random.default_rng(0).gamma(1, 1, 50)
    draws = Draws(weight, seed=1)
    due = weight / weight.sum() * 200
    for step in range(20):
        found = np.bincount(draws.at(step, 200), minlength=50)
        assert (np.abs(found - due) < 1).all()


@pytest.mark.parametrize("offset", [0.0, np.nextafter(1, 0)])
@pytest.mark.parametrize("weight", [[0, 0, 1, 0], [0, 1e-9, 0, 1, 0, 0], [1, 0], [0, 1]])
def test_weight_0_is_never_drawn(monkeypatch, offset, weight):
    """Not even at either end of the random offset, where rounding could."""

    class Extreme:
        def random(self):
            return offset

        def permutation(self, index):
            return index

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Extreme())
    weight = np.array(weight, np.float32)
    for count in (1, 3, 64):
        draws = Draws(weight, seed=0)
        for step in range(10):
            index = draws.at(step, count)
            assert len(index) == count and (weight[index] > 0).all()


# Draws of groups


def groups_of(weight, group, steps=10, count=12, seed=0):
    draws = GroupDraws(np.float64(weight), group, seed, size=3)
    return np.array([draws.at(step, count) for step in range(steps)]).reshape(steps, -1, 3)


def test_groups_hold_rows_of_one_group_by_weight():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 5, 40)
    weight = rng.gamma(1, 1, 40) * (group != 2)
    weight[:5] = 0
    found = groups_of(weight, group, steps=600)
    assert (group[found] == group[found[..., :1]]).all()
    assert (weight[found] > 0).all()
    share = weight / weight.sum()
    for place in range(3):
        drawn = np.bincount(found[..., place].ravel(), minlength=40) / found[..., 0].size
        tolerance = 1 / 40 if place == 0 else 5 * np.sqrt(share / found[..., 0].size) + 1e-9
        assert (np.abs(drawn - share) <= tolerance).all()
    of_one = [found[..., 1][found[..., 0] == row] for row in np.flatnonzero(weight)[:4]]
    assert all(len(set(others)) > 1 for others in of_one)


def test_groups_are_a_function_of_seed_and_step():
    group = np.arange(60) // 3
    found = groups_of(np.ones(60), group)
    np.testing.assert_array_equal(found, groups_of(np.ones(60), group))
    assert (found != groups_of(np.ones(60), group, seed=1)).any()
