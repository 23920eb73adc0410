"""Reading and writing Hugging Face folders of the Llama family: what goes round, what is refused.

Wrong and unusual folders are in test_llama_mutations.py.
"""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import support
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file
from support.folders import edit, refused, shard

import dinado_jax
from dinado_jax.models.architectures import load_model, load_params, save_model
from dinado_jax.models.hf_folder import read_config
from dinado_jax.models.llama import Llama, LlamaConfig, Rope
from dinado_jax.models.llama_checkpoint import FAMILIES, key_of, parse_config, to_config
from dinado_jax.models.params import param_shapes

FOLDERS = sorted(path.name for path in support.GOLDEN.glob("llama_*") if path.is_dir())
PLAIN = Llama(
    LlamaConfig(
        vocab_size=11,
        max_position_embeddings=12,
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
    )
)
LLAMA3 = Rope(5e5, "llama3", 32.0, 1.0, 4.0, 8192)
MODELS = {
    "llama": PLAIN.replace(rope=LLAMA3),
    "llama biased": PLAIN.replace(
        attention_bias=True, mlp_bias=True, rope=Rope(1e4, "linear", 2.0)
    ),
    "mistral": PLAIN.replace(model_type="mistral", sliding_window=3),
    "mistral of all": PLAIN.replace(model_type="mistral"),
    "qwen2": PLAIN.replace(model_type="qwen2", tie_word_embeddings=True),
    "qwen2 window": PLAIN.replace(model_type="qwen2", sliding_window=3, full_layers=1),
    "qwen3": PLAIN.replace(model_type="qwen3", attention_bias=True, rms_norm_eps=1e-5),
}


def hf_config(model):
    return to_config(model) | {"model_type": model.model_type}


def random_params(model, dtype=np.float32):
    rng = np.random.default_rng(0)
    flat = {
        path: rng.normal(size=shape).astype(dtype) for path, shape in param_shapes(model).items()
    }
    return unflatten_dict(flat, sep="/")


def assert_same(ours, theirs):
    ours, theirs = flatten_dict(ours, sep="/"), flatten_dict(theirs, sep="/")
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        assert ours[path].dtype == array.dtype, path
        np.testing.assert_array_equal(ours[path], array, err_msg=path)


def test_keys_are_hugging_faces():
    keys = {key_of(path) for path in param_shapes(MODELS["qwen3"])}
    layer = {f"layers.1.self_attn.{x}_proj.{kind}" for x in "qkvo" for kind in ("weight", "bias")}
    layer |= {f"layers.1.mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
    layer |= {f"layers.1.self_attn.{x}_norm.weight" for x in "qk"}
    layer |= {"layers.1.input_layernorm.weight", "layers.1.post_attention_layernorm.weight"}
    assert {key for key in keys if "layers.1" in key} == layer
    assert {key for key in keys if "layers" not in key} == {
        "embed_tokens.weight", "norm.weight", "lm_head.weight",
    }  # fmt: skip


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_round_trip(tmp_path, model, dtype):
    params = random_params(model, dtype)
    save_model(tmp_path / "model", model, params, {"eos_token_id": 3})
    hf = read_config(tmp_path / "model")
    assert load_model(tmp_path / "model") == model
    assert hf["eos_token_id"] == 3
    assert hf["model_type"] == model.model_type and hf["dtype"] == np.dtype(dtype).name
    assert hf["architectures"] == [f"{FAMILIES[model.model_type].classes}ForCausalLM"]
    assert_same(load_params(tmp_path / "model", model), params)


@pytest.mark.parametrize("name", FOLDERS)
def test_golden_folders_go_round(tmp_path, name):
    """Bytes made by transformers come back key by key, and its own options."""
    source = support.GOLDEN / name
    model = load_model(source)
    save_model(tmp_path, model, load_params(source, model))
    assert load_model(tmp_path) == model
    theirs = {}
    for path in source.glob("*.safetensors"):
        theirs |= load_file(path)
    if name == "llama_older":  # no prefix, frequencies, and a head that repeats the table
        theirs = {f"model.{key}": t for key, t in theirs.items() if key != "lm_head.weight"}
        theirs = {key: t for key, t in theirs.items() if "inv_freq" not in key}
    assert_same(load_file(tmp_path / "model.safetensors"), theirs)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_transformers_reads_our_options_as_we_mean_them(model):
    from transformers import AutoConfig

    hf = hf_config(model)
    theirs = AutoConfig.for_model(**hf)
    config = model.config
    for name in ("hidden_size", "num_key_value_heads", "head_dim", "rms_norm_eps", "vocab_size"):
        assert getattr(theirs, name) == getattr(config, name), name
    rope = theirs.rope_parameters
    assert rope["rope_theta"] == config.rope.theta and rope["rope_type"] == config.rope.scaling
    assert rope.get("factor", 1.0) == config.rope.factor
    assert theirs.tie_word_embeddings == config.tie_word_embeddings
    kinds = getattr(theirs, "layer_types", None)
    if kinds is None:
        kinds = ["full" if getattr(theirs, "sliding_window", None) is None else "sliding"] * 2
    windows = [config.window(layer) for layer in range(2)]
    assert ["sliding" in kind for kind in kinds] == [window is not None for window in windows]
    assert parse_config(json.loads(theirs.to_json_string(use_diff=False))) == model


def test_shards(tmp_path):
    model = MODELS["qwen3"]
    save_model(tmp_path, model, random_params(model))
    shard(tmp_path)
    assert_same(load_params(tmp_path, model), random_params(model))


def test_a_head_alone_stands_for_the_table(tmp_path):
    """safetensors.torch.save_model keeps one of two tied names, and that may be this one."""
    model = MODELS["qwen2"]
    save_model(tmp_path, model, random_params(model))
    table = "model.embed_tokens.weight"
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t.pop(table)}))
    assert_same(load_params(tmp_path, model), random_params(model))


