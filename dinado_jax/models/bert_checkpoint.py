"""BERT and RoBERTa in Hugging Face folders: config.json, tensors by key, and the whole model.

Both directions read one table, `names`. A folder may hold an encoder without the head of masked
language modelling, as those of sentence encoders do; it gets a head that has learned nothing: see
`read_params`. What no masked language model needs, a pooler and BERT's next-sentence classifier, is
read past and not written. Options of a config.json that are not applied here are refused, not
ignored.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.errors import InputError, catch_disk_full, quote
from dinado_jax.models.bert import ACTIVATIONS, Bert, BertConfig, init_params
from dinado_jax.models.codec import check_size
from dinado_jax.models.hf_folder import (
    CONFIG,
    check_finite,
    check_heads,
    check_tensors,
    locate,
    own_name,
    read_config,
    read_tensors,
    refuse_options,
    write_folder,
)
from dinado_jax.models.params import by_path, nested
from dinado_jax.models.tokenizer import read_tokenizer

_ENCODER = {
    "embeddings.word_embeddings.weight": "embeddings/word_embeddings/embedding",
    "embeddings.position_embeddings.weight": "embeddings/position_embeddings/embedding",
    "embeddings.token_type_embeddings.weight": "embeddings/token_type_embeddings/embedding",
    "embeddings.LayerNorm.weight": "embeddings/norm/scale",
    "embeddings.LayerNorm.bias": "embeddings/norm/bias",
}
_DENSE = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/output",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
}
_NORMS = {"attention.output.LayerNorm": "attention_norm", "output.LayerNorm": "output_norm"}
_WORDS = "embeddings.word_embeddings.weight"
_UNUSED = (
    "embeddings.position_ids", "embeddings.token_type_ids", "pooler.dense.weight",
    "pooler.dense.bias", "cls.seq_relationship.weight", "cls.seq_relationship.bias",
)  # fmt: skip


class Family(NamedTuple):
    """How the folders of one model type differ from those of the others."""

    classes: str  # what the names of its classes in transformers begin with
    prefix: str  # of the encoder's keys
    head: str  # of the head's keys
    dense: str  # keys within the head
    norm: str


FAMILIES = {
    "bert": Family("Bert", "bert.", "cls.predictions.", "transform.dense", "transform.LayerNorm"),
    "roberta": Family("Roberta", "roberta.", "lm_head.", "dense", "layer_norm"),
}
# The most of each size: more is a typo, and would fill all memory.
_SIZES = {
    "vocab_size": 10_000_000,
    "hidden_size": 100_000,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 100_000,
    "intermediate_size": 1_000_000,
    "max_position_embeddings": 1_000_000,
    "type_vocab_size": 1_000_000,
}
# Options that would make it another model, with the values that do not; None never does.
_FOREIGN = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "rope_scaling": ({},),
    "rope_parameters": ({},),
}


def model_type(config: BertConfig) -> str:
    """The model_type of a config.json: RoBERTa's rows alone begin behind a position for padding."""
    return "roberta" if config.position_offset else "bert"


def names(config: BertConfig) -> dict[str, str]:
    """Our "/"-joined path of every parameter, by its Hugging Face key without the prefix of the
    encoder.
    """
    family, table = FAMILIES[model_type(config)], dict(_ENCODER)
    for i in range(config.num_hidden_layers):
        for key, path in _DENSE.items():
            table[f"encoder.layer.{i}.{key}.weight"] = f"layer_{i}/{path}/kernel"
            table[f"encoder.layer.{i}.{key}.bias"] = f"layer_{i}/{path}/bias"
        for key, path in _NORMS.items():
            table[f"encoder.layer.{i}.{key}.weight"] = f"layer_{i}/{path}/scale"
            table[f"encoder.layer.{i}.{key}.bias"] = f"layer_{i}/{path}/bias"
    head = {
        f"{family.dense}.weight": "dense/kernel",
        f"{family.dense}.bias": "dense/bias",
        f"{family.norm}.weight": "norm/scale",
        f"{family.norm}.bias": "norm/bias",
        "bias": "bias",
    }
    return table | {family.head + key: f"head/{path}" for key, path in head.items()}


