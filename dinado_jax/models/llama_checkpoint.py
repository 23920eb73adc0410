"""The Llama family in Hugging Face folders: config.json, and tensors by key. A `CheckpointFormat`.

One module for all: `FAMILIES` lists how the model types differ. Keys follow from our paths.
Absent options have transformers' defaults; options that are not applied here are refused, not
ignored.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinado_jax.errors import InputError, quote
from dinado_jax.models.hf_folder import (
    check_finite,
    check_heads,
    check_tensors,
    contradiction,
    read_tensors,
    refuse_options,
)
from dinado_jax.models.llama import Llama, LlamaConfig, Rope
from dinado_jax.models.params import by_path, nested, param_shapes


class Family(NamedTuple):
    """How the config.json of one model type differs from those of the others."""

    classes: str  # what the names of its classes in transformers begin with
    biases: tuple[str, ...]  # which of attention_bias and mlp_bias it reads
    windows: str  # which layers have a sliding window: none | all | upper
    kv_heads: int | None  # num_key_value_heads where it is absent; None: as many as heads
    head_dim: int | None  # head_dim where it is absent; None: width / heads
    null_head_dim: bool  # whether a null is as an absent one
    whole_heads: bool  # whether the width must be a multiple of the heads


FAMILIES = {
    "llama": Family("Llama", ("attention_bias", "mlp_bias"), "none", None, None, True, True),
    "mistral": Family("Mistral", (), "all", 8, None, True, False),
    "qwen2": Family("Qwen2", (), "upper", 32, None, False, False),
    "qwen3": Family("Qwen3", ("attention_bias",), "upper", 32, 128, False, False),
}

PREFIX = "model."
KERNELS_IN_OUT = False
_HEAD, _TABLE = "lm_head.weight", "embed_tokens.weight"
# The most of each size: more is a typo, and would fill all memory.
_SIZES = {
    "vocab_size": 10_000_000,
    "max_position_embeddings": 100_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
}
# Names that transformers does not read in this family; they may repeat our value.
_ECHOES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "num_kv_heads": "num_key_value_heads",
    "n_positions": "max_position_embeddings",
    "n_ctx": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "ffn_dim": "intermediate_size",
    "activation_function": "hidden_act",
    "hidden_activation": "hidden_act",
    "norm_eps": "rms_norm_eps",
    "layer_norm_eps": "rms_norm_eps",
    "layer_norm_epsilon": "rms_norm_eps",
}
# Options that would make it another model, with the values that do not; None never does.
_FOREIGN = {
    "pretraining_tp": (1,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False,),
    "position_embedding_type": ("rope", "rotary"),
    "alibi": (False,),
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rope_ratio": (1,),
    "rope_interleave": (False,),
    "rope_interleaved": (False,),
    "no_rope_layers": ([],),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "attention_multiplier": (),
    "query_pre_attn_scalar": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "scale_emb": (1,),
    "scale_depth": (),
    "clip_qkv": (),
    "qk_layernorm": (False,),
    "use_qk_norm": (False,),
    "attention_chunk_size": (),
    "dual_chunk_attention_config": ({},),
    "parallel_residual": (False,),
    "use_parallel_residual": (False,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "per_layer_config": ({},),
    "text_config": ({},),
    "vision_config": ({},),
}
_PLAIN = "choose a plain checkpoint of this family"
# What each kind of scaling reads besides rope_type and rope_theta.
_SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
}  # fmt: skip


def parse_config(hf: Mapping[str, Any]) -> Llama:
    """The model of a config.json, in the spelling of transformers 4 or 5.

    Raises:
      InputError: for a missing or bad size, two options of one value that differ, and options that
        make it another model than the plain one of its model_type.
    """
    model_type = hf["model_type"]
    family = FAMILIES[model_type]
    refuse_options(hf, _FOREIGN, "config.json", _PLAIN)
    check_heads(hf, (f"{family.classes}ForCausalLM", f"{family.classes}Model"))
    if hf.get("is_causal", True) is not True:  # a null is no causal model either
        raise InputError(f"config.json has is_causal = {quote(hf['is_causal'])}: {_PLAIN}")
    activation = hf.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):  # one function by two names
        raise InputError(
            f"config.json has hidden_act = {quote(activation)}: only silu is supported"
        )
    sizes = _sizes(hf, family)
    window, full_layers = _window(hf, family, sizes["num_hidden_layers"])
    config = LlamaConfig(
        model_type=model_type,
        **sizes,
        rms_norm_eps=_epsilon(hf),
        rope=_rope(hf, sizes["max_position_embeddings"]),
        attention_bias=_bias(hf, "attention_bias", model_type == "qwen2"),
        mlp_bias=_bias(hf, "mlp_bias"),
        sliding_window=window,
        full_layers=full_layers,
        tie_word_embeddings=_flag(hf, "tie_word_embeddings"),
    )
    for echo, name in _ECHOES.items():
        value = activation if name == "hidden_act" else getattr(config, name)
        if hf.get(echo) is not None and hf[echo] != value:
            raise contradiction(echo, hf[echo], name, value)
    return Llama(config)


def _sizes(hf: Mapping[str, Any], family: Family) -> dict[str, Any]:
    found: dict[str, Any] = {name: hf.get(name) for name in _SIZES}
    heads, width = found["num_attention_heads"], found["hidden_size"]
    if "num_key_value_heads" not in hf:
        found["num_key_value_heads"] = family.kv_heads
    if found["num_key_value_heads"] is None:
        found["num_key_value_heads"] = heads
    if "head_dim" not in hf:
        found["head_dim"] = family.head_dim
    derived = found["head_dim"] is None and (family.null_head_dim or "head_dim" not in hf)
    if derived:
        found["head_dim"] = 1  # set below, once its parts have been checked
    for name, value in found.items():
        most = _SIZES[name]
        if type(value) is not int or not 1 <= value <= most:  # type: a bool is an int too
            raise InputError(
                f"config.json has {name} = {quote(value)}: it must be an integer of at least 1 "
                f"and at most {most:,}, copy the model's own config.json"
            )
    if width % heads and (derived or family.whole_heads):
        raise InputError(
            f"config.json has hidden_size = {width} and num_attention_heads = {heads}: the first "
            "must be a multiple of the second, copy the model's own config.json"
        )
    return found | ({"head_dim": width // heads} if derived else {})


def _bias(hf: Mapping[str, Any], name: str, always: bool = False) -> bool:
    """An option of biases; where the model type does not read it, it must equal `always`."""
    if name in FAMILIES[hf["model_type"]].biases:
        return _flag(hf, name)
    refuse_options(hf, {name: (always,)}, "config.json", f"{hf['model_type']} does not read it")
    return False


def _window(hf: Mapping[str, Any], family: Family, layers: int) -> tuple[int | None, int]:
    """The sliding window, and how many layers below it see all tokens."""
    foreign: dict[str, tuple] = {}
    if family.windows == "none":
        window, full = None, 0
        foreign = {"sliding_window": (), "use_sliding_window": (False,)}
    elif family.windows == "all":
        window, full = hf.get("sliding_window", 4096), 0
        foreign = {"use_sliding_window": (window is not None,), "max_window_layers": (0,)}
    else:
        used = _flag(hf, "use_sliding_window")
        window = hf.get("sliding_window", 4096) if used else None
        full = hf.get("max_window_layers", 28)
        if type(full) is not int or full < 0:
            raise InputError(
                f"config.json has max_window_layers = {quote(full)}: it must be an integer of at "
                "least 0, copy the model's own config.json"
            )
        full = min(full, layers)
    refuse_options(hf, foreign, "config.json", _PLAIN)
    if window is not None and (type(window) is not int or window < 1):
        raise InputError(
            f"config.json has sliding_window = {quote(window)}: it must be an integer of at least "
            "1, or null for none"
        )
    full = 0 if window is None else full
    kinds = _layer_kinds(window, full, layers)
    given = hf.get("layer_types")
    if given is None or given == kinds:
        return window, full
    # Where layer_types are given, Qwen reads them, and max_window_layers only to fill them in.
    if family.windows == "upper" and "max_window_layers" not in hf and isinstance(given, list):
        full = given.count("full_attention")
        if window is not None and given == _layer_kinds(window, full, layers):
            return window, full
    raise InputError(
        f"config.json has layer_types = {quote(given)}: not supported beside its other options, "
        f"which make them {quote(kinds)}"
    )


def _layer_kinds(window: int | None, full_layers: int, layers: int) -> list[str]:
    full = layers if window is None else full_layers
    return ["full_attention"] * full + ["sliding_attention"] * (layers - full)


def _rope(hf: Mapping[str, Any], context: int) -> Rope:
    """Of `rope_theta` and `rope_scaling`, or of `rope_parameters`, which hold both."""
    theta = hf.get("rope_theta", Rope.theta)
    spellings = {
        name: _rope_options(name, hf[name], theta)
        for name in ("rope_scaling", "rope_parameters")
        if hf.get(name) not in (None, {})
    }
    found = next(iter(spellings.values()), {"rope_type": "default", "rope_theta": theta})
    for name, options in spellings.items():
        if options != found:
            raise contradiction("rope_scaling", found, name, options)
        if "rope_theta" in hf and options["rope_theta"] != theta:
            raise contradiction("rope_theta", theta, f"{name}.rope_theta", options["rope_theta"])
    scaling = found["rope_type"]
    if not isinstance(scaling, str) or scaling not in _SCALINGS:
        raise InputError(
            f"config.json has rope_type = {quote(scaling)}: only {', '.join(_SCALINGS)} are "
            "supported"
        )
    original = "original_max_position_embeddings"
    if (
        scaling == "llama3"
    ):  # as transformers: beside the others, of the whole model, or its context
        found.setdefault(original, hf.get(original, context))
        if found[original] != hf.get(original, found[original]):
            raise contradiction(original, hf[original], f"rope {original}", found[original])
    ignored = found.keys() - {"rope_type", "rope_theta", *_SCALINGS[scaling]}
    if ignored:
        raise InputError(
            f"config.json has {min(ignored)} = {quote(found[min(ignored)])} for rope_type "
            f"{scaling}: not supported, remove it"
        )
    names = ("rope_theta", *_SCALINGS[scaling])
    for name in names:
        value: Any = found.get(name)
        if type(value) not in (int, float) or not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"config.json has {name} = {quote(value)} for rope_type {scaling}: it must be a "
                "number above 0, copy the model's own config.json"
            )
    values = [found[name] for name in names]
    if scaling == "llama3" and found["high_freq_factor"] <= found["low_freq_factor"]:
        raise InputError(
            f"config.json has high_freq_factor = {found['high_freq_factor']}: it must be above "
            f"low_freq_factor = {found['low_freq_factor']}"
        )
    return Rope(values[0], scaling, *values[1:])


def _rope_options(where: str, given: Any, theta: Any) -> dict[str, Any]:
    """One spelling, with transformers' defaults; `type` is an older name of rope_type."""
    if not isinstance(given, dict):
        raise InputError(f"config.json has {where} = {quote(given)}: it must be an object or null")
    options = dict(given)
    if "type" in options:
        older = options.pop("type")
        if options.setdefault("rope_type", older) != older:
            raise contradiction(f"{where}.type", older, "rope_type", options["rope_type"])
    if options.get("partial_rotary_factor") == 1:
        del options["partial_rotary_factor"]
    return {"rope_type": "default", "rope_theta": theta} | options


