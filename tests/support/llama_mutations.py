"""Folders of the Llama family with something wrong or unusual: a change of a golden model each.

No JAX, no PyTorch: golden/make_llama_mutations.py and models/test_llama_mutations.py make the same
folders.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from support import GOLDEN

ABSENT = object()  # the value of an option that is removed
Change = Callable[[dict[str, np.ndarray]], Any]


@dataclasses.dataclass(frozen=True)
class Mutation:
    """`equal`: it loads, and computes what transformers computes. Otherwise it is refused."""

    model: str  # a folder of tests/golden, without llama_
    equal: bool
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    tensors: Change = lambda tensors: None

    def write(self, folder: Path) -> None:
        shutil.copytree(GOLDEN / f"llama_{self.model}", folder)
        path = folder / "config.json"
        config = json.loads(path.read_text()) | self.config
        config = {key: value for key, value in config.items() if value is not ABSENT}
        path.write_text(json.dumps(config))
        weights = folder / "model.safetensors"
        tensors = load_file(weights)
        self.tensors(tensors)
        tensors = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
        save_file(tensors, weights, {"format": "pt"})


LAYER = "model.layers.0."
Q, K, V = (f"{LAYER}self_attn.{name}_proj.weight" for name in "qkv")
DOWN, NORM = f"{LAYER}mlp.down_proj.weight", f"{LAYER}input_layernorm.weight"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def renamed(change: Callable[[str], str]) -> Change:
    def apply(tensors):
        changed = {change(key): tensor for key, tensor in tensors.items()}
        tensors.clear()
        tensors.update(changed)

    return apply


def changed(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda tensors: tensors.update({key: change(tensors[key])})


def without(key: str) -> Change:
    return lambda tensors: tensors.pop(key)


def with_new(key: str, *shape: int) -> Change:
    return lambda tensors: tensors.update({key: np.full(shape, 0.1, np.float32)})


def swapped(one: str, other: str) -> Change:
    """Of two keys, or of all keys with two prefixes."""

    def swap(key: str) -> str:
        if key.startswith(one):
            return other + key[len(one) :]
        return one + key[len(other) :] if key.startswith(other) else key

    return renamed(swap)


def cast(dtype: Any) -> Change:
    return lambda tensors: tensors.update({k: t.astype(dtype) for k, t in tensors.items()})


def fused(tensors: dict[str, np.ndarray]) -> None:
    parts = [tensors.pop(key) for key in (Q, K, V)]
    tensors[f"{LAYER}self_attn.qkv_proj.weight"] = np.concatenate(parts)


def interleaved(x: np.ndarray) -> np.ndarray:
    """Rows of 2 heads as Meta and GGUF store them."""
    return x.reshape(2, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def with_frequencies(tensors: dict[str, np.ndarray]) -> None:
    for i in range(2):
        key = f"model.layers.{i}.self_attn.rotary_emb.inv_freq"
        tensors[key] = np.float32([1, 0.5, 0.2, 0.1])


def without_prefix(key: str) -> str:
    return key.removeprefix("model.")


def older(theta: Any = ABSENT, scaling: Any = ABSENT) -> dict[str, Any]:
    """The rotary options in transformers 4's spelling."""
    return {"rope_parameters": ABSENT, "rope_theta": theta, "rope_scaling": scaling}


def newer(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0} | parameters}


def plain(equal: bool, tensors: Change = lambda tensors: None, **config: Any) -> Mutation:
    return Mutation("plain", equal, config, tensors)


LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0}
TYPES = {
    name: {"model_type": name.lower(), "architectures": [f"{name}ForCausalLM"]}
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3")
}
FULL, SLIDING = "full_attention", "sliding_attention"
NO_QWEN = {"layer_types": ABSENT, "use_sliding_window": ABSENT, "max_window_layers": ABSENT}

