"""Whole runs on a pretrained Llama: a folder with a tokenizer whose begin of text is not its end, a
head of its own, and rows in its tables that no token has.
"""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from support import tiny, tiny_run, tokenizer_folders
from support.folders import edit, refused

import dinado_jax
from dinado_jax import cli
from dinado_jax.data.batch import Batch
from dinado_jax.data.sequences import sequences
from dinado_jax.models.architectures import save_model
from dinado_jax.models.llama import Llama, LlamaConfig, Rope
from dinado_jax.models.output import logits
from dinado_jax.models.params import init_params
from dinado_jax.stages.pipeline import load_run, run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.tasks import toy

MODEL = Llama(
    LlamaConfig(
        vocab_size=610,
        max_position_embeddings=24,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        rope=Rope(1e4, "llama3", 4.0, 1.0, 4.0, 16),
    )
)
PROMPTS = ["dog chase kite =", "cat ="]
TABLES = ["embed_tokens/embedding", "lm_head/embedding"]
MATRICES = {
    f"layers_{layer}/{name}_proj/kernel"
    for layer in range(1)
    for name in (*(f"self_attn/{x}" for x in "qkvo"), "mlp/gate", "mlp/up", "mlp/down")
}
NORMS = {"norm/scale"} | {
    f"layers_{layer}/{name}_layernorm/scale"
    for layer in range(1)
    for name in ("input", "post_attention")
}
# For each kind its settings, and the parameters that its delta changes.
KINDS = {
    "merge": ([f"delta.low_rank={json.dumps(['default', *TABLES])}"], MATRICES | NORMS | {*TABLES}),
    "soft": (
        [
            *("control.trunk=low_rank", "train.objective=prefixes"),
            r"delta.low_rank=layers_0/self_attn/[qv]_proj/kernel",
            "delta.full=lm_head/embedding",
        ],
        {"layers_0/self_attn/q_proj/kernel", "layers_0/self_attn/v_proj/kernel", TABLES[1]},
    ),
    "nado": (["control.layers=1", "train.objective=published"], None),
    "hard": (["control.form=projected", "train.objective=ratio"], MATRICES | NORMS),
}


def config(kind, *overrides):
    given = [f"control.kind={kind}", *KINDS[kind][0], "sft.steps=2", "train.rounds=1"]
    given += ["train.steps=3", "train.warmup=1", "train.learning_rate=0.05"]
    return tiny_run.config(*given, *overrides)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def save_base(folder, model):
    """Returns the setting that names the folder."""
    lines = [
        f" {example.prompt} {reference}"
        for example in toy.examples("train", 400, 0)
        for reference in example.references
    ]
    tokenizer_folders.llama3(folder, lines=lines, vocab_size=594)
    params = jax.device_get(tiny.noisy(init_params(model, 0), 0.1))
    save_model(folder, model, params, {"bos_token_id": 0, "eos_token_id": [1, 2, 3]})
    return f"base.path={folder}"