# config.json

REAL = {
    "Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
    },
    "Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
        "transformers_version": "4.34.0.dev0", "vocab_size": 32000,
    },
    "Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896,
        "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768,
        "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "use_mrope": False,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
        "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
        "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_options_of_published_models(name):
    model = parse_config(REAL[name])
    assert model.model_type == REAL[name]["model_type"]
    assert model.config.sliding_window == (4096 if "Mistral" in name else None)
    assert model.config.head_dim == {"Llama-3.2-1B": 64, "Qwen2.5-0.5B": 64}.get(name, 128)
    assert parse_config(hf_config(model)) == model


@pytest.mark.parametrize(
    "kind, name, value",
    [
        ("llama", "vocab_size", None),
        ("llama", "hidden_size", 8.0),
        ("llama", "num_hidden_layers", 10**7),
        ("llama", "num_attention_heads", True),
        ("llama", "num_key_value_heads", "2"),
        ("llama", "head_dim", 0),
        ("llama", "head_dim", 3),
        ("llama", "intermediate_size", [6]),
        ("llama", "max_position_embeddings", 10**4000),
        ("llama", "rms_norm_eps", float("nan")),
        ("llama", "rms_norm_eps", True),
        ("llama", "rope_scaling", "linear"),
        ("llama", "rope_scaling", {"rope_type": "linear", "factor": float("inf")}),
        ("llama", "rope_scaling", {"rope_type": {"a": 1}, "factor": 2}),
        ("llama", "rope_scaling", {"rope_type": "linear", "factor": True}),
        ("llama", "attention_bias", 1),
        ("llama", "tie_word_embeddings", None),
        ("llama", "hidden_act", {"a": 1}),
        ("llama", "architectures", ["LlamaForSequenceClassification"]),
        ("llama", "use_sliding_window", True),
        ("mistral", "attention_bias", True),
        ("mistral", "mlp_bias", True),
        ("mistral", "max_window_layers", 1),
        ("mistral", "sliding_window", True),
        ("qwen2", "attention_bias", False),
        ("qwen2", "use_sliding_window", 1),
        ("qwen2", "layer_types", "full_attention"),
        ("qwen2 window", "max_window_layers", -1),
        ("qwen2 window", "sliding_window", "3"),
        ("qwen3", "head_dim", None),
        ("qwen3", "num_experts", 8),
    ],
)
def test_an_option_that_is_refused(kind, name, value):
    message = refused(name.split("_")[0], parse_config, hf_config(MODELS[kind]) | {name: value})
    assert len(message) < 500


def test_high_and_low_frequencies_in_order():
    hf = hf_config(MODELS["llama"])
    hf["rope_scaling"] = hf["rope_scaling"] | {"low_freq_factor": 4.0}
    refused("high_freq_factor = 4.0: it must be above", parse_config, hf)


def test_one_door(tmp_path):
    model = MODELS["qwen3"]
    save_model(tmp_path, model, random_params(model))
    base = dinado_jax.load(tmp_path, dtype="bfloat16")
    assert base.model == model.replace(dtype="bfloat16")
    logits = jax.jit(base.model.apply)({"params": base.params}, np.int32([[1, 2]])).logits
    assert logits.shape == (1, 2, 11) and logits.dtype == np.float32