def _epsilon(hf: Mapping[str, Any]) -> float:
    epsilon = hf.get("rms_norm_eps", LlamaConfig.rms_norm_eps)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise InputError(
            f"config.json has rms_norm_eps = {quote(epsilon)}: it must be a small number above 0, "
            "copy the model's own config.json"
        )
    return epsilon


def _flag(hf: Mapping[str, Any], name: str) -> bool:
    """An option that is false where it is absent."""
    value = hf.get(name, False)
    if type(value) is not bool:
        raise InputError(f"config.json has {name} = {quote(value)}: it must be true or false")
    return value


def to_config(model: Llama) -> dict[str, Any]:
    """The config.json of a model, in the spelling that transformers 4 and 5 both read."""
    config, family = model.config, FAMILIES[model.model_type]
    rope = config.rope
    values = (rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_context)
    scaling = {"rope_type": rope.scaling} | dict(zip(_SCALINGS[rope.scaling], values))
    windows = {
        "none": {},
        "all": {"sliding_window": config.sliding_window},
        "upper": {
            "use_sliding_window": config.sliding_window is not None,
            "sliding_window": config.sliding_window,
            "max_window_layers": config.full_layers,
        },
    }
    return {
        "architectures": [f"{family.classes}ForCausalLM"],
        "hidden_act": "silu",
        **{name: getattr(config, name) for name in (*_SIZES, *family.biases)},
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": rope.theta,
        "rope_scaling": None if rope.scaling == "default" else scaling,
        **windows[family.windows],
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def key_of(path: str) -> str:
    """The Hugging Face key of a parameter, without prefix, by its "/"-joined path."""
    *module, leaf = path.split("/")
    name = ".".join(module).replace("layers_", "layers.", 1)
    return f"{name}.{'bias' if leaf == 'bias' else 'weight'}"


def read_params(folder: Path, model: Llama) -> dict:
    """Reads the parameters of a folder; see `CheckpointFormat.read_params`.

    Accepts keys with or without `model.`; drops the frequencies that older files hold. With tied
    embeddings `lm_head.weight` may repeat `embed_tokens.weight`, or stand for it.
    """
    tensors = read_tensors(folder)
    prefix = PREFIX if any(key.startswith(PREFIX) for key in tensors) else ""
    for i in range(model.config.num_hidden_layers):
        tensors.pop(f"{prefix}layers.{i}.self_attn.rotary_emb.inv_freq", None)
    if model.config.tie_word_embeddings:
        head, table = tensors.pop(_HEAD, None), prefix + _TABLE
        if head is not None and not np.array_equal(head, tensors.setdefault(table, head)):
            raise InputError(
                f"{_HEAD} differs from {table}, {folder}, and config.json has tie_word_embeddings "
                "= true: set it to false, or remove one of them"
            )
    shapes = param_shapes(model)
    keys = {path: _prefixed(prefix, path) for path in shapes}
    check_tensors(tensors, {keys[path]: shape for path, shape in shapes.items()}, folder)
    check_finite(tensors, folder)
    return nested({path: tensors[key] for path, key in keys.items()})


def to_tensors(params: Mapping, model: Llama) -> dict[str, np.ndarray]:
    """The tensors of parameters, by key."""
    flat = by_path(params)
    return {key: flat[path] for path, key in keys(model).items()}


def keys(model: Llama) -> dict[str, str]:
    """The key of every parameter, by path."""
    return {path: _prefixed(PREFIX, path) for path in param_shapes(model)}


def _prefixed(prefix: str, path: str) -> str:
    """The key in a file: the head stands beside the model, not within."""
    key = key_of(path)
    return key if key == _HEAD else prefix + key
