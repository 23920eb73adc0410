"""GPT-2 in Hugging Face folders: its config.json, and its tensors by key. A `CheckpointFormat`.

Both directions read one table, `names`. Kernels keep the (in, out) layout in which Hugging Face
stores GPT-2's, so nothing is transposed. Options of a config.json that are not applied here are
refused, not ignored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinado_jax.config.checks import LARGEST
from dinado_jax.errors import InputError, quote
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.hf_folder import (
    check_finite,
    check_heads,
    check_tensors,
    contradiction,
    read_tensors,
    refuse_options,
)
from dinado_jax.models.params import by_path, in_out, is_kernel, nested, param_shapes

PREFIX = "transformer."
KERNELS_IN_OUT = True
_OUTER = [
    ("wte.weight", "wte/embedding"),
    ("wpe.weight", "wpe/embedding"),
    ("ln_f.weight", "ln_f/scale"),
    ("ln_f.bias", "ln_f/bias"),
]
_BLOCK = [
    ("ln_1.weight", "ln_1/scale"),
    ("ln_1.bias", "ln_1/bias"),
    ("attn.c_attn.weight", "attn/c_attn/kernel"),
    ("attn.c_attn.bias", "attn/c_attn/bias"),
    ("attn.c_proj.weight", "attn/c_proj/kernel"),
    ("attn.c_proj.bias", "attn/c_proj/bias"),
    ("ln_2.weight", "ln_2/scale"),
    ("ln_2.bias", "ln_2/bias"),
    ("mlp.c_fc.weight", "mlp/c_fc/kernel"),
    ("mlp.c_fc.bias", "mlp/c_fc/bias"),
    ("mlp.c_proj.weight", "mlp/c_proj/kernel"),
    ("mlp.c_proj.bias", "mlp/c_proj/bias"),
]
# transformers takes either name, and the alias where both are given.
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
# Names of other models or older files, which transformers reads past; they may repeat our value.
_ECHOES = {
    "n_ctx": "n_positions",
    "num_key_value_heads": "n_head",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
    "activation": "activation_function",
    "layer_norm_eps": "layer_norm_epsilon",
    "norm_eps": "layer_norm_epsilon",
}
# Options of other models, with the values that leave a GPT-2; None always does.
_FOREIGN = {
    "position_embedding_type": ("absolute",),
    "rope_scaling": ({},),
    "rope_theta": (),
    "rope_parameters": ({},),
    "sliding_window": (),
}
# Options that change the function computed, with the one value that is supported.
_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")  # one function by two names
_HEADS = ("GPT2LMHeadModel", "GPT2Model")


def names(n_layer: int) -> dict[str, str]:
    """Our "/"-joined path of every parameter, by its Hugging Face key without prefix."""
    blocks = {f"h.{i}.{key}": f"h_{i}/{path}" for i in range(n_layer) for key, path in _BLOCK}
    return dict(_OUTER) | blocks


def parse_config(hf: Mapping[str, Any]) -> GPT2:
    """The model of a config.json, which may have transformers' other names for its sizes.

    Raises:
      InputError: for a missing size, two names of one value that differ, and options that make it
        another model than a plain GPT-2.
    """
    hf = _own_names(hf)
    refuse_options(hf, _FOREIGN, "config.json", "choose a plain GPT-2 checkpoint")
    check_heads(hf, _HEADS)
    for name, value in _FIXED.items():
        if hf.get(name, value) != value:
            raise InputError(
                f"config.json has {name} = {quote(hf[name])}: only {value} is supported, "
                "choose a plain GPT-2 checkpoint"
            )
    activation = hf.get("activation_function", _ACTIVATIONS[0])
    if activation not in _ACTIVATIONS:
        raise InputError(
            f"config.json has activation_function = {quote(activation)}: "
            f"only {' or '.join(_ACTIVATIONS)} is supported"
        )
    required = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    sizes: dict[str, Any] = {name: hf.get(name) for name in required}
    if hf.get("n_inner") is not None:
        sizes["n_inner"] = hf["n_inner"]
    for name, value in sizes.items():
        most = LARGEST[f"base.{name}"]
        if type(value) is not int or not 1 <= value <= most:  # type: a bool is an int too
            raise InputError(
                f"config.json has {name} = {quote(value)}: it must be an integer of at least 1 "
                f"and at most {most:,}, copy the model's own config.json"
            )
    epsilon = hf.get("layer_norm_epsilon", GPT2Config.layer_norm_epsilon)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise InputError(
            f"config.json has layer_norm_epsilon = {quote(epsilon)}: it must be a small number "
            "above 0, copy the model's own config.json"
        )
    return GPT2(GPT2Config(**sizes, layer_norm_epsilon=epsilon))


def _own_names(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The dict with GPT-2's own names for all sizes. InputError for two names that differ."""
    hf = dict(hf)
    for alias, name in _ALIASES.items():
        if alias in hf and hf.setdefault(name, hf[alias]) != hf[alias]:
            raise contradiction(alias, hf[alias], name, hf[name])
    absent = {
        "activation_function": _ACTIVATIONS[0],
        "layer_norm_epsilon": GPT2Config.layer_norm_epsilon,
    }
    values = absent | hf
    if values.get("n_inner") is None and type(values.get("n_embd")) is int:
        values["n_inner"] = 4 * values["n_embd"]
    for echo, name in _ECHOES.items():
        if hf.get(echo) is not None and hf[echo] != values.get(name):
            raise contradiction(echo, hf[echo], name, values.get(name))
    return hf


