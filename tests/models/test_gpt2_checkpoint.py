"""Reading and writing Hugging Face GPT-2 folders: what goes round, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
import support
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file
from support.folders import edit, refused

from dinado_jax.models.architectures import load_model, load_params, save_model
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.gpt2_checkpoint import names, parse_config, to_config
from dinado_jax.models.hf_folder import read_config
from dinado_jax.models.params import param_shapes

GOLDEN = support.GOLDEN
MODEL = GPT2(GPT2Config(vocab_size=11, n_positions=5, n_embd=4, n_layer=2, n_head=2, n_inner=6))
LAYERS = 2


def random_params(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = param_shapes(MODEL)
    flat = {path: rng.normal(size=shape).astype(dtype) for path, shape in shapes.items()}
    return unflatten_dict(flat, sep="/")


@pytest.fixture
def folder(tmp_path):
    """A small written model, to be damaged."""
    save_model(tmp_path / "model", MODEL, random_params())
    return tmp_path / "model"


def assert_same(ours, theirs):
    ours, theirs = flatten_dict(ours, sep="/"), flatten_dict(theirs, sep="/")
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        assert ours[path].dtype == array.dtype, path
        np.testing.assert_array_equal(ours[path], array, err_msg=path)


# The table


def test_the_table_names_every_parameter_once():
    table = names(LAYERS)
    assert set(table.values()) == param_shapes(MODEL).keys()
    assert len(set(table.values())) == len(table)


# There and back


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip(tmp_path, dtype):
    params = random_params(dtype)
    save_model(tmp_path / "new" / "model", MODEL, params)
    hf = read_config(tmp_path / "new" / "model")
    assert load_model(tmp_path / "new" / "model") == MODEL
    assert hf["model_type"] == "gpt2"
    assert hf["dtype"] == np.dtype(dtype).name
    assert hf["architectures"] == ["GPT2LMHeadModel"]
    assert_same(load_params(tmp_path / "new" / "model", MODEL), params)


def test_written_as_hugging_face_does(folder):
    theirs = GOLDEN / "gpt2_inner" / "model.safetensors"
    with safe_open(folder / "model.safetensors", "np") as ours, safe_open(theirs, "np") as golden:
        assert ours.metadata() == golden.metadata() == {"format": "pt"}
        assert set(ours.keys()) == set(golden.keys())


def test_ends_of_a_text(tmp_path):
    ends = {"bos_token_id": None, "eos_token_id": [1, 0]}
    save_model(tmp_path, MODEL, random_params(), ends)
    assert ends.items() <= read_config(tmp_path).items()


def test_golden_folder_goes_round(tmp_path):
    """Bytes made by another implementation come back key by key."""
    source = GOLDEN / "gpt2_odd_vocab"
    model = load_model(source)
    save_model(tmp_path, model, load_params(source, model))
    assert_same(load_file(tmp_path / "model.safetensors"), load_file(source / "model.safetensors"))


def test_write_refuses_a_wrong_pytree(tmp_path):
    params = random_params()
    del params["wpe"]
    refused(r"wpe/embedding expected \(5, 4\), found nothing", save_model, tmp_path, MODEL, params)
    assert not list(tmp_path.iterdir())


# Forms of the same weights


def test_bare_keys_with_mask_buffers(folder):
    def older(tensors):
        for key in list(tensors):
            tensors[key.removeprefix("transformer.")] = tensors.pop(key)
        for i in range(LAYERS):
            tensors[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 5, 5), np.float32))
            tensors[f"h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)

    edit(folder, older)
    assert_same(load_params(folder, MODEL), random_params())


def test_tied_head_is_dropped(folder):
    edit(folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].copy()}))
    assert_same(load_params(folder, MODEL), random_params())


def test_a_head_alone_stands_for_the_table(folder):
    """safetensors.torch.save_model keeps one of two tied names, and that may be this one."""
    edit(folder, lambda t: t.update({"lm_head.weight": t.pop("transformer.wte.weight")}))
    assert_same(load_params(folder, MODEL), random_params())


def test_a_head_alone_of_another_shape_is_no_table(folder):
    def transposed(tensors):
        table = tensors.pop("transformer.wte.weight")
        tensors["lm_head.weight"] = np.ascontiguousarray(table.T)

    edit(folder, transposed)
    refused(r"wte.weight expected \(11, 4\), found \(4, 11\)", load_params, folder, MODEL)


# What is refused: keys


@pytest.mark.parametrize("value", [np.zeros((11, 4), np.float32), np.zeros((3, 4), np.float32)])
def test_untied_head(folder, value):
    edit(folder, lambda t: t.update({"lm_head.weight": value}))
    refused("untied heads are not supported", load_params, folder, MODEL)


@pytest.mark.parametrize(
    "key", ["transformer.h.1.ln_2.bias", "transformer.wte.weight", "transformer.ln_f.weight"]
)
def test_missing_key(folder, key):
    edit(folder, lambda t: t.pop(key))
    bare = key.removeprefix("transformer.")
    refused(rf"{bare} expected \(.*\), found nothing", load_params, folder, MODEL)


@pytest.mark.parametrize(
    "key", ["transformer.h.2.attn.bias", "h.0.crossattention.c_attn.weight", "score.weight"]
)
def test_unused_key(folder, key):
    edit(folder, lambda t: t.update({key: np.zeros((2, 3), np.float32)}))
    bare = key.removeprefix("transformer.")
    refused(rf"{bare} expected nothing, found \(2, 3\)", load_params, folder, MODEL)


def test_misshapen_key(folder):
    """A square kernel cannot tell, but this one shows a layout of (out, in)."""
    key = "transformer.h.0.mlp.c_fc.weight"
    edit(folder, lambda t: t.update({key: np.ascontiguousarray(t[key].T)}))
    refused(
        r"h\.0\.mlp\.c_fc\.weight expected \(4, 6\), found \(6, 4\)", load_params, folder, MODEL
    )


@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_unsupported_dtype(folder, dtype):
    key = "transformer.wpe.weight"
    edit(folder, lambda t: t.update({key: t[key].astype(dtype)}))
    refused(f"wpe.weight expected float32 .* found {dtype.__name__}", load_params, folder, MODEL)


def test_values_that_are_not_finite(tmp_path):
    params = random_params()
    params["h_1"]["mlp"]["c_fc"]["bias"][3] = np.nan
    save_model(tmp_path, MODEL, params)
    refused("h.1.mlp.c_fc.bias holds values that are not finite", load_params, tmp_path, MODEL)


def test_a_mask_buffer_may_be_infinite(folder):
    edit(folder, lambda t: t.update({"h.0.attn.masked_bias": np.array(-np.inf, np.float32)}))
    assert_same(load_params(folder, MODEL), random_params())


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "C64", "BOOL", "I64", "U8"])
def test_dtypes_that_are_no_weights(folder, kind):
    """Written byte by byte: NumPy lacks some of them."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:end]), content[end:]
    header["transformer.ln_f.bias"] = {
        "dtype": kind,
        "shape": [4],
        "data_offsets": [len(data), len(data) + 4 * {"C64": 8, "I64": 8}.get(kind, 1)],
    }
    start, stop = json.loads(content[8:end])["transformer.ln_f.bias"]["data_offsets"]
    header["transformer.spare"] = {"dtype": "U8", "shape": [16], "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    data += bytes(header["transformer.ln_f.bias"]["data_offsets"][1] - len(data))
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    refused(r"ln_f.bias (is stored as|expected float32 or)", load_params, folder, MODEL)


def test_key_twice(folder):
    edit(folder, lambda t: t.update({"wte.weight": t["transformer.wte.weight"].copy()}))
    refused("wte.weight with and without 'transformer.'", load_params, folder, MODEL)


# config.json


@pytest.mark.parametrize("config", [{"model_type": "gpt_neo"}, {"model_type": None}])
def test_config_of_another_model(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused('model_type is .*config.json: only "gpt2" or .* models', load_model, tmp_path)


def test_config_of_no_model(tmp_path):
    (tmp_path / "config.json").write_text('{"settings": {}}')
    refused("no model_type in .*config.json: give a model's folder", load_model, tmp_path)


PLAIN = to_config(MODEL)
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


def without(name):
    return {key: value for key, value in PLAIN.items() if key != name}


@pytest.mark.parametrize("alias, name", ALIASES.items())
def test_an_alias_is_the_size(alias, name):
    """As transformers, which has the same table."""
    from transformers import GPT2Config as Theirs

    assert Theirs.attribute_map == ALIASES
    assert parse_config(without(name) | {alias: PLAIN[name]}) == MODEL
    assert parse_config(PLAIN | {alias: PLAIN[name]}) == MODEL


@pytest.mark.parametrize(
    "other, name, value",
    [(alias, name, 12) for alias, name in ALIASES.items()]
    + [
        ("n_ctx", "n_positions", 6),
        ("num_key_value_heads", "n_head", 1),
        ("intermediate_size", "n_inner", 16),
        ("hidden_act", "activation_function", "relu"),
        ("layer_norm_eps", "layer_norm_epsilon", 1e-6),
        ("num_attention_heads", "n_head", None),
    ],
)
def test_two_names_that_differ(other, name, value):
    refused(f"{other} = .* and {name} = ", parse_config, PLAIN | {other: value})


def test_a_name_transformers_reads_past_stands_for_nothing():
    refused(
        "n_ctx = 5 and n_positions = None",
        parse_config,
        without("n_positions") | {"n_ctx": 5},
    )
    inner = without("n_inner")
    refused(
        "intermediate_size = 6 and n_inner = 16",
        parse_config,
        inner | {"intermediate_size": 6},
    )
    assert parse_config(inner | {"intermediate_size": 16}).config.inner == 16


@pytest.mark.parametrize(
    "name, value",
    [
        ("architectures", ["GPT2DoubleHeadsModel"]),
        ("architectures", ["GPT2ForSequenceClassification"]),
        ("architectures", 3),
        ("activation_function", "relu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("position_embedding_type", "rotary"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_theta", 10000.0),
        ("n_layer", 10**7),
        ("n_layer", [2]),
        ("n_embd", 10**4000),
        ("vocab_size", {"a": 1}),
        ("vocab_size", True),
        ("n_inner", 0),
        ("n_inner", 6.0),
        ("layer_norm_epsilon", [1e-5]),
        ("layer_norm_epsilon", 0),
        ("layer_norm_epsilon", float("nan")),
    ],
)
def test_an_option_that_would_be_ignored(name, value):
    assert len(refused(name, parse_config, PLAIN | {name: value})) < 400


def test_options_that_change_nothing():
    spare = {
        "architectures": None,
        "reorder_and_upcast_attn": True,
        "resid_pdrop": 0.5,
        "torch_dtype": "float16",
        "n_ctx": 5,
    }
    assert parse_config(PLAIN | spare) == MODEL
    assert parse_config(PLAIN | {"architectures": ["TFGPT2LMHeadModel"]}) == MODEL
