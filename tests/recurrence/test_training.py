"""Training with recurrence, what it learns, its files, and bad input."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from support import tiny, word_base
from support.folders import refused

import dinado_jax
from dinado_jax.config.schema import Parallel
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.errors import InputError
from dinado_jax.models.architectures import load_model
from dinado_jax.models.params import by_path, init_params
from dinado_jax.recurrence.module import Recurrence
from dinado_jax.recurrence.recurrent import Recurrent, fit_recurrence, load_recurrent
from dinado_jax.recurrence.scoring import document_nats
from dinado_jax.recurrence.settings import Training
from dinado_jax.recurrence.training import train
from dinado_jax.recurrence.windows import Documents, Streams
from dinado_jax.training.standalone import plan_of

pytestmark = pytest.mark.usefixtures("compiled_quickly")

T = 6


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return dinado_jax.load(word_base.write(tmp_path_factory.mktemp("base") / "base"))


TEXTS = ["the dog saw a cat and the fox . " * 9, "a fox is in the caf\u00e9 . " * 12, "dog cat fox"]


def of(base, **changes):
    return Recurrence(base.model, **{"read": 1, "write": 0, "window": 8, "hidden": 9} | changes)


@pytest.fixture(scope="module")
def trained(words, tmp_path_factory):
    """By rank of the LoRA: a trained model and its folder."""
    made = {}
    for rank in (0, 2):
        folder = tmp_path_factory.mktemp("fits") / str(rank)
        how = Training(steps=6, batch=2, windows=2, rank=rank, learning_rate=0.02, save_every=2)
        made[rank] = fit(words, how, folder), folder, how
    return made


@pytest.mark.parametrize("rank", [0, 2])
def test_training_makes_the_memory_matter(words, trained, rank):
    model = trained[rank][0]
    blank = jax.tree.map(jnp.zeros_like, model.params)
    without = dataclasses.replace(model, params=blank)
    own, plain = model.nats(TEXTS), without.nats(TEXTS)
    assert own[2, 0] == plain[2, 0]  # of one window
    assert (np.abs(own - plain)[:2, 0] > 1e-4).all()
    fresh = Recurrent(words, of(words), of(words).init(jax.random.key(0)))
    assert model.perplexity(TEXTS) < fresh.perplexity(TEXTS)
    flat, before = by_path(model.base.params), by_path(words.params)
    changed = {path for path in flat if np.any(flat[path] != before[path])}
    assert ("wte/embedding" in changed) == (rank == 0)  # no LoRA is on tables
    assert "h_0/attn/c_attn/kernel" in changed


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stopped_training_continues_bit_for_bit(words, trained, rank, tmp_path):
    model, folder, how = trained[rank]
    shutil.copytree(folder, tmp_path / "again")
    newest = max(
        (tmp_path / "again" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name)
    )
    shutil.rmtree(newest)
    again = fit(words, how, tmp_path / "again")
    chex.assert_trees_all_equal(
        (again.params, again.base.params), (model.params, model.base.params)
    )
    # The memories of the rows are a part of it.
    other = dataclasses.replace(how, seed=1)
    refused("a training with another seed", fit, words, other, folder)


def fit(base, how, folder, devices=1):
    plan = make_plan(Parallel(devices=devices))
    return fit_recurrence(base, TEXTS, of(base), how, folder=folder, plan=plan)


def test_two_devices_train_as_one(words, trained, tmp_path):
    model, _, how = trained[0]
    shared = fit(words, how, tmp_path / "two", devices=2)
    # Not the parameters: those without a gradient, biases of keys, move by rounding alone.
    np.testing.assert_allclose(shared.nats(TEXTS), model.nats(TEXTS), rtol=2e-5)
    refused("batch = 2 cannot be shared by 8 devices", fit, words, how, tmp_path / "all", 8)
    plan = make_plan(Parallel(mode="pmap", devices=1))
    with pytest.raises(InputError, match=r"parallel\.mode = pmap"):
        fit_recurrence(words, TEXTS, of(words), how, folder=tmp_path / "pmap", plan=plan)


def test_it_learns_what_only_earlier_windows_tell(tmp_path):
    """One symbol of 8 is in the middle of every window of a document: all else is known, and
    without the window before nothing predicts it better than log 8 nats in five tokens."""
    model, rng = tiny.model(12), np.random.default_rng(0)
    recurrence = Recurrence(model, 1, 0, T, hidden=16)
    texts = [[1, 2, int(rng.integers(4, 12)), 3, 0] * int(rng.integers(3, 6)) for _ in range(64)]
    rows = Documents.of([[0]] * 64, texts, T)
    how = Training(steps=150, batch=8, windows=4, learning_rate=0.02, warmup=10)
    streams, start = Streams(rows, how.batch, how.windows, 0), init_params(model, 0)
    params, own = train(recurrence, start, streams, how, tmp_path, plan_of(how.batch, None))
    nats, tokens = document_nats(recurrence, {"params": params}, own, rows).sum(0)
    assert nats / tokens < 0.6 * np.log(8) / 5


# Files and texts


def test_there_and_back(trained, tmp_path):
    model = trained[0][0]
    model.save(tmp_path / "saved")
    again = load_recurrent(tmp_path / "saved")
    chex.assert_trees_all_equal(again.params, model.params)
    np.testing.assert_allclose(again.nats(TEXTS), model.nats(TEXTS), rtol=1e-6)
    one, other = (each.generate("the dog", samples=2, max_new_tokens=70) for each in (model, again))
    assert [x.tokens for x in one] == [x.tokens for x in other]
    assert all(len(x.log_probs) == len(x.tokens) for x in one)
    assert dinado_jax.load(tmp_path / "saved").model == again.base.model


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "it"
    trained[0][0].save(folder)
    return folder


def test_files_that_do_not_fit_are_refused(saved, words, tmp_path):
    refused("no recurrence/recurrence.json in", load_recurrent, words.folder)
    moved = shutil.copytree(words.folder, tmp_path / "moved")
    shutil.copytree(saved / "recurrence", moved / "recurrence")
    refused("is of another base than", load_recurrent, moved)
    cut = shutil.copytree(saved, tmp_path / "cut")
    weights = cut / "recurrence" / "recurrence.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    refused("is not what .* was written with", load_recurrent, cut)
    record = shutil.copytree(saved, tmp_path / "record") / "recurrence" / "recurrence.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 2}))
    refused("has format 2", load_recurrent, tmp_path / "record")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 1, "read": 0}))
    refused("changed since it was written", load_recurrent, tmp_path / "record")


def test_a_base_with_other_layers_is_refused(saved, tmp_path):
    deep = shutil.copytree(support.GOLDEN / "gpt2_deep", tmp_path / "deep")
    shutil.copytree(saved / "recurrence", deep / "recurrence")
    layers = load_model(deep).num_layers
    refused(f"of a base with 1 layers, .* has {layers}", load_recurrent, deep)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"write": 1}, "write = 1: the base has layers 0 to 0"),
        ({"write": -1}, "write = -1: it must be 0 or more"),
        ({"read": 0}, "read = 0: .* enter the layers 1 to 1"),
        ({"read": 2}, "read = 2: .* enter the layers 1 to 1"),
        ({"window": 25}, "window = 25: the base has room for 24 tokens"),
        ({"window": 1}, "window = 1: it must be at least 2"),
        ({"hidden": 0}, "hidden = 0: it must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_the_base_are_refused(words, changes, said):
    refused(said, lambda: of(words, **changes))


def test_bad_arguments_are_refused(words, trained):
    model = trained[0][0]
    refused("steps = 0", lambda: Training(steps=0))
    refused("rank = -1", lambda: Training(rank=-1))
    refused("documents is 'one'", model.nats, "one")
    refused("there are no documents", model.perplexity, [])
    refused(
        "has no argument 'temprature': did you mean temperature",
        lambda: model.generate("a", temprature=1.0),
    )
    refused("max_new_tokens = 0", lambda: model.generate("a", max_new_tokens=0))
    other = Recurrence(tiny.model(), 1, 0, 8)
    refused("of another model", fit_recurrence, words, TEXTS, other)
    refused("give what load returns", fit_recurrence, "gpt2", TEXTS, other)
    refused("recurrence = Base", fit_recurrence, words, TEXTS, words)
    own = Recurrence(words.model, 1, 0, 8)
    of_denoisers = dinado_jax.training.settings.Training()
    refused("give dinado_jax.recurrence.settings.Training", fit_recurrence, words, TEXTS, own,
            of_denoisers)  # fmt: skip
    template = dinado_jax.load(str(words.folder), prompt_template="A {prompt} b")
    refused("has a prompt template, documents have none", fit_recurrence, template, TEXTS, own)
    long = Recurrence(words.model, 1, 0, 2)
    refused("leave no room in 2: choose a longer window", Recurrent(template, long, {}).nats, ["a"])
