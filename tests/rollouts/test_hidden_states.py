"""Cached states of the base: the same control scalars and gradients, without its trunk."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, world

from dinado_jax.config.schema import Parallel
from dinado_jax.data.batch import Batch
from dinado_jax.data.sequences import Sequences
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.language_model import Base
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.rollouts import hidden_states as states

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BASE = Base(tiny.model(), tiny.base_params(), None)
PLAN = make_plan(Parallel(devices=1))


def rows(seed, count=5):
    length = np.random.default_rng(seed).integers(3, 12, count)
    drawn = tiny.batch([2] * count, length, seed=seed)
    return Sequences(drawn.tokens, drawn.prompt_length, drawn.length)


def hidden(part):
    return np.asarray(jax.jit(BASE.model.apply)({"params": BASE.params}, part.tokens).hidden)


@pytest.fixture
def kept(tmp_path):
    """The states of two sets of rows, and those rows."""
    parts = [rows(0), rows(1, 7)]
    sets = [states.base_states(tmp_path, BASE, part, "float32", 4, PLAN) for part in parts]
    return sum(sets, states.HiddenStates(BASE.model.width)), parts


def test_states_are_those_of_a_forward_pass(kept):
    found, parts = kept
    index = np.array([6, 0, 11, 4, 4, 5])
    length = np.concatenate([part.length for part in parts])[index]
    wanted = np.concatenate([hidden(part) for part in parts])[index]
    wanted[np.arange(12)[None] >= length[:, None]] = 0
    np.testing.assert_allclose(found.take(index, 12), wanted, rtol=0, atol=1e-5)


def test_a_file_is_made_once(tmp_path, kept):
    found, parts = kept

    def files():
        return {path.name: path.stat().st_ino for path in tmp_path.iterdir()}

    before = files()
    again = states.base_states(tmp_path, BASE, parts[0], "float32", 4, PLAN)
    np.testing.assert_array_equal(again.values[0], found.values[0])
    assert files() == before
    states.base_states(tmp_path, BASE, rows(2), "float32", 4, PLAN)
    assert len(files().keys() - before.keys()) == 2  # a file of its own and its digest


def test_bfloat16_takes_half_the_bytes_and_rounds_to_8_bits(tmp_path, kept):
    found, parts = kept
    half = states.base_states(tmp_path, BASE, parts[0], "bfloat16", 4, PLAN)
    size = min(path.stat().st_size for path in tmp_path.glob("*.bin"))
    assert size * 2 == found.values[0].nbytes
    np.testing.assert_allclose(
        half.values[0].astype(np.float32), found.values[0], rtol=2**-8, atol=1e-6
    )


def test_states_that_enter_a_layer(tmp_path):
    """In a file of their own beside that of the last hidden ones."""
    base, part = Base(tiny.model(layers=3), tiny.base_params(3), None), rows(0)
    out = jax.jit(base.model.apply)({"params": base.params}, part.tokens)
    for layer, wanted in ((0, out.hidden), (1, out.inputs[1]), (2, out.inputs[2])):
        found = states.base_states(tmp_path, base, part, "float32", 4, PLAN, layer=layer)
        for row, length in enumerate(part.length):
            values = found.take(np.array([row]), length)[0]
            np.testing.assert_allclose(values, wanted[row, :length], rtol=0, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 6
    states.delete_files(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_file_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    calls, take = [], states.take

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return take(*args)

    with monkeypatch.context() as patched:
        patched.setattr(states, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            states.base_states(tmp_path, BASE, rows(0), "float32", 4, PLAN)
    found = states.base_states(tmp_path, BASE, rows(0), "float32", 4, PLAN)
    np.testing.assert_allclose(
        found.take(np.arange(5), 12)[0, :3], hidden(rows(0))[0, :3], rtol=0, atol=1e-5
    )


def test_the_named_parts_of_a_batch_get_the_states_of_their_rows(kept):
    found, _ = kept
    rows = tiny.batch([2, 2], [8, 5], width=8).replace(row=np.array([3, 9]))
    wanted = found.take(rows.row, 8)
    both = TwoPartBatch(direction=rows, norm=rows)
    filled = states.with_states(lambda step: both, found, ("direction", "norm"))(0)
    np.testing.assert_array_equal(filled.direction.states, wanted)
    np.testing.assert_array_equal(filled.norm.states, wanted)
    some = states.with_states(lambda step: both, found, ("norm",))(0)
    assert some.direction.states is None
    np.testing.assert_array_equal(some.norm.states, wanted)
    whole = states.with_states(lambda step: rows, found, ("",))(0)
    np.testing.assert_array_equal(whole.states, wanted)
    assert states.with_states(lambda step: rows, found, ())(0).states is None


@pytest.mark.parametrize("kind", ["nado", "soft-small", "merge"])
def test_the_trunk_is_skipped_and_nothing_else_changes(kind):
    """Values and gradients are the same; the trunk's parameters are not read."""
    control, params, base = world.control(kind), world.params(kind), world.base_params()
    batch = Batch(
        tokens=np.random.default_rng(0).integers(0, world.V, (4, 6)).astype(np.int32),
        prompt_length=np.full(4, 2, np.int32),
        length=np.full(4, 6, np.int32),
    )
    out = jax.jit(world.MODEL.apply)({"params": base}, batch.tokens)

    def loss(params, base, batch):
        values = control.values(base, params, batch)
        return (values.log_value**2 + values.log_after).sum()

    gradient = jax.jit(jax.value_and_grad(loss))
    wanted = gradient(params, base, batch)
    poisoned = base
    if kind != "merge":  # a merge is the base's own trunk
        poisoned = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), base)
        poisoned = {**poisoned, "wte": base["wte"]}
    found = gradient(params, poisoned, batch.replace(states=out.hidden))
    # The biases of keys have a gradient of 0 beside others of 60: what is left there is rounding.
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=5e-5)


def test_a_file_cut_short_is_made_again(tmp_path, kept):
    _, parts = kept
    path = min(tmp_path.glob("*.bin"), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    for part in parts:
        states.base_states(tmp_path, BASE, part, "float32", 4, PLAN)
    assert path.read_bytes() == whole


def test_a_file_with_other_numbers_is_made_again(tmp_path, kept):
    _, parts = kept
    path = min(tmp_path.glob("*.bin"), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\0\0\0\0")
    for part in parts:
        states.base_states(tmp_path, BASE, part, "float32", 4, PLAN)
    assert path.read_bytes() == whole
