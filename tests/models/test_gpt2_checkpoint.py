"""Reading and writing Hugging Face GPT-2 folders: what goes round, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
import support
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dinado_jax.errors import InputError
from dinado_jax.models.gpt2 import GPT2Config, init_params
from dinado_jax.models.gpt2_checkpoint import (
    locate,
    names,
    read_config,
    read_params,
    shapes,
    write_folder,
)

GOLDEN = support.GOLDEN
CONFIG = GPT2Config(vocab_size=11, n_positions=5, n_embd=4, n_layer=2, n_head=2, n_inner=6)


def random_params(config, dtype=np.float32):
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=shape).astype(dtype) for path, shape in shapes(config).items()}
    return unflatten_dict(flat, sep="/")


@pytest.fixture
def folder(tmp_path):
    """A small written model, to be damaged."""
    write_folder(tmp_path / "model", CONFIG, random_params(CONFIG))
    return tmp_path / "model"


def edit(folder, change):
    """Rewrites the weights after `change` has edited the dict of tensors in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def shard(folder):
    """Splits model.safetensors in two by an index; returns the index as a dict."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {key: f"part-{i % 2}.safetensors" for i, key in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        save_file({k: t for k, t in tensors.items() if weight_map[k] == file}, folder / file)
    index = {"weight_map": weight_map}
    write_index(folder, index)
    return index


def write_index(folder, index):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def assert_same(ours, theirs):
    ours, theirs = flatten_dict(ours, sep="/"), flatten_dict(theirs, sep="/")
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        assert ours[path].dtype == array.dtype, path
        np.testing.assert_array_equal(ours[path], array, err_msg=path)


def refused(match, function, *args):
    """Asserts that the call is bad input, told in one line that matches."""
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The table


def test_table_is_the_pytree_of_the_model():
    params = flatten_dict(init_params(CONFIG, seed=0), sep="/")
    assert {path: array.shape for path, array in params.items()} == shapes(CONFIG)
    keys, paths = zip(*names(CONFIG.n_layer))
    assert set(paths) == params.keys() and len(set(keys)) == len(keys) == len(paths)


# There and back


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip(tmp_path, dtype):
    params = random_params(CONFIG, dtype)
    write_folder(tmp_path / "new" / "model", CONFIG, params)
    hf = read_config(tmp_path / "new" / "model")
    assert GPT2Config.from_hf(hf) == CONFIG
    assert hf["dtype"] == np.dtype(dtype).name
    assert hf["architectures"] == ["GPT2LMHeadModel"]
    assert_same(read_params(tmp_path / "new" / "model", CONFIG), params)


def test_written_as_hugging_face_does(folder):
    theirs = GOLDEN / "gpt2_inner" / "model.safetensors"
    with safe_open(folder / "model.safetensors", "np") as ours, safe_open(theirs, "np") as golden:
        assert ours.metadata() == golden.metadata() == {"format": "pt"}
        assert set(ours.keys()) == set(golden.keys())
    files = {path.name: path for path in folder.iterdir()}
    assert files.keys() == {"config.json", "model.safetensors"}
    assert files["model.safetensors"].stat().st_mode == files["config.json"].stat().st_mode


def test_end_token(tmp_path):
    write_folder(tmp_path, CONFIG, random_params(CONFIG), end_token=0)
    hf = read_config(tmp_path)
    assert hf["bos_token_id"] == hf["eos_token_id"] == 0


def test_golden_folder_goes_round(tmp_path):
    """Bytes made by another implementation come back key by key."""
    source = GOLDEN / "gpt2_odd_vocab"
    config = GPT2Config.from_hf(read_config(source))
    write_folder(tmp_path, config, read_params(source, config))
    assert_same(load_file(tmp_path / "model.safetensors"), load_file(source / "model.safetensors"))


def test_write_lays_out_views(tmp_path):
    params = random_params(CONFIG)
    kernel = params["h_0"]["attn"]["c_attn"]["kernel"]
    params["h_0"]["attn"]["c_attn"]["kernel"] = np.asfortranarray(kernel)
    write_folder(tmp_path, CONFIG, params)
    assert_same(read_params(tmp_path, CONFIG), random_params(CONFIG))


def test_write_replaces_weights_and_keeps_other_files(folder):
    (folder / "tokenizer.json").write_text("{}")
    changed = random_params(CONFIG)
    changed["ln_f"]["scale"] = np.zeros(4, np.float32)
    write_folder(folder, CONFIG, changed)
    assert_same(read_params(folder, CONFIG), changed)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip


def test_failed_write_leaves_the_old_file(folder, monkeypatch):
    def disk_full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("dinado_jax.models.gpt2_checkpoint.save_file", disk_full)
    with pytest.raises(OSError, match="disk full"):
        write_folder(folder, CONFIG, random_params(CONFIG))
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_write_refuses_a_wrong_pytree(tmp_path):
    params = random_params(CONFIG)
    del params["wpe"]
    refused(
        r"wpe/embedding expected \(5, 4\), found nothing", write_folder, tmp_path, CONFIG, params
    )
    assert not list(tmp_path.iterdir())


# Forms of the same weights


def test_bare_keys_with_mask_buffers(folder):
    def older(tensors):
        for key in list(tensors):
            tensors[key.removeprefix("transformer.")] = tensors.pop(key)
        for i in range(CONFIG.n_layer):
            tensors[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 5, 5), np.float32))
            tensors[f"h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)

    edit(folder, older)
    assert_same(read_params(folder, CONFIG), random_params(CONFIG))


def test_tied_head_is_dropped(folder):
    edit(folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].copy()}))
    assert_same(read_params(folder, CONFIG), random_params(CONFIG))


def test_shards(folder):
    shard(folder)
    assert_same(read_params(folder, CONFIG), random_params(CONFIG))


def test_shards_behind_links(folder, tmp_path):
    """The hub cache holds links to files elsewhere."""
    shard(folder)
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in folder.iterdir():
        (cache / path.name).symlink_to(path)
    assert_same(read_params(cache, CONFIG), random_params(CONFIG))


def test_a_head_alone_stands_for_the_table(folder):
    """safetensors.torch.save_model keeps one of two tied names, and that may be this one."""
    edit(folder, lambda t: t.update({"lm_head.weight": t.pop("transformer.wte.weight")}))
    assert_same(read_params(folder, CONFIG), random_params(CONFIG))


def test_a_head_alone_of_another_shape_is_no_table(folder):
    def transposed(tensors):
        table = tensors.pop("transformer.wte.weight")
        tensors["lm_head.weight"] = np.ascontiguousarray(table.T)

    edit(folder, transposed)
    refused(r"wte.weight expected \(11, 4\), found \(4, 11\)", read_params, folder, CONFIG)


# What is refused: keys


@pytest.mark.parametrize("value", [np.zeros((11, 4), np.float32), np.zeros((3, 4), np.float32)])
def test_untied_head(folder, value):
    edit(folder, lambda t: t.update({"lm_head.weight": value}))
    refused("untied heads are not supported", read_params, folder, CONFIG)


@pytest.mark.parametrize(
    "key", ["transformer.h.1.ln_2.bias", "transformer.wte.weight", "transformer.ln_f.weight"]
)
def test_missing_key(folder, key):
    edit(folder, lambda t: t.pop(key))
    bare = key.removeprefix("transformer.")
    refused(rf"{bare} expected \(.*\), found nothing", read_params, folder, CONFIG)


@pytest.mark.parametrize(
    "key", ["transformer.h.2.attn.bias", "h.0.crossattention.c_attn.weight", "score.weight"]
)
def test_unused_key(folder, key):
    edit(folder, lambda t: t.update({key: np.zeros((2, 3), np.float32)}))
    bare = key.removeprefix("transformer.")
    refused(rf"{bare} expected nothing, found \(2, 3\)", read_params, folder, CONFIG)


def test_unused_scalar(folder):
    edit(folder, lambda t: t.update({"step": np.zeros((), np.float32)}))
    refused(r"step expected nothing, found \(\)", read_params, folder, CONFIG)


def test_misshapen_key(folder):
    """A square kernel cannot tell, but this one shows a layout of (out, in)."""
    key = "transformer.h.0.mlp.c_fc.weight"
    edit(folder, lambda t: t.update({key: np.ascontiguousarray(t[key].T)}))
    refused(
        r"h\.0\.mlp\.c_fc\.weight expected \(4, 6\), found \(6, 4\)", read_params, folder, CONFIG
    )


def test_many_faults_stay_readable(folder):
    edit(folder, lambda t: [t.pop(key) for key in list(t) if ".h." in key])
    assert len(refused("and 19 more", read_params, folder, CONFIG)) < 600


@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_unsupported_dtype(folder, dtype):
    key = "transformer.wpe.weight"
    edit(folder, lambda t: t.update({key: t[key].astype(dtype)}))
    refused(f"wpe.weight expected float32 .* found {dtype.__name__}", read_params, folder, CONFIG)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_that_are_not_finite(tmp_path, value, dtype):
    params = random_params(CONFIG, dtype)
    params["h_1"]["mlp"]["c_fc"]["bias"][3] = value
    write_folder(tmp_path, CONFIG, params)
    refused("h.1.mlp.c_fc.bias holds values that are not finite", read_params, tmp_path, CONFIG)


def test_a_mask_buffer_may_be_infinite(folder):
    edit(folder, lambda t: t.update({"h.0.attn.masked_bias": np.array(-np.inf, np.float32)}))
    assert_same(read_params(folder, CONFIG), random_params(CONFIG))


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
    refused(r"ln_f.bias (is stored as|expected float32 or)", read_params, folder, CONFIG)


def test_key_twice(folder):
    edit(folder, lambda t: t.update({"wte.weight": t["transformer.wte.weight"].copy()}))
    refused("wte.weight with and without 'transformer.'", read_params, folder, CONFIG)


# What is refused: files


@pytest.mark.parametrize("file", ["pytorch_model.bin", "flax_model.msgpack", "model.pt"])
def test_foreign_formats(folder, file):
    (folder / "model.safetensors").rename(folder / file)
    refused(rf"{file}.*safe_serialization=True", read_params, folder, CONFIG)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(f"no model.safetensors .*{folder}", read_params, folder, CONFIG)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(f"unreadable safetensors, {path}", read_params, folder, CONFIG)


def test_corrupt(folder):
    path = folder / "model.safetensors"
    path.write_bytes(b"not a header at all" * 50)
    refused(f"unreadable safetensors, {path}", read_params, folder, CONFIG)


def test_shard_missing(folder):
    shard(folder)
    (folder / "part-1.safetensors").unlink()
    refused("missing shard part-1.safetensors", read_params, folder, CONFIG)


@pytest.mark.parametrize("form", ["../{}", "{folder}/../{}", "sub/../../{}", ".."])
def test_shard_outside(folder, form):
    index = shard(folder)
    shutil.copy(folder / "part-1.safetensors", folder.parent)
    outside = form.format("part-1.safetensors", folder=folder)
    key = next(k for k, file in index["weight_map"].items() if file == "part-1.safetensors")
    index["weight_map"][key] = outside
    write_index(folder, index)
    (folder / "sub").mkdir()
    refused("outside the folder", read_params, folder, CONFIG)


def test_index_disagrees_with_shards(folder):
    index = shard(folder)
    index["weight_map"]["transformer.ghost"] = "part-0.safetensors"
    write_index(folder, index)
    refused("transformer.ghost is in the index only", read_params, folder, CONFIG)
    del index["weight_map"]["transformer.ghost"], index["weight_map"]["transformer.wte.weight"]
    write_index(folder, index)
    refused("transformer.wte.weight is in part-", read_params, folder, CONFIG)


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}, [1]])
def test_index_malformed(folder, index):
    shard(folder)
    write_index(folder, index)
    refused("index.json", read_params, folder, CONFIG)


# config.json


def test_config_folder_missing(tmp_path):
    refused(f"no such folder, {tmp_path / 'gone'}", read_config, tmp_path / "gone")


def test_config_missing(tmp_path):
    refused("no config.json", read_config, tmp_path)


@pytest.mark.parametrize("text", [b"", b"{'a': 1}", b"[1]", b"\xff\xfe{}", b'{"a":\n\n'])
def test_config_not_json(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    refused(
        "config.json, (malformed JSON|not UTF-8|UTF-16|not a JSON object)", read_config, tmp_path
    )


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}, {"model_type": None}])
def test_config_of_another_model(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused("model_type is .*config.json", read_config, tmp_path)


PLAIN = CONFIG.to_hf()
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
    assert GPT2Config.from_hf(without(name) | {alias: PLAIN[name]}) == CONFIG
    assert GPT2Config.from_hf(PLAIN | {alias: PLAIN[name]}) == CONFIG


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
    refused(f"{other} = .* and {name} = ", GPT2Config.from_hf, PLAIN | {other: value})


def test_a_name_transformers_reads_past_stands_for_nothing():
    refused(
        "n_ctx = 5 and n_positions = None",
        GPT2Config.from_hf,
        without("n_positions") | {"n_ctx": 5},
    )
    inner = without("n_inner")
    refused(
        "intermediate_size = 6 and n_inner = 16",
        GPT2Config.from_hf,
        inner | {"intermediate_size": 6},
    )
    assert GPT2Config.from_hf(inner | {"intermediate_size": 16}).inner == 16


@pytest.mark.parametrize(
    "name, value",
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("auto_map", {"AutoModelForCausalLM": "model.Mine"}),
        ("architectures", ["GPT2DoubleHeadsModel"]),
        ("architectures", ["GPT2ForSequenceClassification"]),
        ("architectures", 3),
        ("activation_function", "relu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("position_embedding_type", "rotary"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_theta", 10000.0),
        ("suppress_tokens", [3]),
        ("bad_words_ids", [[3]]),
        ("repetition_penalty", 1.2),
        ("no_repeat_ngram_size", 2),
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
    assert len(refused(name, GPT2Config.from_hf, PLAIN | {name: value})) < 400


def test_options_that_change_nothing():
    spare = {
        "quantization_config": None,
        "auto_map": {},
        "architectures": None,
        "pruned_heads": {},
        "is_encoder_decoder": False,
        "reorder_and_upcast_attn": True,
        "resid_pdrop": 0.5,
        "torch_dtype": "float16",
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "n_ctx": 5,
    }
    assert GPT2Config.from_hf(PLAIN | spare) == CONFIG
    assert GPT2Config.from_hf(PLAIN | {"architectures": ["TFGPT2LMHeadModel"]}) == CONFIG


def test_an_adapter_beside_the_weights(folder):
    (folder / "adapter_config.json").write_text("{}")
    refused("an adapter, .*merge_and_unload", read_config, folder)


def test_settings_of_generation(folder):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "temperature": 0.7, "eos_token_id": 3}))
    assert read_config(folder)["n_embd"] == 4
    path.write_text(json.dumps({"suppress_tokens": [3]}))
    refused(r"generation_config.json has suppress_tokens = \[3\]", read_config, folder)
    path.write_text("[" * 10**5)
    refused("generation_config.json, nested too deep", read_config, folder)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}'])
def test_config_without_bounds(folder, text):
    (folder / "config.json").write_text(text)
    refused("config.json, ", read_config, folder)


# Finding a model


@pytest.mark.parametrize("name", ["x" * 300, "./" + "x" * 300, "nul\0", "loop", "\ud800"])
def test_locate_no_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    refused("correct it|choose a shorter name|links lead back", locate, name)


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "loop", "pipe", "dir"])
def test_shards_that_are_no_files(folder, name):
    index = shard(folder)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "dir").mkdir()
    index["weight_map"]["transformer.wte.weight"] = name
    write_index(folder, index)
    refused("missing shard", read_params, folder, CONFIG)


def test_locate_folder(folder, monkeypatch):
    assert locate(str(folder)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("~/model") == folder
    monkeypatch.chdir(folder.parent)
    assert locate("model").resolve() == folder


@pytest.mark.parametrize("name", ["./gone", "../gone", "/gone/away", "~/gone"])
def test_locate_missing_path_never_asks_the_hub(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked"))
    refused("no such folder", locate, name)


def test_locate_nothing():
    refused("no model named", locate, "")


def test_locate_file(folder):
    refused("not a folder", locate, str(folder / "config.json"))


def test_locate_asks_the_hub_for_safe_files(tmp_path, monkeypatch):
    def snapshot(name, allow_patterns):
        assert name == "owner/model"
        assert {"config.json", "*.safetensors", "*.safetensors.index.json"} <= set(allow_patterns)
        assert not any(pattern.endswith((".bin", ".msgpack", "*")) for pattern in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert locate("owner/model") == tmp_path


def test_locate_asks_for_no_more_than_is_wanted(tmp_path, monkeypatch):
    def snapshot(name, allow_patterns):
        assert allow_patterns == ["config.json"]
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert locate("owner/model", ("config.json",)) == tmp_path


@pytest.mark.parametrize("error", [OSError("no\nroute"), ValueError("bad name"), RuntimeError("?")])
def test_locate_hub_failure(error, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refused("neither a local folder nor reachable on the hub, 'owner/model'", locate, "owner/model")


def test_import_is_light():
    """Neither the hub client nor transformers is loaded before it is needed."""
    code = (
        "import sys, dinado_jax.models.gpt2_checkpoint\n"
        "sys.exit(bool({'transformers', 'huggingface_hub', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