@pytest.fixture(scope="module")
def base_path(tmp_path_factory, compiled_quickly):
    return save_base(tmp_path_factory.mktemp("llama") / "base", MODEL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base_path):
    """`trained(kind)`: the folder of a run whose stage train is done; not to be changed."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    run_stages(config("merge", base_path), STAGES[:2], folder / "begun")

    def run(kind):
        if kind not in made:
            shutil.copytree(folder / "begun", folder / kind)
            run_stages(config(kind, base_path), ("train",), folder / kind)
            made[kind] = folder / kind
        return made[kind]

    return run


def full_pass(model, completions):
    """(log q, log p) of every new token of each completion, from passes over whole rows."""
    base = model.base
    prompts = base.codec.prompts([one.prompt for one in completions])
    rows = sequences(prompts, [one.tokens.tolist() for one in completions], 1, 24)
    batch = Batch(tokens=rows.tokens, prompt_length=rows.prompt_length, length=rows.length)
    out = jax.jit(base.model.apply)(base.variables, rows.tokens)
    log_p = jax.nn.log_softmax(logits(out.hidden, out.vocabulary, base.model.excluded_ids))
    log_p = np.take_along_axis(np.asarray(log_p)[:, :-1], rows.tokens[:, 1:, None], 2)[..., 0]
    log_q = np.asarray(jax.jit(model.control.log_policy)(base.params, model.params, batch))
    spans = [slice(p - 1, n - 1) for p, n in zip(rows.prompt_length, rows.length)]
    return [(q[span], p[span]) for q, p, span in zip(log_q, log_p, spans)]


def test_a_merge_as_gguf(tmp_path, compiled_quickly, capsys):
    """Of positions that a file can hold: those of the other tests are for shorter contexts."""
    rope = dataclasses.replace(MODEL.config.rope, theta=1e8, original_context=8192)
    path = save_base(tmp_path / "base", MODEL.replace(rope=rope))
    run_stages(config("merge", path), STAGES[:3], tmp_path / "run")
    capsys.readouterr()
    cli.main(["export", str(tmp_path / "run"), str(tmp_path / "new"), "--format", "gguf"])
    assert capsys.readouterr().out == f"{tmp_path / 'new'}\n"
    model = load_run(tmp_path / "run")
    found, own, base = dinado_jax.load(tmp_path / "new" / "model.gguf"), model.as_base(), model.base
    tokens = np.arange(48, dtype=np.int32).reshape(2, 24) * 12
    logits = [
        np.asarray(each.model.apply(each.variables, tokens).logits) for each in (found, own, base)
    ]
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)
    assert np.abs(logits[0] - logits[2]).max() > 1e-3
    assert found.codec.prompts(PROMPTS) == own.codec.prompts(PROMPTS)
    assert found.codec.stop_ids == own.codec.stop_ids


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_control_trains_and_decodes(trained, kind):
    """Samples have the log-probabilities of passes over whole rows, and so do beams."""
    path = trained(kind)
    log = read_lines(path / "train" / "train.jsonl")
    assert [line["step"] for line in log] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in log)
    model = load_run(path)
    if KINDS[kind][1] is not None:
        direction = model.params["direction"]
        assert set(direction.get("trunk", direction)) == KINDS[kind][1]
    found = dinado_jax.generate(model, PROMPTS, max_new_tokens=8, samples=4)
    if kind == "nado":
        found += dinado_jax.beam_search(model, PROMPTS, max_new_tokens=8, beams=2, hypotheses=2)
    for one, (log_q, log_p) in zip(found, full_pass(model, found), strict=True):
        np.testing.assert_allclose(one.log_probs, log_q, rtol=0, atol=1e-4)
        np.testing.assert_allclose(one.log_probs_base, log_p, rtol=0, atol=1e-4)
    assert max(np.abs(one.log_probs - one.log_probs_base).max() for one in found) > 1e-3


def test_cached_states_of_the_base_train_the_same_control(trained, base_path, tmp_path):
    wanted = trained("nado")
    for stage in STAGES[:2]:
        shutil.copytree(wanted / stage, tmp_path / "run" / stage)
    cached = config("nado", base_path, "train.base_states=float32")
    run_stages(cached, ("train",), tmp_path / "run")
    logs = (read_lines(path / "train" / "train.jsonl") for path in (wanted, tmp_path / "run"))
    for one, other in zip(*logs, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_stages_generate_and_evaluate(trained, base_path, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(trained("merge"), path)
    run_stages(config("merge", base_path), STAGES, path)
    samples = read_lines(path / "generate" / "control.jsonl")
    kl = np.mean([one["log_prob"] - one["log_prob_base"] for one in samples])
    summary = json.loads((path / "summary.json").read_text())
    assert len(samples) == 32 and math.isfinite(kl)
    assert summary["control"]["kl_to_base"] == pytest.approx(kl)
    assert 0 <= summary["control"]["success_rate"] <= 1


def test_a_merge_is_exported(trained, tmp_path):
    """transformers reads what we write, and we read the same function back."""
    from transformers import AutoConfig, AutoTokenizer

    model = load_run(trained("merge"))
    model.as_base().save(tmp_path)
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.architectures == ["LlamaForCausalLM"] and theirs.num_key_value_heads == 2
    assert theirs.rope_parameters["rope_type"] == "llama3" and not theirs.tie_word_embeddings
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 600
    merged, base = dinado_jax.load(tmp_path), model.base
    assert merged.model == base.model
    tokens = np.arange(48).reshape(2, 24)
    apply = jax.jit(base.model.apply)
    adapted = model.control.direction.adapter.variables(base.params, model.params["direction"])
    found, wanted, before = (
        np.asarray(apply(variables, tokens).logits)
        for variables in (merged.variables, adapted, base.variables)
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert np.abs(found - before).max() > 1e-2


def test_a_control_is_refused_beside_another_base(trained, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(trained("merge"), path)
    base = path / "sft" / "base"
    edit(base, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] * np.float32(1.01)}))
    refused(r"base/model\.safetensors.* changed", load_run, path)
