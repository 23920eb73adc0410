"""Hugging Face folders of any architecture: finding, reading and writing, and what is refused."""

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
from safetensors import safe_open
from support.folders import refused, shard, write_index

from dinado_jax.models.hf_folder import (
    check_finite,
    check_tensors,
    locate,
    read_config,
    read_tensors,
    write_folder,
)

SHAPES = {"a.weight": (11, 4), "b.bias": (4,), "c.weight": (4, 6), "d.scale": (4,)}
CONFIG = {"model_type": "anything", "n_embd": 4}


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(dtype) for key, shape in SHAPES.items()}


@pytest.fixture
def folder(tmp_path):
    """A small written folder, to be damaged."""
    write_folder(tmp_path / "model", CONFIG, tensors())
    return tmp_path / "model"


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        assert ours[key].dtype == array.dtype, key
        np.testing.assert_array_equal(ours[key], array, err_msg=key)


# There and back


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip(tmp_path, dtype):
    write_folder(tmp_path / "new" / "model", CONFIG, tensors(dtype))
    assert read_config(tmp_path / "new" / "model") == CONFIG
    assert_same(read_tensors(tmp_path / "new" / "model"), tensors(dtype))


def test_files_as_hugging_face_writes_them(folder):
    with safe_open(folder / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    files = {path.name: path for path in folder.iterdir()}
    assert files.keys() == {"config.json", "model.safetensors"}
    assert files["model.safetensors"].stat().st_mode == files["config.json"].stat().st_mode


def test_write_lays_out_views(tmp_path):
    views = {key: np.asfortranarray(tensor) for key, tensor in tensors().items()}
    write_folder(tmp_path, CONFIG, views)
    assert_same(read_tensors(tmp_path), tensors())


def test_write_replaces_weights_and_keeps_other_files(folder):
    (folder / "tokenizer.json").write_text("{}")
    changed = tensors() | {"b.bias": np.zeros(4, np.float32)}
    write_folder(folder, CONFIG, changed)
    assert_same(read_tensors(folder), changed)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip


def test_failed_write_leaves_the_old_file(folder, monkeypatch):
    def disk_full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("dinado_jax.models.hf_folder.save_file", disk_full)
    with pytest.raises(OSError, match="disk full"):
        write_folder(folder, CONFIG, tensors())
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_shards(folder):
    shard(folder)
    assert_same(read_tensors(folder), tensors())


def test_shards_behind_links(folder, tmp_path):
    """The hub cache holds links to files elsewhere."""
    shard(folder)
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in folder.iterdir():
        (cache / path.name).symlink_to(path)
    assert_same(read_tensors(cache), tensors())


# What is refused: tensors


def test_tensors_that_fit():
    check_tensors(tensors(), SHAPES, Path("here"))
    check_finite(tensors(), Path("here"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"e": np.zeros((2, 3), np.float32)}, r"e expected nothing, found \(2, 3\)"),
        ({"e": np.zeros((), np.float32)}, r"e expected nothing, found \(\)"),
        ({"c.weight": np.zeros((6, 4), np.float32)}, r"c.weight expected \(4, 6\), found \(6, 4\)"),
        ({"b.bias": np.zeros(4, np.int8)}, "b.bias expected float32 .* found int8"),
        ({"b.bias": np.zeros(4, np.float64)}, "b.bias expected float32 .* found float64"),
    ],
)
def test_tensors_that_do_not_fit(change, message):
    said = refused(message, check_tensors, tensors() | change, SHAPES, Path("here"))
    assert "here" in said


def test_missing_tensor():
    found = tensors()
    del found["a.weight"]
    refused(r"a.weight expected \(11, 4\), found nothing", check_tensors, found, SHAPES, Path())


def test_many_misfits_stay_readable():
    found = {f"layer.{i}.{'x' * 40}": np.zeros(3, np.float32) for i in range(20)}
    assert len(refused("and 15 more", check_tensors, found, {}, Path())) < 700


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_that_are_not_finite(value, dtype):
    found = tensors(dtype)
    found["c.weight"][2, 3] = value
    refused("c.weight holds values that are not finite", check_finite, found, Path())


# What is refused: files


