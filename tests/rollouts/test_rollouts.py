"""Batches as functions of seed and step, draws by weight, and rollouts on disk."""

import dataclasses
import io
import os
import zipfile

import chex
import numpy as np
import pytest

from dinado_jax.config.schema import Train
from dinado_jax.data.batching import (
    Draws,
    Epochs,
    bucket,
    take,
)
from dinado_jax.data.sequences import Sequences
from dinado_jax.errors import InputError
from dinado_jax.objectives import batches
from dinado_jax.rollouts.arrays import Rollouts, RolloutShard, concatenate
from dinado_jax.rollouts.weighting import (
    align_to_targets,
    duplicate_share,
    effective_sample_size,
    exclusive_cumsum,
    importance_weights,
    normalize_per_prompt,
    success_rate,
    suffix_importance_weights,
)

WIDTH = 30


def sequences(count, width=WIDTH, seed=0):
    """Rows of random lengths whose first token is the number of the row."""
    rng = np.random.default_rng(seed)
    length = rng.integers(2, width + 1, count).astype(np.int32)
    tokens = rng.integers(1000, 2000, (count, width)).astype(np.int32)
    tokens[:, 0] = np.arange(count)
    tokens[np.arange(width) >= length[:, None]] = 0
    return Sequences(tokens, rng.integers(1, length).astype(np.int32), length)


def numbers(batch):
    return batch["tokens"][:, 0].tolist()


def same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


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
    assert take(rows, short)["tokens"].shape == (2, bucket(rows.length[short].max(), WIDTH))
    for step in range(12):
        batch = Epochs(rows, 4, seed=0).at(step)
        width = batch["tokens"].shape[1]
        assert width % 8 == 0 or width == WIDTH
        assert batch["length"].max() <= width < batch["length"].max() + 8
        index = numbers(batch)
        np.testing.assert_array_equal(batch["tokens"], rows.tokens[index, :width])
        np.testing.assert_array_equal(batch["prompt_length"], rows.prompt_length[index])
        np.testing.assert_array_equal(batch["length"], rows.length[index])


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
        same(second.at(step), forward[step])
    other = Epochs(rows, 4, seed=2)
    assert [numbers(other.at(step)) for step in range(5)] != [numbers(b) for b in forward[:5]]


def test_rows_of_similar_length_share_a_batch():
    rows = sequences(400)
    epochs = Epochs(rows, 8, seed=0)
    spreads = [np.ptp(epochs.at(step)["length"]) for step in range(epochs.per_epoch)]
    assert np.mean(spreads) < 3  # of 28
    # Their order is shuffled all the same: lengths do not grow along the epoch.
    means = [epochs.at(step)["length"].mean() for step in range(epochs.per_epoch)]
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
    draws = Draws(weight, np.ones(len(weight)), seed=0)
    drawn = np.concatenate([draws.at(step, count) for step in range(steps)])
    found = np.bincount(drawn, minlength=len(weight))
    expected = weight / weight.sum() * steps * count
    assert (found[weight == 0] == 0).all()
    inside = weight > 0
    # Systematic resampling varies less than independent draws, whose 95% quantile this is.
    assert (((found - expected) ** 2)[inside] / expected[inside]).sum() < 9.5


def test_ten_steps_hold_every_heavy_row_its_due_number_of_times():
    weight = np.array([4.0, 1.0, 1.0, 2.0])
    draws = Draws(weight, np.ones(4), seed=1)
    for block in range(5):
        drawn = np.concatenate([draws.at(10 * block + step, 16) for step in range(10)])
        np.testing.assert_array_equal(np.bincount(drawn, minlength=4), [80, 20, 20, 40])


def test_draws_are_a_function_of_seed_and_step():
    rng = np.random.default_rng(0)
    weight, length = rng.random(100), rng.integers(5, 40, 100)
    first, second = Draws(weight, length, seed=5), Draws(weight, length, seed=5)
    batches = [first.at(step, 10).tolist() for step in range(25)]
    assert [second.at(step, 10).tolist() for step in reversed(range(25))] == batches[::-1]
    assert len({tuple(batch) for batch in batches}) > 15
    assert Draws(weight, length, seed=6).at(0, 10).tolist() != batches[0]


