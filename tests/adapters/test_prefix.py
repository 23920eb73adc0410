"""Prefixes and prompts: what they are before training, as bases, in decoding, files and runs."""

import functools
import json
import shutil
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import support
from support import tiny, tiny_run
from support.folders import refused
from support.refusal import error_of

import dinado_jax
from dinado_jax.adapters.make import control_adapter, sft_adapter
from dinado_jax.adapters.peft_files import apply_adapter, write_adapter
from dinado_jax.adapters.prefix import Prefix, Prompt, behind, keys_and_values, with_prefix
from dinado_jax.config import schema
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.norm import MLP
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.refill import iter_refilled
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.evaluation.few_shot import classify
from dinado_jax.hidden_states.text import score_text
from dinado_jax.language_model import Base
from dinado_jax.models.architectures import load_model, load_params, save_model
from dinado_jax.models.dropout import uniform
from dinado_jax.models.params import by_path, nested
from dinado_jax.stages.export import export
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.training.cost_estimate import dry_run

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BASES = ("gpt2_inner", "llama_groups_2", "llama_qwen3")
KINDS = {"prefix": Prefix, "prompt": Prompt}
P, KEY = 3, jax.random.key(0)
bases = pytest.mark.parametrize("base", BASES)
kinds = pytest.mark.parametrize("kind", KINDS)


def loaded(name):
    model = load_model(support.GOLDEN / name)
    return model, load_params(support.GOLDEN / name, model)


def delta(kind, positions=P, shift=True):
    return schema.Delta(kind=kind, positions=positions, shift=shift)


def made(name, kind, scale=0.3, shift=True):
    """(adapter, the base's parameters, the adapter's, those of the model with it)"""
    model, params = loaded(name)
    adapter, _ = control_adapter(delta(kind, shift=shift), model)
    own = tiny.noisy(adapter.init(KEY, params), scale) if scale else adapter.init(KEY, params)
    return adapter, params, own, adapter.merge(params, own)


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, tokens):
    with jax.default_matmul_precision("highest"):
        return model.apply({"params": params}, tokens).logits


def logits(model, params, tokens):
    return np.asarray(forward(model, params, tokens))


def tokens_of(model, rows=2, length=6, seed=0):
    return np.random.default_rng(seed).integers(1, model.vocab_size, (rows, length))


@bases
@kinds
def test_a_fresh_one_is_the_base_behind_some_tokens(base, kind):
    """Those whose embeddings the fresh prompt has."""
    model, params = loaded(base)
    adapter, _, _, whole = made(base, kind, scale=0)
    prompt = Prompt(model, P, shift=True)
    embeddings = prompt.embeddings(params, prompt.init(KEY, params))
    table = np.asarray(model.embed(params, np.arange(model.vocab_size)))
    first = [int(np.argmin(np.abs(table - one).sum(1))) for one in np.asarray(embeddings)]
    rows = tokens_of(model)
    longer = np.concatenate([np.tile(first, (len(rows), 1)), rows], 1)
    wanted = logits(model, params, longer)[:, P:]
    np.testing.assert_allclose(logits(adapter.adapted, whole, rows), wanted, rtol=0, atol=1e-5)


@bases
def test_it_moves_every_token_and_keeps_their_order(base):
    adapter, params, _, whole = made(base, "prefix")
    model, rows = adapter.adapted, tokens_of(adapter.model)
    before = logits(model, whole, rows)
    assert (np.abs(before - logits(adapter.model, params, rows)).max(-1) > 1e-3).all()
    rows[:, 3] = 1 + rows[:, 3] % (model.vocab_size - 1)
    after = logits(model, whole, rows)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.abs(after[:, 3:] - before[:, 3:]).max() > 1e-3


def test_a_shift_takes_positions_from_the_context():
    model, _ = loaded("gpt2_inner")
    adapter, adapted = control_adapter(delta("prefix"), model)
    assert adapted == adapter.adapted
    assert adapted.context_length == model.context_length - P
    _, roomy = control_adapter(delta("prefix"), model.replace(reserved=P))
    assert roomy.context_length == model.context_length - P
    _, beside = control_adapter(delta("prefix", shift=False), model)
    assert (beside.prefix, beside.context_length) == (P, model.context_length)


@kinds
@pytest.mark.parametrize("shift", [True, False])
def test_one_that_is_too_long_is_refused(kind, shift):
    model, _ = loaded("gpt2_inner")
    most = model.context_length - 2 * shift
    control_adapter(delta(kind, most, shift), model)
    said = "leaves no room for text" if shift else "is longer than the base's context"
    refused(
        f"a prefix of {most + 1} positions {said}: give it at most {most}",
        control_adapter, delta(kind, most + 1, shift), model,
    )  # fmt: skip