@pytest.mark.parametrize("file", ["pytorch_model.bin", "flax_model.msgpack", "model.pt"])
def test_foreign_formats(folder, file):
    (folder / "model.safetensors").rename(folder / file)
    refused(rf"{file}.*safe_serialization=True", read_tensors, folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(f"no model.safetensors .*{folder}", read_tensors, folder)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(f"unreadable safetensors, {path}", read_tensors, folder)


def test_corrupt(folder):
    path = folder / "model.safetensors"
    path.write_bytes(b"not a header at all" * 50)
    refused(f"unreadable safetensors, {path}", read_tensors, folder)


def test_shard_missing(folder):
    shard(folder)
    (folder / "part-1.safetensors").unlink()
    refused("missing shard part-1.safetensors", read_tensors, folder)


@pytest.mark.parametrize("form", ["../{}", "{folder}/../{}", "sub/../../{}", ".."])
def test_shard_outside(folder, form):
    index = shard(folder)
    shutil.copy(folder / "part-1.safetensors", folder.parent)
    outside = form.format("part-1.safetensors", folder=folder)
    key = next(k for k, file in index["weight_map"].items() if file == "part-1.safetensors")
    index["weight_map"][key] = outside
    write_index(folder, index)
    (folder / "sub").mkdir()
    refused("outside the folder", read_tensors, folder)


def test_index_disagrees_with_shards(folder):
    index = shard(folder)
    index["weight_map"]["ghost"] = "part-0.safetensors"
    write_index(folder, index)
    refused("ghost is in the index only", read_tensors, folder)
    del index["weight_map"]["ghost"], index["weight_map"]["a.weight"]
    write_index(folder, index)
    refused("a.weight is in part-", read_tensors, folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}, [1]])
def test_index_malformed(folder, index):
    shard(folder)
    write_index(folder, index)
    refused("index.json", read_tensors, folder)


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "loop", "pipe", "dir"])
def test_shards_that_are_no_files(folder, name):
    index = shard(folder)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "dir").mkdir()
    index["weight_map"]["a.weight"] = name
    write_index(folder, index)
    refused("missing shard", read_tensors, folder)


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


def test_an_adapter_beside_the_weights(folder):
    (folder / "adapter_config.json").write_text("{}")
    refused("an adapter, .*merge_and_unload", read_config, folder)


def test_settings_of_sampling_are_named_once(folder, capsys):
    """As in Qwen2.5-Instruct, which has more in it than a decoder's defaults."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "temperature": 1.0, "eos_token_id": 3}))
    assert read_config(folder) == CONFIG
    assert not capsys.readouterr().err
    path.write_text(json.dumps({"temperature": 0.7, "repetition_penalty": 1.05, "top_k": 20}))
    for _ in range(2):
        assert read_config(folder) == CONFIG
    (line,) = capsys.readouterr().err.splitlines()
    assert f"warning: {path} has temperature, top_k, repetition_penalty: not applied" in line


def test_settings_of_generation(folder):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"suppress_tokens": [3]}))
    refused(r"generation_config.json has suppress_tokens = \[3\]", read_config, folder)
    path.write_text("[" * 10**5)
    refused("generation_config.json, nested too deep", read_config, folder)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}'])
def test_config_without_bounds(folder, text):
    (folder / "config.json").write_text(text)
    refused("config.json, ", read_config, folder)


@pytest.mark.parametrize(
    "name, value",
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("auto_map", {"AutoModelForCausalLM": "model.Mine"}),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("suppress_tokens", [3]),
        ("bad_words_ids", [[3]]),
        ("forced_eos_token_id", 3),
    ],
)
def test_an_option_that_would_be_ignored(folder, name, value):
    write_folder(folder, CONFIG | {name: value}, tensors())
    assert len(refused(name, read_config, folder)) < 400


def test_options_that_change_nothing(folder):
    options = {
        "quantization_config": None,
        "auto_map": {},
        "pruned_heads": {},
        "is_encoder_decoder": False,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    }
    write_folder(folder, CONFIG | options, tensors())
    assert read_config(folder) == CONFIG | options


# Finding a model


@pytest.mark.parametrize("name", ["x" * 300, "./" + "x" * 300, "nul\0", "loop", "\ud800"])
def test_locate_no_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    refused("correct it|choose a shorter name|links lead back", locate, name)


def test_locate_folder(folder, monkeypatch):
    assert locate(str(folder)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("~/model") == folder
    monkeypatch.chdir(folder.parent)
    assert locate("model").resolve() == folder


@pytest.mark.parametrize("name", ["./gone", "../gone", "/gone/away", "~/gone", "runs/gone/base"])
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
        "import sys, dinado_jax.models.architectures\n"
        "sys.exit(bool({'transformers', 'huggingface_hub', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
