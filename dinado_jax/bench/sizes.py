"""Bases to measure: the sizes of well-known models, as their config.json has them. Pure Python."""

from typing import Any

Sizes = dict[str, Any]


def _gpt2(width: int, layers: int, heads: int) -> Sizes:
    return {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "max_position_embeddings": 1024,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _llama(
    width: int, inner: int, layers: int, heads: tuple[int, int], vocab_size: int, **other: Any
) -> Sizes:
    """`heads`: of queries, and of keys and values."""
    return {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "max_position_embeddings": 8192,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        **other,
    }


SIZES: dict[str, Sizes] = {
    "tiny": _gpt2(256, 4, 4),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-large": _gpt2(1280, 36, 20),
    "smollm2-135m": _llama(576, 1536, 30, (9, 3), 49152),
    "smollm2-360m": _llama(960, 2560, 32, (15, 5), 49152),
    "qwen2.5-0.5b": _llama(896, 4864, 24, (14, 2), 151936, model_type="qwen2"),
    "llama-1b": _llama(2048, 8192, 16, (32, 8), 128256, rope_theta=5e5),
    "llama-8b": _llama(4096, 14336, 32, (32, 8), 128256, rope_theta=5e5, tie_word_embeddings=False),
}


def layer_parameters(sizes: Sizes) -> int:
    """Counts the entries of one layer's matrices."""
    width = sizes["hidden_size"]
    if sizes["model_type"] == "gpt2":
        return 12 * width**2
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    attention = 2 * width * (width // heads) * (heads + kv_heads)
    return attention + 3 * width * sizes["intermediate_size"]