def parse_config(hf: Mapping[str, Any]) -> BertConfig:
    """The sizes in a config.json, for float32.

    Raises:
      InputError: for another model type, a missing or bad size, and options that make it another
        model than a plain one of its type.
    """
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"config.json has model_type = {quote(kind)}: only "
            f"{' or '.join(map(quote, FAMILIES))} is supported as a masked language model"
        )
    refuse_options(hf, _FOREIGN, CONFIG, "choose a plain checkpoint")
    classes = FAMILIES[kind].classes
    check_heads(hf, [classes + each for each in ("ForMaskedLM", "Model", "ForPreTraining")])
    for name, most in _SIZES.items():
        _check_integer(hf, name, 1, most)
    width = hf.get("embedding_size")
    if width is not None and width != hf["hidden_size"]:
        raise InputError(
            f"config.json has embedding_size = {quote(width)}: only that of hidden_size, "
            f"{hf['hidden_size']}, is supported, choose a plain checkpoint"
        )
    epsilon = hf.get("layer_norm_eps", BertConfig.layer_norm_eps)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise InputError(
            f"config.json has layer_norm_eps = {quote(epsilon)}: it must be a small number above "
            "0, copy the model's own config.json"
        )
    # The head of transformers' RoBERTa has the exact GELU whatever the layers have.
    supported = list(ACTIVATIONS) if kind == "bert" else ["gelu"]
    activation = hf.get("hidden_act", "gelu")
    if activation not in supported:
        raise InputError(
            f"config.json has hidden_act = {quote(activation)}: only {' or '.join(supported)} is "
            "supported"
        )
    offset = 0
    if kind == "roberta":
        most = min(hf["vocab_size"], hf["max_position_embeddings"] - 1) - 1
        offset = _check_integer({"pad_token_id": 1} | dict(hf), "pad_token_id", 0, most) + 1
    return BertConfig(
        **{name: hf[name] for name in _SIZES},
        layer_norm_eps=epsilon,
        position_offset=offset,
        hidden_act=activation,
    )


