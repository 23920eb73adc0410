"""Cached states of the base: the same control scalars and gradients, without its trunk."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, world

from dinado_jax.config.schema import Parallel
from dinado_jax.data.sequences import Sequences
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.language_model import Base
from dinado_jax.objectives import batches
from dinado_jax.rollouts import hidden_states as states

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BASE = Base(tiny.model(), tiny.base_params(), None)
PLAN = make_plan(Parallel(devices=1))


def rows(seed, count=5):
    length = np.random.default_rng(seed).integers(3, 12, count)
    drawn = tiny.batch([2] * count, length, seed=seed)
    return Sequences(drawn["tokens"], drawn["prompt_length"], drawn["length"])


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


def test_a_file_is_made_once(tmp_path, kept, monkeypatch):
    found, parts = kept
    monkeypatch.setattr(states, "_made", None)
    again = states.base_states(tmp_path, BASE, parts[0], "float32", 4, PLAN)
    np.testing.assert_array_equal(again.values[0], found.values[0])
    with pytest.raises(TypeError):  # other rows, other file
        states.base_states(tmp_path, BASE, rows(2), "float32", 4, PLAN)


def test_bfloat16_takes_half_the_bytes_and_rounds_to_8_bits(tmp_path, kept):
    found, parts = kept
    half = states.base_states(tmp_path, BASE, parts[0], "bfloat16", 4, PLAN)
    size = min(path.stat().st_size for path in tmp_path.glob("*.bin"))
    assert size * 2 == found.values[0].nbytes
    np.testing.assert_allclose(
        half.values[0].astype(np.float32), found.values[0], rtol=2**-8, atol=1e-6
    )


def test_an_interrupted_file_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    calls, compute = [], states._hidden

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*args)

    with monkeypatch.context() as patched:
        patched.setattr(states, "_hidden", interrupted)
        with pytest.raises(KeyboardInterrupt):
            states.base_states(tmp_path, BASE, rows(0), "float32", 4, PLAN)
    found = states.base_states(tmp_path, BASE, rows(0), "float32", 4, PLAN)
    np.testing.assert_allclose(
        found.take(np.arange(5), 12)[0, :3], hidden(rows(0))[0, :3], rtol=0, atol=1e-5
    )


def test_every_part_of_a_batch_gets_its_rows_states(kept):
    found, _ = kept
    part = {"tokens": np.zeros((2, 8), np.int32), "number": np.array([3, 9])}
    both = {"direction": part, "norm": part}
    for given in batches.with_states(lambda step: both, found)(0).values():
        np.testing.assert_array_equal(given["states"], found.take(part["number"], 8))
    some = batches.with_states(lambda step: both, found, without="direction")(0)
    assert "states" in some["norm"] and "states" not in some["direction"]


@pytest.mark.parametrize("kind", ["nado", "soft-small", "merge"])
def test_the_trunk_is_skipped_and_nothing_else_changes(kind):
    """Values and gradients are the same; the trunk's parameters are not read."""
    control, params, base = world.control(kind), world.params(kind), world.base_params()
    batch = {"tokens": jnp.asarray(np.random.default_rng(0).integers(0, world.V, (4, 6)))}
    batch |= {"prompt_length": jnp.full(4, 2), "length": jnp.full(4, 6)}
    out = jax.jit(world.MODEL.apply)({"params": base}, batch["tokens"])

    def loss(params, base, batch):
        values = control.values(base, params, batch)
        return (values.log_value**2 + values.log_after).sum()

    gradient = jax.jit(jax.value_and_grad(loss))
    wanted = gradient(params, base, batch)
    poisoned = base
    if kind != "merge":  # a merge is the base's own trunk
        poisoned = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), base)
        poisoned = {**poisoned, "wte": base["wte"]}
    found = gradient(params, poisoned, {**batch, "states": out.hidden})
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