def to_config(model: GPT2) -> dict[str, Any]:
    """The config.json of a model."""
    sizes = model.config
    return {
        "architectures": [_HEADS[0]],
        "activation_function": _ACTIVATIONS[0],
        "vocab_size": sizes.vocab_size,
        "n_positions": sizes.n_positions,
        "n_embd": sizes.n_embd,
        "n_layer": sizes.n_layer,
        "n_head": sizes.n_head,
        "n_inner": sizes.n_inner,
        "layer_norm_epsilon": sizes.layer_norm_epsilon,
        **_FIXED,
    }


def read_params(folder: Path, model: GPT2) -> dict:
    """Reads the parameters of a folder; see `CheckpointFormat.read_params`.

    Accepts keys with or without `transformer.`; drops the causal-mask buffers of older files.
    `lm_head.weight` may repeat `wte.weight`, or stand for it.
    """
    tensors = _without_prefix(read_tensors(folder), folder)
    for i in range(model.config.n_layer):
        tensors.pop(f"h.{i}.attn.bias", None)
        tensors.pop(f"h.{i}.attn.masked_bias", None)
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(head, tensors.setdefault("wte.weight", head)):
        raise InputError(
            f"lm_head.weight differs from wte.weight, {folder}: untied heads are not supported, "
            "use a model with tied embeddings"
        )
    table, shapes = names(model.config.n_layer), param_shapes(model)
    expected = {key: in_out(path, shapes[path]) for key, path in table.items()}
    check_tensors(tensors, expected, folder)
    check_finite(tensors, folder)
    return nested({path: _transposed(path, tensors[key]) for key, path in table.items()})


def to_tensors(params: Mapping, model: GPT2) -> dict[str, np.ndarray]:
    """The tensors of parameters, by key."""
    flat = by_path(params)
    return {key: _transposed(path, flat[path]) for path, key in keys(model).items()}


def keys(model: GPT2) -> dict[str, str]:
    """The key of every parameter, by path."""
    return {path: PREFIX + key for key, path in names(model.config.n_layer).items()}


def _transposed(path: str, array: np.ndarray) -> np.ndarray:
    """Kernels between our layout and the file's, either way."""
    return array.T if is_kernel(path) else array


def _without_prefix(tensors: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    bare = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    if len(bare) < len(tensors):
        twice = next(key for key in bare if key in tensors and PREFIX + key in tensors)
        raise InputError(f"{twice} with and without {PREFIX!r}, {folder}: keep one of them")
    return bare