def test_draws_share_rows_out_by_length_and_agree_on_the_long_ones():
    rng = np.random.default_rng(0)
    length = rng.integers(5, 40, 300)
    first, second = (Draws(rng.random(300), length, seed) for seed in (1, 2))
    means = np.array([[d.at(step, 30) for step in range(10)] for d in (first, second)])
    means = length[means].mean(-1)
    assert np.ptp(means[0]) > 25  # against a spread of about 2 between random batches
    np.testing.assert_array_equal(np.argsort(means[0]), np.argsort(means[1]))
    assert (np.diff(means[0]) < 0).any()  # the long ones do not always come last


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
        draws = Draws(weight, np.ones(len(weight)), seed=0)
        for step in range(10):
            index = draws.at(step, count)
            assert len(index) == count and (weight[index] > 0).all()


# Rollouts


def rollouts(count, width=WIDTH, references=0, seed=0):
    rows = sequences(count, width, seed)
    rng = np.random.default_rng(seed)
    log_base = -rng.exponential(10, count).astype(np.float32)
    log_proposal = (log_base + rng.normal(0, 1, count)).astype(np.float32)
    log_proposal[count - references :] = np.nan
    return Rollouts(
        rows.tokens,
        rows.prompt_length,
        rows.length,
        label=rng.integers(0, 2, count).astype(np.float32),
        log_base=log_base,
        log_proposal=log_proposal,
        log_prefix=rng.normal(0, 1, (count, width - 1)).astype(np.float32),
        prompt_id=np.arange(count, dtype=np.int32),
        finished=rng.random(count) < 0.8,
    )


def assert_equal_rollouts(first, second):
    for field in dataclasses.fields(Rollouts):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert a.dtype == b.dtype, field.name
        np.testing.assert_array_equal(a, b, err_msg=field.name)


