"""One step, spread in several ways: the same losses and parameters, and nothing sent that need not
be; decoding shared by devices draws the same samples."""

import re
from functools import partial

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from support import twenty_steps

from dinado_jax.config.schema import Parallel
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.distributed.partitioning import local_mesh, make_plan
from dinado_jax.errors import InputError
from dinado_jax.models.params import init_params
from dinado_jax.training.step import init_state, make_step, split_micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")
MODEL = twenty_steps.MODEL


@pytest.fixture(scope="module")
def alone(compiled_quickly):
    return twenty_steps.run(Parallel(devices=1))


@pytest.mark.parametrize(
    "settings, accumulate",
    [
        ([Parallel()], 2),
        ([Parallel(mode="shard_map")], 2),
        ([Parallel(mode="pmap")], 1),
        ([Parallel(fsdp=4), Parallel(devices=2)], 1),
    ],
    ids=str,
)
def test_twenty_steps_are_those_of_one_device(alone, settings, accumulate):
    assert_same_steps(twenty_steps.run(*settings, accumulate=accumulate), alone)


@pytest.fixture(scope="module")
def llama_alone(compiled_quickly):
    return twenty_steps.run(Parallel(devices=1), parts=("llama sft", "llama prefix"))


@pytest.mark.parametrize(
    "settings",
    [Parallel(), Parallel(fsdp=4), Parallel(mode="shard_map"), Parallel(mode="pmap")],
    ids=str,
)
def test_twenty_steps_of_a_llama_are_those_of_one_device(llama_alone, settings):
    """Of the whole model, and of a prefix."""
    found = twenty_steps.run(settings, parts=("llama sft", "llama prefix"))
    assert_same_steps(found, llama_alone)
    for part in ("sft", "prefix"):
        loss = found[f"llama {part}/loss"]
        assert loss[-1] < loss[0] - 0.01


def assert_same_steps(found, alone):
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        rtol = 1e-6 if name.endswith("loss") else 0  # losses of 40 nats have no 1e-5 in float32
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-5, err_msg=name)


def test_twenty_steps_go_somewhere(alone):
    assert alone["sft/loss"][-1] < alone["sft/loss"][0] - 0.1
    before = jax.tree.leaves_with_path(twenty_steps._control()[2]["direction"])
    moved = [
        np.abs(alone["q['direction']" + jax.tree_util.keystr(path)] - leaf).max()
        for path, leaf in before
    ]
    assert min(moved) > 0.01


# What is sent


def collectives(name, settings):
    """(kind, shapes) of everything that devices send each other in a step."""
    plan = make_plan(settings)
    terms, transform, params, frozen, batch = getattr(twenty_steps, name)()
    state, frozen = plan.shard(init_state(params, transform)), plan.shard(frozen)
    placed = plan.shard_batch(split_micro_batches(batch(0, 0), 1))
    text = make_step(terms, transform, plan).lower(state, frozen, placed).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (.+?) ({kinds})(?:-start)?\(", text)
    return [
        (kind, turned(map(int, filter(None, shape.split(",")))))
        for shapes, kind in found
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)
    ]


def turned(shape):
    """A shape, or that of its transpose: compilers choose."""
    return tuple(sorted(shape))


def sizes(tree):
    return {turned(leaf.shape) for leaf in jax.tree.leaves(tree)}


def test_only_gradients_are_added_up():
    """No row is sent; and a trained vocabulary once a step. (Of controls: test_scale.py.)"""
    params = twenty_steps._sft()[2]
    found = collectives("_sft", Parallel())
    assert {kind for kind, _ in found} == {"all-reduce"}
    large = [shape for _, shape in found if np.prod(shape) > 96]
    vocabulary = turned((MODEL.vocab_size, MODEL.width))
    assert large and set(large) <= sizes(params)
    assert large.count(vocabulary) <= 2  # looked up, and multiplied


def test_fsdp_shares_out_what_is_large():
    plan = make_plan(Parallel(fsdp=4))
    params = plan.shard(init_params(MODEL, 0))
    assert plan.mesh.shape == {"data": 2, "fsdp": 4}
    assert params["wte"]["embedding"].sharding.spec == PartitionSpec("fsdp", None)
    for name in ("c_fc", "c_proj"):  # the first axis, not the longest
        assert params["h_0"]["mlp"][name]["kernel"].sharding.spec == PartitionSpec("fsdp", None)
    assert params["ln_f"]["scale"].sharding.is_fully_replicated
    whole = plan.gather(params)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(whole))


def test_what_is_made_or_placed_is_shared_out_from_the_start():
    """No device ever has more than its share, and the values are those of one device."""
    _, transform, params, *_ = twenty_steps._sft()
    plan, make = make_plan(Parallel(fsdp=4)), partial(init_state, optimizer=transform)
    placed = plan.shard(jax.device_get(params))
    state = plan.init_sharded(make, placed)
    chex.assert_trees_all_equal(plan.gather_to_host(state), jax.device_get(make(params)))
    for tree in (placed, state):
        assert all(jax.tree.leaves(jax.tree.map(shared_as, tree, plan.shardings(tree))))


def shared_as(leaf, sharding):
    return leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def refused(match, function, *args):
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_shared():
    refused("fsdp = 3 does not divide the 8 devices", make_plan, Parallel(fsdp=3))
    refused("devices = 9, a process has 8: choose at most that", make_plan, Parallel(devices=9))
    assert make_plan(Parallel(devices=8)).mesh.size == 8
    plan = make_plan(Parallel())
    refused("choose a multiple of 16", plan.check_batch, "train", 24, 2)
    plan.check_batch("train", 32, 2)
    make_plan(Parallel(devices=2)).check_batch("train", 12, 2)


# Decoding


EOS = 0
PROMPTS = [np.random.default_rng(n).integers(1, 300, 1 + n % 5).tolist() for n in range(11)]


@pytest.fixture(scope="module")
def variables():
    return {"params": init_params(MODEL, 0)}


def meshes():
    return None, local_mesh(make_plan(Parallel()))


def test_samples_are_those_of_one_device(variables):
    """Prompts fewer than devices, and more than a batch; nothing is sent."""
    policy = ModelPolicy(MODEL)
    drawn = [
        sample_prompts(
            Sampler(policy, Method(), (EOS,), 6, 2, mesh),
            variables,
            TokenizedPrompts(PROMPTS),
            jax.random.key(2),
            8,
        )
        for mesh in meshes()
    ]
    for name in ("tokens", "length", "finished"):
        np.testing.assert_array_equal(*(getattr(each, name) for each in drawn))
    np.testing.assert_allclose(*(each.log_probs for each in drawn), rtol=0, atol=1e-5)
    new = [row[:n] for row, n in zip(drawn[0].tokens, drawn[0].length)]
    rows = sequences([p for p in PROMPTS for _ in range(2)], new, EOS, 16)
    scores = [score(policy, variables, rows, 6, mesh) for mesh in meshes()]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)


def test_beams_are_those_of_one_device(variables):
    prompts = TokenizedPrompts(PROMPTS)
    found = [
        beam_prompts(Beam(ModelPolicy(MODEL), (EOS,), 5, 3, mesh=mesh), variables, prompts, 12)
        for mesh in meshes()
    ]
    np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
    np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=0, atol=1e-5)