@bases
def test_without_a_shift_rows_stay_where_they_were(base):
    """A token that sees copies of its own keys and values attends as if it were alone."""
    model, params = loaded(base)
    token = np.array([[5]])
    own = keys_and_values(model, params, model.embed(params, token[0]))
    copies = with_prefix(model, params, np.tile(np.asarray(own), (P, 1)))
    alone = logits(model, params, token)
    beside = logits(behind(model, P, shift=False), copies, token)
    np.testing.assert_allclose(beside, alone, rtol=0, atol=1e-5)
    if base == "gpt2_inner":  # of rotary positions only distances count
        assert np.abs(logits(behind(model, P, shift=True), copies, token) - alone).max() > 1e-2


@pytest.mark.parametrize(
    "base, shift", [("gpt2_inner", True), ("gpt2_inner", False), ("llama_groups_2", False)]
)
def test_decoding_with_a_cache_is_scoring_without(base, shift):
    """Prompts of several lengths, samples that share them, and rows that are refilled."""
    adapter, _, _, whole = made(base, "prefix", shift=shift)
    model, policy = adapter.adapted, ModelPolicy(adapter.adapted)
    prompts = TokenizedPrompts([[3, 1, 2], [4], [2, 5, 6, 1]])
    sampler = Sampler(policy, Method(), (-1,), 4)
    drawn = sample_prompts(sampler, {"params": whole}, prompts, KEY, 2)
    for i, prompt in enumerate(prompts.tokens):
        row = np.array([[*prompt, *drawn.tokens[i]]])
        scores = jax.nn.log_softmax(logits(model, whole, row)[0, :-1], -1)[len(prompt) - 1 :]
        wanted = np.take_along_axis(np.asarray(scores), drawn.tokens[i][:, None], 1)[:, 0]
        np.testing.assert_allclose(drawn.log_probs[i], wanted, rtol=0, atol=1e-4)
    ((index, again, _),) = iter_refilled(sampler, {"params": whole}, prompts, KEY, 8)
    np.testing.assert_array_equal(again.tokens, drawn.tokens[index])
    np.testing.assert_allclose(again.log_probs, drawn.log_probs[index], rtol=0, atol=1e-4)


def test_attention_written_out_is_the_fused_one():
    """Dropout writes it out; here at a rate of 0."""
    adapter, _, _, whole = made("llama_groups_2", "prefix", shift=False)
    model, rows = adapter.adapted, tokens_of(adapter.model)
    sites = uniform(model.dropout_sites, 0.5).noise(np.zeros((len(rows), 2), np.uint32))
    noise = {path: each.replace(rate=0.0) for path, each in by_path(sites).items()}
    with jax.default_matmul_precision("highest"):
        found = model.apply({"params": whole, "dropout": nested(noise)}, rows).logits
    np.testing.assert_allclose(found, logits(model, whole, rows), rtol=0, atol=1e-5)


def control(kind):
    model = tiny.model()
    adapter, adapted = control_adapter(delta(kind, shift=False), model)
    return Control(model, Merge(adapted, adapter), MLP(model.width))


@kinds
def test_gradients_reach_every_parameter(kind):
    one, rows = control(kind), tiny.batch([2, 3], [10, 9])
    params = tiny.noisy(one.init(KEY, tiny.base_params(), 0.2), 0.1)

    def loss(params):
        return one.log_policy(tiny.base_params(), params, rows).sum()

    gradient_of = jax.jit(jax.grad(loss))
    gradient = gradient_of(params)["direction"]
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    # W' is zero at first: what is below it moves once it is not.
    fresh = gradient_of(one.init(KEY, tiny.base_params(), 0.2))["direction"]
    assert np.any(fresh["out" if kind == "prefix" else "change"])


# Files