def test_rollouts_survive_the_disk(tmp_path):
    stored = rollouts(9, references=2)
    stored.save(tmp_path / "rollouts.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.npz"]
    loaded = Rollouts.load(tmp_path / "rollouts.npz")
    assert_equal_rollouts(loaded, stored)
    assert len(loaded) == 9 and loaded.reference.tolist() == [False] * 7 + [True] * 2


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "rollouts.npz"
    rollouts(4).save(path)

    def disk_full(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", disk_full)
    with pytest.raises(OSError, match="disk full"):
        rollouts(5).save(path)
    assert_equal_rollouts(Rollouts.load(path), rollouts(4))


def refused(path):
    with pytest.raises(InputError) as caught:
        Rollouts.load(path)
    message = str(caught.value)
    assert str(path) in message and "run it again" in message and "\n" not in message


def test_missing_rollouts(tmp_path):
    refused(tmp_path / "rollouts.npz")
    refused(tmp_path)


def test_damaged_rollouts(tmp_path):
    """Cut anywhere, or with any wrong byte, a file is refused or loads as it was."""
    path = tmp_path / "rollouts.npz"
    stored = rollouts(2, width=3)
    stored.save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        refused(path)
    unharmed = 0
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert_equal_rollouts(Rollouts.load(path), stored)
            unharmed += 1
        except InputError as error:
            assert "\n" not in str(error)
    assert unharmed < len(whole) / 5 / 2


def test_other_files_than_rollouts(tmp_path):
    path = tmp_path / "rollouts.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())
    refused(path)
    np.savez(path, tokens=np.zeros((2, 2)))
    refused(path)
    objects = {field.name: np.array([{}]) for field in dataclasses.fields(Rollouts)}
    np.savez(path, **objects)  # pickled
    refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tokens.npy", "no array")
    refused(path)


def altered(path, **arrays):
    """Writes nine rows with some arrays replaced."""
    dataclasses.replace(rollouts(9, references=2), **arrays).save(path)


def with_one(name, value):
    """An array of those rows, with one number replaced."""
    array = getattr(rollouts(9, references=2), name).copy()
    array.flat[3] = value
    return {name: array}


def test_unaltered_rows_load(tmp_path):
    altered(tmp_path / "rollouts.npz")
    loaded = Rollouts.load(tmp_path / "rollouts.npz", vocab_size=2000)
    assert_equal_rollouts(loaded, rollouts(9, references=2))


@pytest.mark.parametrize(
    "arrays",
    [
        {"label": np.zeros(8, np.float32)},
        {"label": np.zeros((9, 1), np.float32)},
        {"label": np.zeros(9)},
        {"label": np.float32(0)},
        {"tokens": np.zeros((9, WIDTH), np.int64)},
        {"tokens": np.zeros((9, WIDTH), np.float32)},
        {"tokens": np.zeros((9, WIDTH), ">i4")},
        {"tokens": np.zeros((9, WIDTH - 1), np.int32)},
        {"tokens": np.zeros((0, WIDTH), np.int32)},
        {"finished": np.ones(9, np.int8)},
        {"length": np.array(["3"] * 9)},
        {"log_prefix": np.zeros((9, WIDTH), np.float32)},
        {"log_prefix": np.zeros(9, np.float32)},
        with_one("label", np.nan),
        with_one("label", 1.5),
        with_one("label", -0.5),
        with_one("tokens", -1),
        with_one("length", WIDTH + 1),
        with_one("length", 0),
        with_one("length", -3),
        with_one("prompt_length", 0),
        with_one("prompt_length", WIDTH),
        with_one("log_base", np.nan),
        with_one("log_base", -np.inf),
        with_one("log_proposal", np.inf),
        with_one("log_prefix", np.nan),
        with_one("prompt_id", -1),
    ],
)
def test_rows_that_were_never_collected(tmp_path, arrays):
    path = tmp_path / "rollouts.npz"
    altered(path, **arrays)
    refused(path)


def test_tokens_of_another_vocabulary(tmp_path):
    path = tmp_path / "rollouts.npz"
    stored = rollouts(9)
    stored.save(path)
    largest = int(stored.tokens.max())
    assert_equal_rollouts(Rollouts.load(path, vocab_size=largest + 1), stored)
    with pytest.raises(InputError, match="token ids outside the vocabulary"):
        Rollouts.load(path, vocab_size=largest)


@pytest.mark.parametrize("shape", ["(35184372088832,)", "(1099511627776, 32)", "(-9,)", "(9.5,)"])
def test_headers_that_claim_more_than_there_is(tmp_path, shape):
    """Before memory is taken for it."""
    path = tmp_path / "rollouts.npz"
    altered(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = "tokens.npy" if ", 3" in shape else "label.npy"
    text = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.replace("i4", "i4" if name == "tokens.npy" else "f4").ljust(117) + "\n"
    members[name] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    refused(path)


def test_rollouts_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, told in [("pipe", "a pipe"), ("zero", "a pipe"), ("loop", "links lead back")]:
        with pytest.raises(InputError, match=told):
            Rollouts.load(tmp_path / name)


def test_parts_keep_rows_that_the_oracle_failed_on(tmp_path):
    rows = rollouts(4)
    label = np.float32([0, np.nan, 1, 0])
    row, error = np.arange(4), np.array(["", "broken", "", ""])
    part = RolloutShard(**vars(rows) | {"label": label}, row=row, error=error)
    part.save(tmp_path / "part.npz")
    np.testing.assert_array_equal(RolloutShard.load(tmp_path / "part.npz").label, label)
    dataclasses.replace(part, error=np.full(4, "")).save(tmp_path / "part.npz")
    with pytest.raises(InputError, match="labels outside"):
        RolloutShard.load(tmp_path / "part.npz")


def test_join_pads_narrower_rows():
    narrow, wide = rollouts(3, width=5), rollouts(4, width=9, references=1, seed=1)
    joined = concatenate([narrow, wide], fill=77)
    assert joined.tokens.shape == (7, 9) and joined.tokens.dtype == np.int32
    np.testing.assert_array_equal(joined.tokens[:3, :5], narrow.tokens)
    assert (joined.tokens[:3, 5:] == 77).all()
    np.testing.assert_array_equal(joined.log_prefix[:3, :4], narrow.log_prefix)
    assert (joined.log_prefix[:3, 4:] == 0).all()
    np.testing.assert_array_equal(joined.tokens[3:], wide.tokens)
    np.testing.assert_array_equal(joined.log_prefix[3:], wide.log_prefix)
    for field in dataclasses.fields(Rollouts):
        if field.name in ("tokens", "log_prefix"):
            continue
        expected = np.concatenate([getattr(part, field.name) for part in (narrow, wide)])
        np.testing.assert_array_equal(getattr(joined, field.name), expected)
    assert_equal_rollouts(concatenate([wide], fill=0), wide)


# Weights


def weighted(ratios, labels, references=0):
    """Rollouts with the given p / proposal; the last `references` are people's."""
    rows = rollouts(len(ratios), references=references)
    log_proposal = np.where(np.isnan(rows.log_proposal), np.nan, rows.log_base - np.log(ratios))
    return dataclasses.replace(
        rows,
        label=np.float32(labels),
        log_proposal=log_proposal.astype(np.float32),
    )


def test_importance_weights_are_the_ratios_cut_at_a_quantile():
    ratios = np.array([0.1, 0.5, 1.0, 2.0, 50.0])
    rows = weighted(ratios, np.ones(5))
    whole = importance_weights(rows, "importance", 1.0, 0.0)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, ratios, rtol=1e-5)
    np.testing.assert_allclose(
        importance_weights(rows, "importance", 0.75, 0.0), [0.1, 0.5, 1.0, 2.0, 2.0], rtol=1e-5
    )
    np.testing.assert_array_equal(importance_weights(rows, "none", 0.75, 0.0), np.ones(5))


@pytest.mark.parametrize("mode", ["importance", "none"])
def test_references_have_a_weight_of_their_own(mode):
    rows = weighted(np.ones(5), np.ones(5), references=2)
    weight = importance_weights(rows, mode, 0.9, 0.25)
    np.testing.assert_allclose(weight, [1, 1, 1, 0.25, 0.25], rtol=1e-5)


def test_suffix_weights_are_the_ratios_of_the_tokens_to_come():
    rows = rollouts(7, references=2)
    rng = np.random.default_rng(4)
    column = np.arange(WIDTH - 1)
    inside = (column >= rows.prompt_length[:, None] - 1) & (column < rows.length[:, None] - 1)
    ratio = np.where(inside, rng.normal(0, 0.3, inside.shape), 0).astype(np.float32)
    log_proposal = np.where(rows.reference, np.nan, rows.log_base - ratio.sum(1))
    rows = dataclasses.replace(
        rows, log_proposal=np.float32(log_proposal), log_prefix=exclusive_cumsum(ratio)
    )
    weight = suffix_importance_weights(rows, "importance", 1.0)
    for row, at in zip(*np.nonzero(inside)):
        rest = 1.0 if row >= 5 else np.exp(ratio[row, at:].sum())
        assert weight[row, at] == pytest.approx(rest, rel=1e-4)
    assert (weight[5:] == 1).all()
    np.testing.assert_array_equal(
        suffix_importance_weights(rows, "none", 0.5), np.ones_like(weight)
    )
    sampled = inside & ~rows.reference[:, None]
    cut = suffix_importance_weights(rows, "importance", 0.5)
    assert cut[sampled].max() == pytest.approx(np.quantile(weight[sampled], 0.5), rel=1e-4)
    np.testing.assert_allclose(cut[sampled], np.minimum(weight, cut[sampled].max())[sampled])
    far = dataclasses.replace(rows, log_prefix=rows.log_prefix + np.float32(1e4))
    assert np.isfinite(suffix_importance_weights(far, "importance", 1.0)).all()
    extreme = dataclasses.replace(rows, log_prefix=rows.log_prefix - np.float32(1e4))
    assert np.isfinite(suffix_importance_weights(extreme, "importance", 1.0)).all()


def test_along_targets_and_before():
    rows = Sequences(np.zeros((3, 6), np.int32), np.int32([1, 3, 2]), np.int32([4, 4, 2]))
    new = np.float32([[-1, -2, -3, -4], [-5, -6, -7, -8], [-9, -9, -9, -9]])
    moved = align_to_targets(rows, new)
    np.testing.assert_array_equal(moved, [[-1, -2, -3, 0, 0], [0, 0, -5, 0, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(exclusive_cumsum(moved)[0], [0, -1, -3, -6, -6])


def test_repeated_share():
    rows = rollouts(6)
    assert duplicate_share(rows) == 0
    same = {"tokens": rows.tokens[[0, 0, 0, 3, 3, 3]], "length": rows.length[[0, 0, 0, 3, 3, 3]]}
    rows = dataclasses.replace(rows, **same, prompt_id=np.int32([0, 0, 0, 1, 1, 2]))
    assert duplicate_share(rows) == pytest.approx(3 / 6)


def test_the_norm_sees_the_suffix_weights_of_its_rows():
    """Balanced or not; `prefixes` has these rows alone."""
    rows = three_prompts()
    # Every column of a row has the number of the row as its weight.
    log_prefix = np.tile(-np.log(np.arange(1, 31, dtype=np.float32))[:, None], (1, 47))
    rows = dataclasses.replace(
        rows, log_proposal=rows.log_base, prompt_length=np.ones(30, np.int32), log_prefix=log_prefix
    )
    weight = np.ones(30, np.float32)
    for balance in (True, False):
        train = Train(batch=40, balance=balance, weight_clip=1.0)
        at = batches.prefixes(rows, weight, train, seed=0)
        parts = [at(step)["norm"] for step in range(10)]
        for part in parts:
            index = part["length"] - 10
            assert part["suffix"].shape == (40, part["tokens"].shape[1] - 1)
            np.testing.assert_allclose(part["suffix"][:, 0], index + 1, rtol=1e-5)
            np.testing.assert_array_equal(part["label"], rows.label[index])
            shift = np.log(19 / 11) if balance else 0
            np.testing.assert_allclose(part["shift"], np.full(40, shift), rtol=0, atol=1e-5)
        share = np.mean([part["label"].mean() for part in parts])
        assert share == pytest.approx(0.5 if balance else 11 / 30, abs=0.01)


def test_references_teach_the_norm_only_beside_as_many_failures():
    """Most are successes: unbalanced, they would raise the rate."""
    rows = three_prompts()
    last = np.arange(30) >= 25
    rows = dataclasses.replace(rows, log_proposal=np.where(last, np.nan, rows.log_base))
    for balance, expected in ((True, True), (False, False)):
        at = batches.prefixes(rows, np.ones(30, np.float32), Train(batch=40, balance=balance), 0)
        seen = np.concatenate([at(step)["norm"]["length"] - 10 for step in range(10)])
        assert (seen >= 25).any() == expected


def test_extreme_ratios_stay_finite():
    rows = weighted(np.ones(3), np.ones(3))
    rows = dataclasses.replace(rows, log_proposal=rows.log_base + np.float32([-1e4, 0, 1e4]))
    assert np.isfinite(importance_weights(rows, "importance", 1.0, 0.0)).all()
    assert np.isfinite(success_rate(rows))


def test_effective_sample_size():
    assert effective_sample_size(np.ones(7)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.array([5.0, 5.0, 0.0])) == pytest.approx(2)
    assert effective_sample_size(np.zeros(3)) == 0


def test_success_rate_weighs_samples_and_leaves_references_out():
    labels = [1, 0, 0.5, 1, 1]
    rows = weighted([2.0, 1.0, 1.0, 1.0, 1.0], labels, references=2)
    assert success_rate(rows) == pytest.approx((2 * 1 + 0 + 0.5) / 4, rel=1e-5)
    assert success_rate(weighted(np.ones(4), [1, 0, 0, 0])) == pytest.approx(0.25, rel=1e-5)


def test_weights_turn_draws_of_one_distribution_into_draws_of_another():
    """Samples of q, weighed by p / q, have the success rate of p."""
    rng = np.random.default_rng(0)
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    drawn = rng.choice(3, 4000, p=q)
    rows = weighted((p / q)[drawn], drawn == 2)
    assert success_rate(rows) == pytest.approx(0.1, abs=0.01)
    weight = importance_weights(rows, "importance", 1.0, 0.0)
    assert np.average(drawn == 2, weights=weight) == pytest.approx(0.1, abs=0.01)
    assert 0.25 < effective_sample_size(weight) / 4000 < 0.6


def test_per_prompt_weights_add_up_to_1_and_keep_their_ratios():
    prompt_id = np.array([7, 3, 7, 9, 3, 7])
    weight = np.array([1.0, 0.0, 3.0, 0.0, 5.0, 0.0])
    np.testing.assert_allclose(normalize_per_prompt(weight, prompt_id), [0.25, 0, 0.75, 0, 1, 0])


def three_prompts():
    """Prompt 0 succeeds always, prompt 1 in one of ten; no other prompt succeeds. The length tells
    the row."""
    count = 30
    return dataclasses.replace(
        rollouts(count),
        tokens=np.zeros((count, 48), np.int32),
        log_prefix=np.zeros((count, 47), np.float32),
        length=np.arange(10, 10 + count, dtype=np.int32),
        label=np.float32(np.arange(count) <= 10),
        prompt_id=np.repeat(np.arange(3), 10).astype(np.int32),
    )


def test_the_direction_sees_every_prompt_alike_and_the_norm_follows_the_weights():
    rows, count = three_prompts(), 30
    label, prompt_id = rows.label, rows.prompt_id
    train = Train(batch=40)
    weight = np.ones(count, np.float32)
    at = batches.matching(rows, weight, train, seed=0)
    steps = [at(step) for step in range(10)]
    drawn = np.concatenate([b["direction"]["length"] for b in steps]) - 10
    np.testing.assert_allclose(
        np.bincount(prompt_id[drawn], minlength=3) / len(drawn), [0.5, 0.5, 0], atol=0.01
    )
    norm = np.concatenate([b["norm"]["length"] for b in steps]) - 10
    wanted = np.concatenate([b["norm"]["label"] for b in steps])
    np.testing.assert_array_equal(label[norm], wanted)
    successes = np.bincount(norm[wanted > 0], minlength=count)
    assert successes[10] == pytest.approx(successes[:11].mean(), abs=2)
    assert steps[0]["norm"]["shift"][0] == pytest.approx(np.log(19 / 11), abs=1e-5)


def test_the_ratio_sees_rows_of_known_prompts_and_their_shares_of_the_optimum():
    """Prompt 0 succeeds always, prompt 1 in one of ten, prompt 2 never."""
    rows = three_prompts()
    weight = np.ones(30, np.float32)
    at = batches.ratio(rows, weight, Train(batch=40), seed=0)
    parts = [at(step)["direction"] for step in range(10)]
    drawn = np.concatenate([part["length"] for part in parts]) - 10
    np.testing.assert_allclose(
        np.bincount(drawn, minlength=30)[:20] / len(drawn), 1 / 20, atol=0.01
    )
    assert drawn.max() < 20, "of prompt 2 no success is known"
    share = np.where(np.arange(30) < 10, 1, np.where(np.arange(30) == 10, 10, 0))
    np.testing.assert_allclose(np.concatenate([part["share"] for part in parts]), share[drawn])
    same = batches.matching(rows, weight, Train(batch=40), seed=0)
    chex.assert_trees_all_equal(at(3)["norm"], same(3)["norm"])


def test_a_reference_in_the_ratio_has_no_proposal_and_adds_no_sample():
    log_proposal = np.full(30, -20, np.float32)
    log_proposal[10] = np.nan
    rows = dataclasses.replace(three_prompts(), log_proposal=log_proposal)
    weight = np.ones(30, np.float32)
    at = batches.ratio(rows, weight, Train(batch=40), seed=0)
    parts = [at(step)["direction"] for step in range(10)]
    names = ("length", "share", "log_proposal")
    part = {name: np.concatenate([part[name] for part in parts]) for name in names}
    reference = part["length"] == 20
    assert reference.any() and np.isposinf(part["log_proposal"][reference]).all()
    assert np.all(part["share"][reference] == 9)
    assert np.all(part["log_proposal"][~reference] == -20)
