"""Checkpoints: what is damaged is found out, what is whole comes back, and nothing else is lost."""

import re
import shutil
from pathlib import Path

import absl.logging
import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import dinado_jax
from dinado_jax.config.schema import Parallel
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.errors import InputError
from dinado_jax.training.checkpoint import Checkpoints

PLAN = make_plan(Parallel(devices=1))


def state(step):
    """Random numbers, which no compression makes smaller."""
    keys = jax.random.split(jax.random.key(step), 2)
    return {
        "step": jnp.int32(step),
        "delta": {"a": jax.random.normal(keys[0], (64, 8)), "b": jax.random.normal(keys[1], (33,))},
    }


def restored(folder, base="one", plan=PLAN):
    with Checkpoints(folder, base) as checkpoints:
        return checkpoints.restore(plan.abstract(state(0)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 2 and 4; not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder, "one") as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state(step))
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def files(folder):
    """What Orbax and the manifest consist of; except for two that say when, and that, it was
    done."""
    told = ("_CHECKPOINT_METADATA", "commit_success.txt")
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path.parent != folder or path.name not in told)


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def truncate(path, rng):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def remove(path, rng):
    path.unlink()


def test_the_newest_comes_back(saved):
    chex.assert_trees_all_equal(restored(saved), state(4))


@pytest.mark.parametrize("damage", [flip, truncate, remove])
def test_damage_is_found_and_the_one_before_comes_back(copy, damage, capfd):
    """Wherever it strikes: a file of each kind, many at random places."""
    rng = np.random.default_rng(0)
    whole = copy.parent / "whole"
    shutil.copytree(copy / "4", whole)
    there = [path for path in files(whole) if path.stat().st_size]
    for path in np.resize(rng.permutation(there), 13):
        shutil.rmtree(copy / "4", ignore_errors=True)
        shutil.copytree(whole, copy / "4")
        damage(copy / "4" / path.relative_to(whole), rng)
        chex.assert_trees_all_equal(restored(copy), state(2))
        said = capfd.readouterr().err
        assert "checkpoint 4 in" in said and "going back to 2" in said
        assert (copy / "damaged_4").exists() and not (copy / "4").exists()


@pytest.mark.parametrize("old, new", [('"one"', '"two"'), ('"base"', '"bass"'), ("{", "[")])
def test_a_manifest_is_protected_too(copy, old, new):
    manifest = copy / "4" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new, 1))
    chex.assert_trees_all_equal(restored(copy), state(2))


def refused(match, folder, **given):
    with pytest.raises(InputError, match=match) as caught:
        restored(folder, **given)
    assert "\n" not in str(caught.value)


def test_nothing_whole_is_refused_and_nothing_touched(copy):
    rng = np.random.default_rng(1)
    for step in "24":
        flip(files(copy / step)[0], rng)
    refused("is intact .4, .* has changed; 2, ", copy)
    assert {path.name for path in copy.iterdir()} >= {"2", "4"}


def test_another_base_is_refused(saved):
    refused("belongs to this base .4, written for base one, this is two", saved, base="two")


DELTA = {"a": jnp.zeros((64, 8)), "b": jnp.zeros(33)}


@pytest.mark.parametrize(
    "other, told",
    [
        ({"step": jnp.int32(0)}, r"delta/a is float32\[64, 8\], not nothing"),
        (state(0) | {"more": jnp.zeros(2)}, r"more is nothing, not float32\[2\]"),
        (state(0) | {"step": jnp.float32(0)}, r"step is int32\[\], not float32\[\]"),
        (state(0) | {"delta": DELTA | {"b": jnp.zeros(34)}}, r"delta/b is .*33\], not .*34\]"),
        (state(0) | {"delta": DELTA | {"b": jnp.zeros((33, 1))}}, "delta/b is "),
        (state(0) | {"delta": jnp.zeros(3)}, "delta is nothing, not "),
        (state(0) | {"delta": [DELTA["a"], DELTA["b"]]}, "delta/0 is nothing, not "),
        (state(0) | {"delta": {"A": DELTA["a"], "b": DELTA["b"]}}, "delta/A is nothing, not "),
    ],
)
def test_another_tree_is_refused(saved, other, told):
    with Checkpoints(saved, "one") as checkpoints:
        like = PLAN.abstract(other)
        with pytest.raises(
            InputError, match=f"checkpoint 4 in .* fit this model .*{told}"
        ) as caught:
            checkpoints.restore(like)
    assert "\n" not in str(caught.value)
    chex.assert_trees_all_equal(restored(saved), state(4))


