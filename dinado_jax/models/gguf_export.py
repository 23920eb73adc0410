"""Models and their tokenizers written as GGUF files, in float32, as gguf_checkpoint.py and
gguf_tokenizer.py read them; llama.cpp quantises them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinado_jax.errors import InputError, quote
from dinado_jax.models.architectures import ARCHITECTURES
from dinado_jax.models.codec import Codec
from dinado_jax.models.gguf_checkpoint import (
    BLOCK,
    LLAMA3,
    OUTER,
    ROPE_FACTORS,
    SIZES,
    llama3_factors,
)
from dinado_jax.models.gguf_file import gguf_package
from dinado_jax.models.gguf_tokenizer import (
    CONTROL,
    NORMAL,
    SPLITS,
    UNUSED,
    USER_DEFINED,
    byte_level,
)
from dinado_jax.models.params import has_prefix
from dinado_jax.models.protocol import BaseModel

# model_type: its name in GGUF. Mistral without a sliding window is a Llama.
_NAMES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_KEY = re.compile(r"(?:model\.layers\.(?P<block>\d+)\.)?(?P<part>.+)\.(?P<what>weight|bias)")
_PARTS = {hf: name for table in (OUTER, BLOCK) for name, hf in table.items()}
# How the writer of gguf is given a value of each type.
_ADD = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string"}
_ADD |= {list: "add_array"}
_OTHER = "use --format hf"
# What the ways to cut text into words do otherwise: digits, contractions, lines, accents, signs.
_PROBE = "I'LL say he'll buy 12345 cafe\u0301s\n\n  at  9.50?!\r\n\t\u4f60\u597d ok"


def write_gguf(path: Path, model: BaseModel, params: Mapping, codec: Codec) -> None:
    """Writes a model with its tokenizer.

    Args:
      path: of the file.
      model: of the Llama family.
      params: nested dicts of float32 arrays on the host.
      codec: its tokenizer, a byte-level BPE.

    Raises:
      InputError: for a model, or a tokenizer, that the format cannot hold or that would not be read
        back as it is; and without the package gguf.
    """
    gguf = gguf_package(path)
    if model.model_type not in _NAMES:
        known = ", ".join(_NAMES)
        raise InputError(f"a {model.model_type} is not written as GGUF, only {known}: {_OTHER}")
    if has_prefix(params):
        raise InputError(f"GGUF has no place for the prefix of a model: {_OTHER}")
    checkpoint, name = ARCHITECTURES[model.model_type], _NAMES[model.model_type]
    config = checkpoint.to_config(model)
    tensors = {
        _name(key): _pairs(tensor, key, config) if name == "llama" else tensor
        for key, tensor in checkpoint.to_tensors(params, model).items()
    }
    metadata = {f"{name}.{key}": value for key, value in _sizes(config, tensors).items()}
    metadata |= {"general.type": "model", "general.quantization_version": 2}
    metadata |= _tokenizer(codec, model.vocab_size)
    writer = gguf.GGUFWriter(path, name)
    for key, value in metadata.items():
        getattr(writer, _ADD[type(value)])(key, value)
    for key, tensor in tensors.items():
        writer.add_tensor(key, np.asarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _sizes(config: Mapping[str, Any], tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Metadata under the architecture's name; adds a tensor for Llama 3's positions."""
    if config.get("mlp_bias"):
        raise InputError(f"mlp_bias = true cannot be written as GGUF: {_OTHER}")
    if config.get("sliding_window") is not None:
        raise InputError(f"a sliding window of attention is not written as GGUF: {_OTHER}")
    sizes = {name: config[key] for name, key in SIZES.items()}
    head, theta = config["head_dim"], float(config["rope_theta"])
    sizes |= {
        "vocab_size": config["vocab_size"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": head,
        "rope.freq_base": theta,
    }
    scaling = dict(config["rope_scaling"] or {})
    kind, factor = scaling.pop("rope_type", "default"), scaling.pop("factor", 1.0)
    if kind == "linear":
        sizes |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
    elif kind == "llama3":
        frequencies = theta ** -(np.arange(0, head, 2) / head)
        factors = llama3_factors(frequencies, float(factor)).astype(np.float32)
        # The file has nothing but these, of which the last is to tell the factor.
        if scaling != LLAMA3 or factors.max() != np.float32(factor):
            raise InputError(
                f"positions scaled as by {quote(config['rope_scaling'])} are not those of Llama 3, "
                f"all that GGUF is written of: {_OTHER}"
            )
        tensors[ROPE_FACTORS] = factors
    return sizes


def _name(key: str) -> str:
    """The name of a tensor in GGUF, by its Hugging Face key."""
    match = _KEY.fullmatch(key)
    assert match is not None
    block = f"blk.{match['block']}." if match["block"] else ""
    return f"{block}{_PARTS[match['part']]}.{match['what']}"


def _pairs(tensor: np.ndarray, key: str, config: Mapping[str, Any]) -> np.ndarray:
    """Rows of queries or keys with the rotary pairs side by side, the inverse of
    `gguf_checkpoint._halves`; other tensors as they are.
    """
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for part, count in heads.items():
        if f".{part}." in key:
            halves = tensor.reshape(config[count], 2, -1, *tensor.shape[1:])
            return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def _tokenizer(codec: Codec, vocab_size: int) -> dict[str, Any]:
    """Metadata of a tokenizer."""
    tokenizer = codec.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {}
    bpe, splits = content.get("model", {}), content.get("pre_tokenizer")
    if bpe.get("type") != "BPE" or bpe.get("byte_fallback") or not splits:
        raise InputError(f"its tokenizer is no byte-level BPE, which GGUF is written of: {_OTHER}")
    ids = tokenizer.get_vocab()
    tokens = [f"[PAD{id}]" for id in range(vocab_size)]
    kinds = [UNUSED] * vocab_size
    for token, id in ids.items():
        if id < vocab_size:
            tokens[id], kinds[id] = token, NORMAL
    for id, added in tokenizer.added_tokens_decoder.items():
        if id < vocab_size:
            kinds[id] = CONTROL if added.special else USER_DEFINED
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    ggml: dict[str, Any] = {"tokens": tokens, "token_type": kinds, "merges": merges}
    begin, bos = codec.begin_ids, codec.bos_id
    if len(begin) > 1 or len(codec.stop_ids) > 3:
        raise InputError(
            f"{len(begin)} tokens begin a text and any of {len(codec.stop_ids)} ends it, GGUF "
            f"names one and three: {_OTHER}"
        )
    ends = zip(("eos", "eot", "eom"), codec.stop_ids)
    named = {f"{name}_token_id": int(id) for name, id in ends}
    named |= {"bos_token_id": begin[0] if begin else bos}
    named |= {
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id,
    }
    ggml |= {name: int(id) for name, id in named.items() if id is not None}
    ggml |= {"model": "gpt2", "add_bos_token": bool(begin)}
    ggml["pre"] = _pre(ggml, backend, bool(bpe.get("ignore_merges")))
    found = {f"tokenizer.ggml.{name}": value for name, value in ggml.items()}
    if isinstance(tokenizer.chat_template, str):
        found["tokenizer.chat_template"] = tokenizer.chat_template
    return found


def _pre(ggml: Mapping[str, Any], backend: Any, whole_words: bool) -> str:
    """The name in GGUF of how a tokenizer cuts text into words."""
    for name in SPLITS:
        other = byte_level({**ggml, "pre": name})
        if other.model.ignore_merges == whole_words and _words(other) == _words(backend):
            return name
    raise InputError(
        f"its tokenizer cuts text into words as none of {', '.join(SPLITS)} does: {_OTHER}"
    )


def _words(tokenizer: Any) -> list[str]:
    normalizer = tokenizer.normalizer
    text = normalizer.normalize_str(_PROBE) if normalizer else _PROBE
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
