"""Small GGUF files, written by the `gguf` package."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

VOCABULARY, WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, INNER, LAYERS = 40, 32, 4, 2, 8, 64, 2
KINDS = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
    list: gguf.GGUFValueType.ARRAY,
}


def metadata(architecture: str = "llama", **changes: Any) -> dict[str, Any]:
    """Metadata of a small model; changes by the last part of their names, None leaves it out."""
    sizes = {
        "block_count": LAYERS,
        "context_length": 64,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD_WIDTH,
        "attention.value_length": HEAD_WIDTH,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": HEAD_WIDTH,
        "rope.freq_base": 500000.0,
    }
    found = {"general.type": "model", "general.quantization_version": 2}
    return found | {f"{architecture}.{name}": value for name, value in sizes.items()} | changes


def hf_tensors(architecture: str = "llama", tied: bool = False, seed: int = 0) -> dict:
    """Random tensors of the model of `metadata`, by their Hugging Face keys."""
    rng = np.random.default_rng(seed)
    q, kv = HEADS * HEAD_WIDTH, KV_HEADS * HEAD_WIDTH
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    for i in range(LAYERS):
        block = {
            "input_layernorm.weight": (WIDTH,),
            "self_attn.q_proj.weight": (q, WIDTH),
            "self_attn.k_proj.weight": (kv, WIDTH),
            "self_attn.v_proj.weight": (kv, WIDTH),
            "self_attn.o_proj.weight": (WIDTH, q),
            "post_attention_layernorm.weight": (WIDTH,),
            "mlp.gate_proj.weight": (INNER, WIDTH),
            "mlp.up_proj.weight": (INNER, WIDTH),
            "mlp.down_proj.weight": (WIDTH, INNER),
        }
        if architecture == "qwen2":
            block |= {f"self_attn.{n}_proj.bias": (m,) for n, m in zip("qkv", (q, kv, kv))}
        if architecture == "qwen3":
            block |= {f"self_attn.{name}_norm.weight": (HEAD_WIDTH,) for name in "qk"}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
    return {key: rng.normal(0, 0.2, shape).astype(np.float32) for key, shape in shapes.items()}


def gguf_tensors(tensors: dict, architecture: str = "llama") -> dict:
    """Tensors by their names in a GGUF file, as llama.cpp's converter writes them."""
    kind = gguf.MODEL_ARCH[architecture.upper()]
    names = gguf.get_tensor_name_map(kind, LAYERS)
    found = {}
    for key, tensor in tensors.items():
        for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
            if architecture == "llama" and part in key:
                halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        found[names.get_name(key, (".weight", ".bias"))] = tensor
    return found


def write(
    path: Path,
    values: dict[str, Any],
    tensors: dict[str, Any],
    architecture: str = "llama",
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> Path:
    """Writes a file. A tensor is an array, or the bytes of its rows and their quantisation."""
    writer = gguf.GGUFWriter(path, architecture, endianess=endian)
    for key, value in values.items():
        if value is not None:
            kinds = [KINDS[type(value)]]
            if isinstance(value, list):
                kinds.append(KINDS[type(value[0])])
            writer.add_key_value(key, value, *kinds)
    for name, tensor in tensors.items():
        raw, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny(path: Path, architecture: str = "llama", tied: bool = False, **changes: Any) -> Path:
    """Writes a small model with random tensors and the metadata of `metadata`."""
    tensors = gguf_tensors(hf_tensors(architecture, tied), architecture)
    return write(path, metadata(architecture, **changes), tensors, architecture)