def test_aliens_do_no_harm(copy, capfd):
    """A user's files and folders, and names that look like steps."""
    (copy / "abc").mkdir()
    (copy / "notes.txt").write_text("mine")
    (copy / "007").mkdir()
    (copy / "9").mkdir()
    (copy / "11").write_text("a file")
    shutil.copytree(copy / "4", copy / str(10**30))
    chex.assert_trees_all_equal(restored(copy), state(4))
    assert "its number is no training step; going back to 4" in capfd.readouterr().err
    assert (copy / "abc").is_dir() and (copy / "notes.txt").read_text() == "mine"
    with Checkpoints(copy, "one") as checkpoints:
        checkpoints.save(6, state(6))
    chex.assert_trees_all_equal(restored(copy), state(6))


def test_only_a_step_beyond_all_training_is_refused(copy):
    shutil.rmtree(copy / "2")
    (copy / "4").rename(copy / str(10**30))
    refused("is intact .1000.*, its number is no training step", copy)


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    refused("a part of this path is a file", tmp_path / "file")
    refused("links lead back", tmp_path / "loop")


DEEP = "[" * 10**5


@pytest.mark.parametrize("text", ["", "3", "[1]", "{}", DEEP])
def test_manifests_that_are_none(copy, text):
    (copy / "4" / "manifest.json").write_text(text)
    chex.assert_trees_all_equal(restored(copy), state(2))


@pytest.mark.parametrize("text", ["", "3", "{}", "[1]", '{"a": ' + "9" * 5000 + "}", DEEP])
def test_what_orbax_writes_last(copy, text):
    """Is read past, or is to be deleted."""
    damaged = copy / "4" / "_CHECKPOINT_METADATA"
    damaged.write_text(text)
    if text not in ("", "{}"):
        refused("unreadable _CHECKPOINT_METADATA .*: delete that file", copy)
        damaged.unlink()
    chex.assert_trees_all_equal(restored(copy), state(4))


def test_a_step_put_aside_can_be_saved_again(copy):
    remove(files(copy / "4")[0], None)
    with Checkpoints(copy, "one") as checkpoints:
        checkpoints.restore(PLAN.abstract(state(0)))
        checkpoints.save(4, state(5))
    chex.assert_trees_all_equal(restored(copy), state(5))


def test_what_a_killed_process_left_is_no_hindrance(copy):
    torn = copy / "6.orbax-checkpoint-tmp"
    shutil.copytree(copy / "4", torn)
    (torn / "manifest.json").unlink()
    with Checkpoints(copy, "one") as checkpoints:
        checkpoints.save(6, state(6))
    chex.assert_trees_all_equal(restored(copy), state(6))


def test_the_newest_two_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, state(step))
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {"4", "5"}


def test_saved_state_is_nothing_but_data():
    """No line of the package can unpickle, or run what a checkpoint brings along."""
    package = Path(dinado_jax.__file__).parent
    executing = re.compile(
        r"\b(pickle|cPickle|joblib|dill|cloudpickle|trust_remote_code)\b|torch\.load"
    )
    lines = [
        f"{path.name}: {line}"
        for path in sorted(package.rglob("*.py"))
        for line in path.read_text().splitlines()
        if executing.search(line)
    ]
    assert len(list(package.rglob("*.py"))) > 50 and not lines


def test_other_devices_can_go_on(saved):
    plan = make_plan(Parallel(fsdp=2))
    found = restored(saved, plan=plan)
    assert len(found["delta"]["a"].sharding.device_set) == 8
    chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(state(4)))


def test_orbax_says_nothing_and_others_go_on(copy, caplog):
    (copy / "4" / "_CHECKPOINT_METADATA").unlink()  # Orbax would warn of it
    assert restored(copy) is not None
    with Checkpoints(copy, "one"):
        absl.logging.warning("from another library")
    absl.logging.warning("after it")
    assert caplog.messages == ["from another library", "after it"]


def test_orbax_is_heard_again_afterwards(copy, caplog):
    (copy / "4" / "_CHECKPOINT_METADATA").write_text("[]")
    with pytest.raises(InputError, match="unreadable _CHECKPOINT_METADATA"):
        Checkpoints(copy, "one")
    assert not caplog.messages
    with ocp.CheckpointManager(copy.with_name("other")) as manager:
        assert manager.latest_step() is None
    (copy / "4" / "_CHECKPOINT_METADATA").unlink()
    with ocp.CheckpointManager(copy):
        assert any("Metadata file does not exist" in message for message in caplog.messages)
