"""Whole runs on a pretrained Llama: a folder with a tokenizer whose begin of text is not its end, a
head of its own, and rows in its tables that no token has.
"""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from support import tiny, tiny_run, tokenizer_folders

from dinado_jax.data.sequences import sequences
from dinado_jax.models.architectures import save_model
from dinado_jax.models.llama import Llama, LlamaConfig, Rope
from dinado_jax.models.output import logits
from dinado_jax.models.params import init_params
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.tasks import toy

MODEL = Llama(
    LlamaConfig(
        vocab_size=610,
        max_position_embeddings=24,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        rope=Rope(1e4, "llama3", 4.0, 1.0, 4.0, 16),
    )
)
TABLES = ["embed_tokens/embedding", "lm_head/embedding"]
MATRICES = {
    f"layers_{layer}/{name}_proj/kernel"
    for layer in range(2)
    for name in (*(f"self_attn/{x}" for x in "qkvo"), "mlp/gate", "mlp/up", "mlp/down")
}
NORMS = {"norm/scale"} | {
    f"layers_{layer}/{name}_layernorm/scale"
    for layer in range(2)
    for name in ("input", "post_attention")
}
# For each kind its settings, and the parameters that its delta changes.
KINDS = {
    "merge": ([f"delta.low_rank={json.dumps(['default', *TABLES])}"], MATRICES | NORMS | {*TABLES}),
    "soft": (
        [
            "control.trunk=low_rank",
            r"delta.low_rank=layers_1/self_attn/[qv]_proj/kernel",
            "delta.full=lm_head/embedding",
        ],
        {"layers_1/self_attn/q_proj/kernel", "layers_1/self_attn/v_proj/kernel", TABLES[1]},
    ),
    "nado": (["control.layers=1", "train.objective=published"], None),
    "hard": (["control.form=projected", "train.objective=ratio"], MATRICES | NORMS),
}


def config(kind, *overrides):
    given = (f"control.kind={kind}", *KINDS[kind][0], "train.rounds=1", "train.steps=2")
    return tiny_run.config(*given, "sft.steps=2", *overrides)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def base_path(tmp_path_factory, compiled_quickly):
    folder = tmp_path_factory.mktemp("llama") / "base"
    lines = [
        f" {example.prompt} {reference}"
        for example in toy.examples("train", 400, 0)
        for reference in example.references
    ]
    tokenizer_folders.llama3(folder, lines=lines, vocab_size=594)
    params = jax.device_get(tiny.noisy(init_params(MODEL, 0), 0.1))
    save_model(folder, MODEL, params, {"bos_token_id": 0, "eos_token_id": [1, 2, 3]})
    return f"base.path={folder}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, base_path):
    """`runs(kind)`: the folder of a finished run; not to be changed."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    run_stages(config("merge", base_path), STAGES[:2], folder / "begun")

    def finished(kind):
        if kind not in made:
            shutil.copytree(folder / "begun", folder / kind)
            run_stages(config(kind, base_path), STAGES, folder / kind)
            made[kind] = folder / kind
        return made[kind]

    return finished


def full_pass(model, completions):
    """(log q, log p) of every new token of each completion, from passes over whole rows."""
    base = model.base
    prompts = base.codec.prompts([one.prompt for one in completions])
    rows = sequences(prompts, [one.tokens.tolist() for one in completions], 1, 24).batch()
    out = jax.jit(base.model.apply)(base.variables, rows.tokens)
    log_p = jax.nn.log_softmax(logits(out.hidden, out.vocabulary, base.model.excluded_ids))
    log_p = np.take_along_axis(np.asarray(log_p)[:, :-1], rows.tokens[:, 1:, None], 2)[..., 0]
    log_q = jax.jit(model.control.log_policy)(base.params, model.params, rows)
    spans = [slice(p - 1, n - 1) for p, n in zip(rows.prompt_length, rows.length)]
    return [(q[span], p[span]) for q, p, span in zip(np.asarray(log_q), log_p, spans)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_control_goes_through_all_stages(runs, kind):
    path = runs(kind)
    log = read_lines(path / "train" / "train.jsonl")
    assert [line["step"] for line in log] == [1, 2]
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in log)
    samples = read_lines(path / "generate" / "control.jsonl")
    kl = np.mean([one["log_prob"] - one["log_prob_base"] for one in samples])
    summary = json.loads((path / "summary.json").read_text())
    assert len(samples) == 32 and math.isfinite(kl)
    assert summary["control"]["kl_to_base"] == pytest.approx(kl)
    assert 0 <= summary["control"]["success_rate"] <= 1