@bases
@kinds
def test_there_and_back_as_an_adapter(base, kind, tmp_path):
    adapter, params, own, whole = made(base, kind)
    write_adapter(tmp_path, adapter.model, params, adapter, own, "somewhere")
    model, found = apply_adapter(tmp_path, adapter.model, params)
    assert model == adapter.adapted
    for path, wanted in by_path(whole).items():
        np.testing.assert_allclose(by_path(found)[path], wanted, rtol=0, atol=1e-6, err_msg=path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == f"{kind.upper()}_TUNING"
    assert config["base_model_name_or_path"] == "somewhere"


@kinds
def test_one_of_a_base_of_other_sizes_is_refused(kind, tmp_path):
    """The file's tensor may have the same shape."""
    adapter, params, own, _ = made("gpt2_inner", kind)
    write_adapter(tmp_path, adapter.model, params, adapter, own, "somewhere")
    whole = json.loads((tmp_path / "adapter_config.json").read_text())
    of_heads = ["num_attention_heads"] if kind == "prefix" else []
    for name in ("num_layers", "token_dim", *of_heads):
        other = whole | {name: 2 * whole[name]}
        (tmp_path / "adapter_config.json").write_text(json.dumps(other))
        said = error_of(apply_adapter, tmp_path, adapter.model, params)
        assert f"has {name} = {other[name]}, and the base {whole[name]}: give an adapter" in said


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own use of transformers
@bases
@kinds
def test_peft_loads_what_is_written(base, kind, tmp_path):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    adapter, params, own, whole = made(base, kind)
    write_adapter(tmp_path, adapter.model, params, adapter, own, str(support.GOLDEN / base))
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    rows = tokens_of(adapter.model)
    with torch.no_grad():
        wanted = theirs(torch.tensor(rows)).logits.numpy()[:, -rows.shape[1] :]
    found = logits(adapter.adapted, whole, rows)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@bases
@pytest.mark.parametrize("shift", [True, False])
def test_a_base_with_one_is_stored_beside_its_weights(base, shift, tmp_path):
    adapter, params, _, whole = made(base, "prefix", shift=shift)
    save_model(tmp_path, adapter.adapted, jax.device_get(whole))
    model = load_model(tmp_path)
    assert model == adapter.adapted
    chex.assert_trees_all_equal(load_params(tmp_path, model), jax.device_get(whole))
    shutil.copytree(tmp_path / "prefix", tmp_path / "part" / "prefix")
    (tmp_path / "part" / "prefix" / "adapter_config.json").unlink()
    shutil.copy(tmp_path / "config.json", tmp_path / "part")
    assert "copy the whole folder again" in error_of(load_model, tmp_path / "part")
    save_model(tmp_path, adapter.model, params)
    assert load_model(tmp_path) == adapter.model
    chex.assert_trees_all_equal(load_params(tmp_path, adapter.model), params)


def test_a_second_one_follows_the_first(tmp_path):
    """As tokens do: two prompts, one after the other, are one of both."""
    adapter, params, own, whole = made("gpt2_inner", "prompt")
    second = Prompt(adapter.adapted, 2, shift=True)
    change = tiny.noisy(second.init(KEY, whole), 0.3, seed=1)
    both = second.merge(whole, change)
    parts = [adapter.embeddings(params, own), second.embeddings(whole, change)]
    joint = Prompt(adapter.model, P + 2, shift=True)
    fresh = joint.embeddings(params, joint.init(KEY, params))
    one = joint.merge(params, {"change": np.concatenate(parts) - fresh})
    rows = tokens_of(adapter.model)
    found, wanted = logits(second.adapted, both, rows), logits(joint.adapted, one, rows)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert by_path(both).keys() == by_path(one).keys()


@pytest.fixture
def saved(tmp_path):
    adapter, _, _, whole = made("gpt2_inner", "prefix")
    save_model(tmp_path, adapter.adapted, jax.device_get(whole))
    return tmp_path


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"num_virtual_tokens": 0}, "num_virtual_tokens = 0: it must be at least 1"),
        ({"num_virtual_tokens": "3"}, "num_virtual_tokens is '3', not an integer"),
        ({"num_virtual_tokens": None}, "num_virtual_tokens is None, not an integer"),
        ({"num_virtual_tokens": 500}, "puts a row's first token at position 500: the model has"),
        ({"peft_type": "PREFIX_BESIDE_ROWS"}, "first_position is None, not an integer"),
        (
            {"peft_type": "PREFIX_BESIDE_ROWS", "first_position": 4},
            "first_position = 4: it must be 0 to 3",
        ),
        ({"first_position": 1}, "first_position = 1: not supported"),
        ({"num_virtual_tokens": 4}, "prompt_embeddings expected .4, 64., found .3, 64."),
        ({"peft_type": "LORA"}, "peft_type = 'LORA': it must be PREFIX_TUNING or PROMPT_TUNING"),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING: PREFIX_TUNING is wanted here"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules = 2: not supported"),
        ({"of_the_future": 1}, "of_the_future = 1: not supported"),
    ],
)
def test_a_damaged_one_is_refused(saved, changes, said):
    path = saved / "prefix" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(said, dinado_jax.load, saved)


def test_reading_in_chunks_has_no_place_for_one():
    adapter, _, _, whole = made("gpt2_inner", "prefix")
    base = Base(adapter.adapted, whole, Path())
    refused("the base has a prefix", score_text, base, "a text")
    refused("the base has a prefix", classify, base, [], ["a text"])


