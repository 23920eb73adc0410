"""Models in GGUF files, as if in Hugging Face folders: a config.json, and tensors by key."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from dinado_jax.errors import InputError, quote
from dinado_jax.models.gguf_file import GGUF, dequantize, read_gguf

_AGAIN = "copy or download it again"
_OTHER = "choose another file, or a folder with safetensors"
_HEADS = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# Metadata under the architecture's name, by their names in a config.json.
SIZES = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
}
# Metadata that `_config` reads, or that has no effect of its own.
_READ = (
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "vocab_size",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",  # its old name
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)
# Other metadata, with the values that leave the function as it is.
_NEUTRAL: dict[str, tuple] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scaling.attn_factor": (1.0,),
    "tensor_data_layout": ("Meta AI original pth",),
}
ROPE_FACTORS = "rope_freqs.weight"
# Of all models with rope_type "llama3"; a file holds only what follows from them.
LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(?P<block>0|[1-9]\d{0,5})\.)?(?P<part>\w+)\.(?P<what>weight|bias)")


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a file's model, with its model_type.

    Raises:
      InputError: as `read_gguf`; for one file of several; for another architecture, and metadata
        that would be ignored; for missing and contradicting sizes; for positions that no
        architecture here has.
    """
    return _config(_read(path))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads every tensor under its Hugging Face key: quantised ones as float32, others as they are.

    Raises:
      InputError: as `read_config`; for a tensor or a quantisation that is not known.
    """
    file = _read(path)
    config = _config(file)
    # The rotary pairs of Llama's heads lie side by side in a GGUF file.
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found = {}
    for name in file.tensors:
        if name == ROPE_FACTORS:
            continue
        key, part = _key(name, path)
        tensor = dequantize(file, name)
        if file.architecture == "llama" and part in heads:
            tensor = _halves(tensor, heads[part], name, path)
        found[key] = tensor
    return found


def bos_and_eos(file: GGUF) -> dict[str, Any]:
    """The settings of a config.json that say which tokens begin and end a text, None for none.

    The first eos_token_id ends a text, the others a turn or a message.
    """
    bos, *ends = (
        file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos", "eot", "eom")
    )
    distinct = [id for n, id in enumerate(ends) if id is not None and id not in ends[:n]]
    return {"bos_token_id": bos, "eos_token_id": distinct or None}


def tokenizer_beside(path: Path) -> Path | None:
    """The folder of a GGUF file if a tokenizer.json is there: it goes before the file's own."""
    return path.parent if (path.parent / "tokenizer.json").is_file() else None


def _read(path: Path) -> GGUF:
    """Reads the header of a model. InputError for another architecture than those here, and for
    metadata that would change the function and is not known.
    """
    file = read_gguf(path)
    metadata = file.metadata
    kind = metadata.get("general.architecture")
    if not isinstance(kind, str) or kind not in _HEADS:
        raise InputError(
            f"general.architecture is {quote(kind)}, {path}: only {' or '.join(_HEADS)} can be "
            "read from GGUF"
        )
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise InputError(
            f"one of {quote(parts)} files, {path}: join them (llama-gguf-split --merge)"
        )
    if metadata.get("general.type", "model") != "model":
        what = quote(metadata["general.type"])
        raise InputError(f"general.type is {what}, {path}: only a model can be read, {_OTHER}")
    if metadata.get("general.quantization_version", 2) != 2:
        what = quote(metadata["general.quantization_version"])
        raise InputError(f"general.quantization_version is {what}, {path}: only 2 can be read")
    for key, value in metadata.items():
        name = key.removeprefix(f"{kind}.")
        known = name == key or name in SIZES or name in _READ
        if not known and value not in _NEUTRAL.get(name, ()):
            raise InputError(f"{quote(key)} is {quote(value)}, {path}: not supported, {_OTHER}")
    return file