def _check_integer(hf: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = hf.get(name)
    if type(value) is not int or not least <= value <= most:  # type: a bool is an int too
        raise InputError(
            f"config.json has {name} = {quote(value)}: it must be an integer of at least {least} "
            f"and at most {most:,}, copy the model's own config.json"
        )
    return value


def to_config(config: BertConfig) -> dict[str, Any]:
    """The config.json of a model, without its dtype."""
    kind = model_type(config)
    padding = {"pad_token_id": config.position_offset - 1} if kind == "roberta" else {}
    return {
        "model_type": kind,
        "architectures": [f"{FAMILIES[kind].classes}ForMaskedLM"],
        **{name: getattr(config, name) for name in _SIZES},
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": config.hidden_act,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        **padding,
    }


def read_params(folder: Path, config: BertConfig) -> tuple[dict, tuple[str, ...]]:
    """Reads the parameters of a folder to the host: nested dicts of arrays in their stored dtype.

    Accepts encoder keys with or without their prefix, and the names gamma and beta of older files.
    The head's own matrix and bias of `decoder` may repeat the tied ones, or stand for them.

    A file without any tensor of the head gets one that has learned nothing and has no random part:
    an identity matrix, which leaves its activation and LayerNorm, and biases of zero. Its logits
    mean nothing until they are trained.

    Returns:
      The parameters, and the paths of those that were not in the file.

    Raises:
      InputError: for missing, pickled or damaged files, for every missing, unused, misshapen or
        non-float tensor, and for values that are not finite.
    """
    family = FAMILIES[model_type(config)]
    tensors = _plain_keys(read_tensors(folder), family.prefix, folder)
    for key in _UNUSED:
        tensors.pop(key, None)
    tied = {
        f"{family.head}decoder.weight": _WORDS,
        f"{family.head}decoder.bias": f"{family.head}bias",
    }
    for copy, key in tied.items():
        again = tensors.pop(copy, None)
        if again is not None and not np.array_equal(again, tensors.setdefault(key, again)):
            raise InputError(
                f"{copy} differs from {key}, {folder}: untied heads are not supported, use a model "
                "with tied embeddings"
            )
    table, shapes = names(config), _shapes(config)
    new = []
    if not any(key.startswith(family.head) for key in tensors):
        new = [key for key in table if key.startswith(family.head)]
    expected = {key: shapes[path] for key, path in table.items() if key not in new}
    check_tensors(tensors, expected, folder)
    check_finite(tensors, folder)
    dtype = tensors[_WORDS].dtype
    tensors |= {key: _untrained(table[key], shapes[table[key]], dtype) for key in new}
    params = nested({path: tensors[key] for key, path in table.items()})
    return params, tuple(table[key] for key in new)


def to_tensors(params: Mapping, config: BertConfig) -> dict[str, np.ndarray]:
    """The tensors of parameters, by key."""
    family, flat = FAMILIES[model_type(config)], by_path(params)
    return {
        key if key.startswith(family.head) else family.prefix + key: np.asarray(flat[path])
        for key, path in names(config).items()
    }


def _shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its path."""
    abstract = jax.eval_shape(lambda: init_params(Bert(config), jax.random.key(0)))
    return {path: leaf.shape for path, leaf in by_path(abstract).items()}


def _plain_keys(
    tensors: Mapping[str, np.ndarray], prefix: str, folder: Path
) -> dict[str, np.ndarray]:
    plain: dict[str, np.ndarray] = {}
    for key, tensor in tensors.items():
        name = re.sub(r"\.gamma$", ".weight", key.removeprefix(prefix))
        name = re.sub(r"\.beta$", ".bias", name)
        if name in plain:
            raise InputError(
                f"{name} by two keys, with and without {prefix!r} or of an older name, {folder}: "
                "keep one of them"
            )
        plain[name] = tensor
    return plain


def _untrained(path: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A parameter of a head that has learned nothing."""
    if path.endswith("/kernel"):
        return np.eye(*shape, dtype=dtype)
    return np.ones(shape, dtype) if path.endswith("/scale") else np.zeros(shape, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedModel:
    """A masked language model with its tokenizer, from a folder.

    Attributes:
      model: the module.
      params: its parameters, on the device.
      tokenizer: transformers' fast one.
      mask_id: the token that stands for one to be predicted.
      pad_id: the token behind a row's end.
      cls_id: the token that begins a row.
      sep_id: the token that ends one.
      folder: the name or path it was loaded by.
      new_params: the paths of parameters that the folder lacked, see `read_params`; () after
        training.
    """

    model: Bert
    params: dict = dataclasses.field(repr=False)
    tokenizer: Any = dataclasses.field(repr=False)
    mask_id: int
    pad_id: int
    cls_id: int
    sep_id: int
    folder: str
    new_params: tuple[str, ...] = ()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that `load_masked` and transformers' AutoModelForMaskedLM both load.

        Raises:
          InputError: where the parameters do not fit the model, such as those of a decoder, and for
            a full disk.
        """
        path, config = Path(folder), self.model.config
        params = jax.device_get(self.params)
        check_tensors(by_path(params), _shapes(config), path)
        dtype = params["embeddings"]["word_embeddings"]["embedding"].dtype.name
        hf = to_config(config) | {"pad_token_id": self.pad_id, "dtype": dtype}
        write_folder(path, hf, to_tensors(params, config))
        with catch_disk_full(path):
            self.tokenizer.save_pretrained(str(path))


def load_masked(path_or_name: str | os.PathLike[str]) -> MaskedModel:
    """Loads a masked language model in float32 from a Hugging Face folder or hub name.

    Args:
      path_or_name: of a folder with config.json, of model_type bert or roberta, safetensors and
        tokenizer.json; see `hf_folder.locate`.

    Raises:
      InputError: as `locate`, `read_config`, `parse_config`, `read_params` and `read_tokenizer`;
        for a file without a head whose config.json names a class with one; for a tokenizer that
        lacks one of the special tokens or belongs to another model.
    """
    folder = locate(str(path_or_name))
    hf = read_config(folder)
    config = parse_config(hf)
    tokenizer = read_tokenizer(folder)
    check_size(tokenizer, config.vocab_size, folder)
    ids = {name: _special_id(tokenizer, name, folder) for name in ("mask", "pad", "cls", "sep")}
    if config.position_offset not in (0, ids["pad"] + 1):
        raise InputError(
            f"{folder / CONFIG} has pad_token_id = {config.position_offset - 1}, the tokenizer's "
            f"pad_token has id {ids['pad']}: correct one of them"
        )
    params, new = read_params(folder, config)
    claimed = re.search(r"\w+For(MaskedLM|PreTraining)", str(hf.get("architectures")))
    if new and claimed:
        raise InputError(
            f"no tensors of the head, {folder}, of which {CONFIG} says that it is a {claimed[0]}: "
            "copy or download it again"
        )
    dtype = jnp.dtype(config.param_dtype)
    params = jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params))
    return MaskedModel(
        model=Bert(config),
        params=params,
        tokenizer=tokenizer,
        mask_id=ids["mask"],
        pad_id=ids["pad"],
        cls_id=ids["cls"],
        sep_id=ids["sep"],
        folder=own_name(str(path_or_name)) or str(folder),
        new_params=new,
    )


def _special_id(tokenizer: Any, name: str, folder: Path) -> int:
    id = getattr(tokenizer, f"{name}_token_id")
    if id is None:
        raise InputError(
            f"the tokenizer in {folder} has no {name} token: set {name}_token in "
            "tokenizer_config.json"
        )
    return id