def test_one_without_a_configuration_is_refused(saved):
    (saved / "prefix" / "adapter_config.json").rename(saved / "prefix" / "config.json")
    refused("copy the whole folder again", dinado_jax.load, saved)
    shutil.rmtree(saved / "prefix")
    (saved / "prefix").touch()
    refused("copy the whole folder again", dinado_jax.load, saved)


def test_one_without_weights_is_refused(saved):
    (saved / "prefix" / "adapter_model.safetensors").unlink()
    refused("no adapter_model.safetensors, .*prefix", dinado_jax.load, saved)


# Runs

# The base is tuned by one behind which rows stand, and the control is another beside them.
RUN = "sft.adapter={0} sft.positions=2 sft.shift=true delta.kind={0} delta.positions=3 sft.steps=4"


def config(kind, start, *others):
    given = RUN.format(kind).split()
    return tiny_run.config(f"base.path={start}", "run.save_every=2", *given, *others)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, finished_run):
    """A finished run of each kind: the base is tuned by one, and the control is another."""
    start = finished_run / "sft" / "base"
    folders = {kind: tmp_path_factory.mktemp("ahead") / kind for kind in KINDS}
    for kind, folder in folders.items():
        run_stages(config(kind, start), STAGES, folder)
    return start, folders


@kinds
def test_a_run_tunes_and_controls_by_one(runs, kind, tmp_path):
    start, folders = runs
    before, model = load_params(start, load_model(start)), dinado_jax.load_run(folders[kind])
    assert (model.base.model.prefix, model.base.model.first_position) == (2, 2)
    flat, original = by_path(model.base.params), by_path(before)
    chex.assert_trees_all_equal({path: flat[path] for path in original}, original)
    assert {path.partition("attn/")[2] for path in flat.keys() - original.keys()} == {
        "prefix/keys", "prefix/values",
    }  # fmt: skip
    fresh = sft_adapter(config(kind, start).sft, load_model(start)).adapter
    untrained = by_path(fresh.merge(before, fresh.init(KEY, before)))
    assert all(np.any(flat[path] != untrained[path]) for path in flat.keys() - original.keys())
    # As a base of its own, and as files.
    q = model.as_base()
    assert (q.model.prefix, q.model.first_position) == (5, 2)
    prompts = ["a dog", "the old man"]
    q.save(tmp_path / "base")
    model.save(tmp_path / "control")
    others = [q, *(dinado_jax.load(tmp_path / name) for name in ("base", "control"))]
    drawn, *again = (
        list(one.generate(prompts, max_new_tokens=8, seed=1)) for one in (model, *others)
    )
    assert all([text.text for text in texts] == [text.text for text in drawn] for texts in again)


@kinds
def test_a_stopped_run_continues_bit_for_bit(runs, kind, tmp_path):
    start, folders = runs
    stopped = shutil.copytree(folders[kind], tmp_path / "run")
    (stopped / "sft" / "done.json").unlink()
    for path in ("sft/checkpoints_sft/4", "sft/base", "rollout", "train", "generate", "evaluate"):
        shutil.rmtree(stopped / path)
    run_stages(config(kind, start), STAGES, stopped)
    once, again = (dinado_jax.load_run(folder) for folder in (folders[kind], stopped))
    chex.assert_trees_all_equal(again.base.params, once.base.params)
    chex.assert_trees_all_equal(again.params, once.params)


@kinds
def test_a_run_whose_base_has_one_exports_none(runs, kind, tmp_path):
    """peft would not load the base's own with it; nor does it have rows beside a prefix."""
    said = error_of(export, runs[1][kind], tmp_path / "adapter", "peft")
    assert "its base has a prefix" in said and not (tmp_path / "adapter").exists()
    adapter, params, own, _ = made("gpt2_inner", kind, shift=False)
    refused(
        "delta.shift=true", write_adapter, tmp_path, adapter.model, params, adapter, own, "base"
    )


def test_what_leaves_no_room_is_said_before_anything_runs(finished_run):
    start = finished_run / "sft" / "base"
    shift = "delta.shift=true"
    said = error_of(dry_run, config("prefix", start, shift, "delta.positions=22"))
    assert "a prefix of 22 positions leaves no room for text" in said
    said = error_of(dry_run, config("prompt", start, shift, "delta.positions=15"))
    assert "no room for a prompt in the base's 7 positions: lower it or delta.positions" in said
    said = error_of(dry_run, config("prompt", start, "sft.positions=30"))
    assert "a prefix of 30 positions leaves no room for text" in said