def _config(file: GGUF) -> dict[str, Any]:
    config: dict[str, Any] = {key: _whole(file, name) for name, key in SIZES.items()}
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head_width = _whole(file, "attention.key_length", width // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if (given := _whole(file, name, head_width)) != head_width:
            raise InputError(
                f"{name} is {given}, {file.path}: only {head_width}, the width of a head, is "
                f"supported, {_OTHER}"
            )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"no token_embd.weight, {file.path}: {_AGAIN}")
    if (given := _whole(file, "vocab_size", embedding.shape[0])) != embedding.shape[0]:
        raise InputError(
            f"vocab_size is {given}, {file.path}, and token_embd.weight has "
            f"{embedding.shape[0]} rows: {_AGAIN}"
        )
    theta = _number(file, "rope.freq_base", 10000.0)
    if file.architecture != "qwen2":  # which has them always, and no such option
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    return config | {
        "model_type": file.architecture,
        "architectures": [_HEADS[file.architecture]],
        "hidden_act": "silu",
        "vocab_size": embedding.shape[0],
        "num_key_value_heads": _whole(file, "attention.head_count_kv", heads),
        "head_dim": head_width,
        "rms_norm_eps": _number(file, "attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(file, theta, head_width),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **bos_and_eos(file),
    }


def _whole(file: GGUF, name: str, default: int | None = None) -> int:
    """A size. Per-layer sizes have to be equal."""
    value = file.get(name, default)
    if isinstance(value, list) and value and value.count(value[0]) == len(value):
        value = value[0]
    if type(value) is not int or value < 1:  # type: a bool is an int too
        raise InputError(
            f"{file.architecture}.{name} is {quote(value)}, {file.path}: it must be an integer of "
            f"at least 1, {_OTHER}"
        )
    return value


def _number(file: GGUF, name: str, default: float | None = None) -> float:
    """A positive number, in the fewest digits that tell it from others of float32."""
    value = file.get(name, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise InputError(
            f"{file.architecture}.{name} is {quote(value)}, {file.path}: it must be a number "
            f"above 0, {_AGAIN}"
        )
    return float(str(np.float32(value)))


def _rope_scaling(file: GGUF, theta: float, head_width: int) -> dict[str, Any] | None:
    """The `rope_scaling` of a config.json; None: positions are not scaled."""
    kind = file.get("rope.scaling.type", "linear")
    factor = _number(file, "rope.scaling.factor", file.get("rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        raise InputError(
            f"rope.scaling.type is {quote(kind)}, {file.path}: not supported, {_OTHER}"
        )
    scaled = kind == "linear" and factor != 1.0
    if ROPE_FACTORS not in file.tensors:
        return {"rope_type": "linear", "factor": factor} if scaled else None
    factors = dequantize(file, ROPE_FACTORS)
    frequencies = theta ** -(np.arange(0, head_width, 2) / head_width)
    expected = llama3_factors(frequencies, float(factors.max()))
    if scaled or factors.shape != expected.shape or not np.allclose(factors, expected, 1e-5, 0):
        raise InputError(
            f"{ROPE_FACTORS} holds other factors than those of Llama 3, {file.path}: not "
            f"supported, {_OTHER}"
        )
    return {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3}


def llama3_factors(frequencies: np.ndarray, factor: float) -> np.ndarray:
    """By what Llama 3.1 divides each rotary frequency: 1 for short waves, `factor` for long ones,
    and between them a blend of the frequencies.
    """
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    turns = LLAMA3["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - kept) / factor + kept)


def _key(name: str, path: Path) -> tuple[str, str]:
    """The Hugging Face key of a tensor, and its name in the block."""
    match = _NAME.fullmatch(name)
    part = match["part"] if match else ""
    table = BLOCK if match and match["block"] else OUTER
    if match is None or part not in table:
        raise InputError(f"tensor {quote(name)}, {path}: no part of a model known here, {_OTHER}")
    block = f"model.layers.{match['block']}." if match["block"] else ""
    return f"{block}{table[part]}.{match['what']}", part


def _halves(tensor: np.ndarray, heads: int, name: str, path: Path) -> np.ndarray:
    """Rows of queries or keys in the order of Hugging Face.

    A rotary pair is (x_i, y_i); the rows of each head are

        GGUF:          x_0 y_0 x_1 y_1 ..
        Hugging Face:  x_0 x_1 .. y_0 y_1 ..
    """
    rows = tensor.shape[0]
    if rows % (2 * heads):
        raise InputError(
            f"{name} has {rows} rows, {path}: {heads} heads of even width do not fit, {_AGAIN}"
        )
    pairs = tensor.reshape(heads, rows // heads // 2, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)