MUTATIONS = {
    # Weights
    "nothing": plain(True),
    "query heads swapped": plain(True, changed(Q, lambda x: np.roll(x, 8, axis=0))),
    "queries interleaved": plain(True, changed(Q, interleaved)),
    "queries and keys interleaved": plain(
        True, lambda t: t.update({Q: interleaved(t[Q]), K: interleaved(t[K])})
    ),
    "square matrix transposed": plain(True, changed(Q, np.transpose)),
    "oblong matrix transposed": plain(False, changed(DOWN, np.transpose)),
    "key and value swapped": plain(True, swapped(K, V)),
    "layers swapped": plain(True, swapped("model.layers.0.", "model.layers.1.")),
    "layers from 1": plain(
        False, renamed(lambda key: key.replace("s.1.", "s.2.").replace("s.0.", "s.1."))
    ),
    "a layer more": plain(False, with_new("model.layers.2.input_layernorm.weight", 16)),
    "no norm in a layer": plain(False, without(NORM)),
    "no final norm": plain(False, without("model.norm.weight")),
    "norm of another width": plain(False, changed(NORM, lambda x: x[:8])),
    "norms swapped": plain(True, swapped(NORM, f"{LAYER}post_attention_layernorm.weight")),
    "gate and up swapped": plain(
        True, swapped(f"{LAYER}mlp.gate_proj.weight", f"{LAYER}mlp.up_proj.weight")
    ),
    "a bias that is not announced": plain(False, with_new(f"{LAYER}self_attn.k_proj.bias", 16)),
    "queries, keys and values in one": plain(False, fused),
    "no keys": plain(False, without(K)),
    "half of the keys": plain(False, changed(K, lambda x: x[:8])),
    "no head": plain(False, without(HEAD)),
    "no table": plain(False, without(EMBED)),
    "head within the model": plain(False, swapped(HEAD, "model.lm_head.weight")),
    "head transposed": plain(False, changed(HEAD, np.transpose)),
    "no prefix": plain(True, renamed(without_prefix)),
    "prefix in half of the keys": plain(
        False, renamed(lambda key: without_prefix(key) if "layers.1" in key else key)
    ),
    "prefix twice": plain(
        False, renamed(lambda key: "model." + key if key.startswith("model.") else key)
    ),
    "frequencies": plain(True, with_frequencies),
    "not a number": plain(False, changed(DOWN, lambda x: x * np.nan)),
    "float16": plain(True, cast(np.float16)),
    "bfloat16": plain(True, cast(ml_dtypes.bfloat16)),
    "integers": plain(False, changed(DOWN, lambda x: x.astype(np.int8))),
    "tied, head repeats": Mutation("groups_2", True, {}, lambda t: t.update({HEAD: t[EMBED]})),
    "tied, head differs": Mutation("groups_2", False, {}, lambda t: t.update({HEAD: t[EMBED] + 1})),
    "qwen2 without a bias": Mutation("qwen2", False, {}, without(f"{LAYER}self_attn.k_proj.bias")),
    "qwen2 with a bias more": Mutation(
        "qwen2", False, {}, with_new(f"{LAYER}self_attn.o_proj.bias", 16)
    ),
    "qwen3 without a norm": Mutation(
        "qwen3", False, {}, without(f"{LAYER}self_attn.q_norm.weight")
    ),
    "qwen3 norms swapped": Mutation(
        "qwen3", True, {}, swapped(f"{LAYER}self_attn.q_norm", f"{LAYER}self_attn.k_norm")
    ),
    # Rotary positions
    "another theta": plain(True, **newer(rope_theta=500.0)),
    "theta twice": plain(True, rope_theta=10_000.0),
    "theta twice, different": plain(False, rope_theta=500.0),
    "theta of older files": plain(True, **older(500.0)),
    "no theta": plain(True, **older()),
    "null theta": plain(False, **older(None)),
    "theta 0": plain(False, **older(0)),
    "theta a string": plain(False, **older("10000")),
    "rope_parameters empty": plain(True, rope_parameters={}),
    "rope_parameters a list": plain(False, rope_parameters=[1]),
    "linear": plain(True, **newer(**LINEAR)),
    "linear of older files": plain(True, **older(500.0, LINEAR)),
    "linear by its older name": plain(True, **older(500.0, {"type": "linear", "factor": 2.0})),
    "two names of the type": plain(False, **older(500.0, LINEAR | {"type": "dynamic"})),
    "both spellings": plain(True, **newer(**LINEAR), rope_scaling=LINEAR),
    "both spellings, one linear": plain(False, rope_scaling=LINEAR),
    "both spellings, theta in one": plain(
        False, **newer(**LINEAR, rope_theta=5.0), rope_scaling=LINEAR
    ),
    "linear without a factor": plain(False, **newer(rope_type="linear")),
    "a factor without a type": plain(False, **older(500.0, {"factor": 2.0})),
    "llama3": plain(True, **newer(**LLAMA3, original_max_position_embeddings=8)),
    "llama3 of older files": plain(
        True, **older(500.0, LLAMA3 | {"original_max_position_embeddings": 8})
    ),
    "llama3 of the whole context": plain(True, **newer(**LLAMA3)),
    "llama3, context beside": plain(
        True, **newer(**LLAMA3), original_max_position_embeddings=8
    ),
    "llama3, contexts differ": plain(
        False,
        **newer(**LLAMA3, original_max_position_embeddings=4),
        original_max_position_embeddings=8,
    ),
    "llama3 without low_freq_factor": plain(
        False, **newer(rope_type="llama3", factor=4.0, high_freq_factor=2.0)
    ),
    "yarn": plain(False, **newer(rope_type="yarn", factor=4.0)),
    "dynamic": plain(False, **newer(rope_type="dynamic", factor=4.0)),
    "longrope": plain(False, **newer(rope_type="longrope", long_factor=[1.0], short_factor=[1.0])),
    "partly rotary": plain(False, partial_rotary_factor=0.5),
    "rope per kind of layer": plain(False, rope_parameters={FULL: {"rope_theta": 500.0}}),
    # Norms, activations, sizes
    "another epsilon": plain(True, rms_norm_eps=1e-5),
    "no epsilon": plain(True, rms_norm_eps=ABSENT),
    "epsilon 0": plain(False, rms_norm_eps=0),
    "epsilon by another name": plain(False, layer_norm_eps=1e-5),
    "gelu": plain(False, hidden_act="gelu"),
    "silu by its other name": plain(True, hidden_act="swish"),
    "no activation": plain(True, hidden_act=ABSENT),
    "activation by another name": plain(False, hidden_activation="gelu"),
    "heads halved": plain(True, num_attention_heads=4, num_key_value_heads=4, head_dim=4),
    "heads halved, head_dim derived": plain(
        True, num_attention_heads=4, num_key_value_heads=4, head_dim=None
    ),
    "heads of another width": plain(False, head_dim=4),
    "heads by another name": plain(False, n_head=4),
    "heads that do not divide": plain(False, num_attention_heads=3, num_key_value_heads=3),
    "groups that do not divide": plain(False, num_key_value_heads=3),
    "no key/value heads": plain(True, num_key_value_heads=ABSENT),
    "null key/value heads": plain(True, num_key_value_heads=None),
    "fewer key/value heads": plain(False, num_key_value_heads=1),
    "a layer less": plain(False, num_hidden_layers=1),
    "a layer without weights": plain(False, num_hidden_layers=3),
    "another vocabulary": plain(False, vocab_size=31),
    "another inner width": plain(False, intermediate_size=24),
    "no width": plain(False, hidden_size=ABSENT),
    "a longer context": plain(True, max_position_embeddings=32),
    "tied by config alone": plain(False, tie_word_embeddings=True),
    "untied by config alone": Mutation("groups_2", False, {"tie_word_embeddings": False}),
    "tied or not is not said": Mutation("groups_2", False, {"tie_word_embeddings": ABSENT}),
    "tied is a string": Mutation("groups_2", False, {"tie_word_embeddings": "true"}),
    "biases without weights": plain(False, attention_bias=True),
    "biases denied": Mutation("biases", False, {"attention_bias": False}),
    "mlp biases not said": Mutation("biases", False, {"mlp_bias": ABSENT}),
    # Other models
    "not causal": plain(False, is_causal=False),
    "slices": plain(False, pretraining_tp=2),
    "logits scaled": plain(False, logits_scaling=8.0),
    "logits capped": plain(False, final_logit_softcapping=30.0),
    "a layer of its own": plain(False, per_layer_config={"0": {"head_dim": 4}}),
    "quantised": plain(False, quantization_config={"quant_method": "gptq", "bits": 4}),
    "a class of another model": plain(False, architectures=["MistralForCausalLM"]),
    "mistral of a llama": plain(True, **TYPES["Mistral"]),
    "qwen2 of a llama": plain(False, **TYPES["Qwen2"]),
    "qwen3 of a llama": plain(False, **TYPES["Qwen3"]),
    "llama of a qwen2": Mutation("qwen2", False, TYPES["Llama"] | NO_QWEN),
    "llama of a qwen3": Mutation("qwen3", False, TYPES["Llama"] | NO_QWEN),
    "llama of a mistral": Mutation("mistral", False, TYPES["Llama"]),
    "llama of a mistral, no window": Mutation(
        "mistral", True, TYPES["Llama"] | {"sliding_window": None}
    ),
    # Windows
    "a window in a llama": plain(False, sliding_window=4),
    "another window": Mutation("mistral", True, {"sliding_window": 3}),
    "a window of one": Mutation("mistral", True, {"sliding_window": 1}),
    "no window": Mutation("mistral", True, {"sliding_window": None}),
    "window not said": Mutation("mistral", True, {"sliding_window": ABSENT}),
    "window 0": Mutation("mistral", False, {"sliding_window": 0}),
    "window a number": Mutation("mistral", False, {"sliding_window": 4.0}),
    "window off in mistral": Mutation("mistral", False, {"use_sliding_window": False}),
    "kinds of layers in mistral": Mutation("mistral", False, {"layer_types": [FULL, SLIDING]}),
    "mistral without key/value heads": Mutation("mistral", False, {"num_key_value_heads": ABSENT}),
    "window off, layers sliding": Mutation("qwen2_window", False, {"use_sliding_window": False}),
    "window off": Mutation(
        "qwen2_window", True, {"use_sliding_window": False, "layer_types": ABSENT}
    ),
    "kinds and number of layers differ": Mutation("qwen2_window", False, {"max_window_layers": 2}),
    "another number of full layers": Mutation(
        "qwen2_window", True, {"max_window_layers": 2, "layer_types": ABSENT}
    ),
    "number of full layers not said": Mutation(
        "qwen2_window", True, {"max_window_layers": ABSENT, "layer_types": ABSENT}
    ),
    "kinds of layers alone": Mutation(
        "qwen2_window", True, {"max_window_layers": ABSENT, "layer_types": [FULL, FULL, SLIDING]}
    ),
    "kinds of layers by turns": Mutation(
        "qwen2_window",
        False,
        {"max_window_layers": ABSENT, "layer_types": [SLIDING, FULL, SLIDING]},
    ),
    "qwen2 without key/value heads": Mutation("qwen2", False, {"num_key_value_heads": ABSENT}),
    "qwen3 without head_dim": Mutation("qwen3", False, {"head_dim": ABSENT}),
    "qwen3 with a null head_dim": Mutation("qwen3", False, {"head_dim": None}),
}  # fmt: skip
