"""GPT-2 weights between a Hugging Face folder and our parameter pytree, strictly, on the host.

Both directions read one table, `names` with `shapes`. Kernels keep the (in, out) layout in which
Hugging Face stores them, so nothing is transposed. Only safetensors is read: nothing is unpickled.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from dinado_jax.errors import (
    InputError,
    catch_disk_full,
    escape,
    one_line,
    quote,
)
from dinado_jax.models.gpt2 import GPT2Config
from dinado_jax.models.gpt2_options import check_generation
from dinado_jax.utils.files import exists, file_digest, read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION, ADAPTER = "generation_config.json", "adapter_config.json"
PREFIX = "transformer."
FOREIGN = ("*.bin", "*.msgpack", "*.pt", "*.pth", "*.h5")
_AGAIN = "copy or download it again"
DTYPES = ("float32", "float16", "bfloat16")
HUB_FILES = [
    CONFIG, GENERATION, ADAPTER, "*.safetensors", "*.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
]  # fmt: skip

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


def names(n_layer: int) -> list[tuple[str, str]]:
    """Pairs (Hugging Face key without prefix, our "/"-joined path), one per parameter."""
    blocks = [(f"h.{i}.{key}", f"h_{i}/{path}") for i in range(n_layer) for key, path in _BLOCK]
    return _OUTER + blocks


def shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by our path; kernels are (in, out)."""
    D, F = config.n_embd, config.inner
    block = {
        "attn/c_attn/kernel": (D, 3 * D),
        "attn/c_attn/bias": (3 * D,),
        "attn/c_proj/kernel": (D, D),
        "mlp/c_fc/kernel": (D, F),
        "mlp/c_fc/bias": (F,),
        "mlp/c_proj/kernel": (F, D),
    }
    outer = {"wte/embedding": (config.vocab_size, D), "wpe/embedding": (config.n_positions, D)}
    # What neither table lists is a LayerNorm parameter or an output bias: one number per channel.
    expected = {path: outer.get(path, (D,)) for _, path in _OUTER}
    for i in range(config.n_layer):
        expected |= {f"h_{i}/{path}": block.get(path, (D,)) for _, path in _BLOCK}
    return expected


def fingerprint(folder: Path) -> str:
    """SHA-256 of a folder's sizes, weights and tokenizer, in hexadecimal."""
    files = {path for pattern in HUB_FILES for path in folder.glob(pattern)}
    parts = [f"{path.name} {file_digest(path)}" for path in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def locate(name_or_path: str, patterns: Sequence[str] = HUB_FILES) -> Path:
    """The folder of a model: an existing folder, or a hub name fetched into the local cache.

    `patterns` are the file names to fetch from the hub, as globs.
    Raises InputError for a missing path, a file, and whatever goes wrong with the hub.
    """
    if not name_or_path:
        raise InputError("no model named, '': give a folder or a name on the hub")
    path = Path(os.path.expanduser(name_or_path))
    if exists(path):
        if not path.is_dir():
            raise InputError(f"not a folder, {path}: name the folder that holds {CONFIG}")
        return path
    if name_or_path.startswith((".", "/", "~", os.sep)):
        raise InputError(f"no such folder, {quote(name_or_path)}: check the path of the model")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name_or_path, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client lets errors of several HTTP libraries through
        raise InputError(
            f"neither a local folder nor reachable on the hub, {quote(name_or_path)}: check the "
            f"name and the network, or give a folder ({one_line(error)})"
        ) from error


def read_config(folder: Path) -> dict:
    """config.json of a GPT-2 folder as a dict.

    Raises InputError where the folder or the file is missing, is not a JSON object, or describes
    another kind of model; also for an adapter, or settings of generation, that would be ignored.
    """
    folder = Path(folder)
    if not exists(folder) or not folder.is_dir():
        raise InputError(f"no such folder, {escape(str(folder))}: check the path of the model")
    if not exists(folder / CONFIG):
        raise InputError(f"no {CONFIG}, {folder}: give a model's folder")
    config = read_json(folder / CONFIG, _AGAIN)
    if config.get("model_type") != "gpt2":
        raise InputError(
            f"model_type is {quote(config.get('model_type'))}, {folder / CONFIG}: "
            'only "gpt2" models are supported'
        )
    if exists(folder / ADAPTER):
        raise InputError(
            f"an adapter, {folder / ADAPTER}: merge it into the weights (peft: merge_and_unload), "
            "or move it away to use the model without it"
        )
    if exists(folder / GENERATION):
        check_generation(read_json(folder / GENERATION, _AGAIN), str(folder / GENERATION))
    return config


def read_params(folder: Path, config: GPT2Config) -> dict:
    """Parameters of a GPT-2 folder as nested dicts of numpy arrays in their stored dtype.

    Accepts keys with or without `transformer.`; drops the causal-mask buffers of older files.
    `lm_head.weight` may repeat `wte.weight`, or stand for it. Paths and shapes are those of
    `shapes`. Raises InputError for missing, foreign or damaged files, for every missing, unused,
    misshapen or non-float key, and for values that are not finite.
    """
    folder = Path(folder)
    tensors = _without_prefix(_read_tensors(folder), folder)
    for i in range(config.n_layer):
        tensors.pop(f"h.{i}.attn.bias", None)
        tensors.pop(f"h.{i}.attn.masked_bias", None)
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(head, tensors.setdefault("wte.weight", head)):
        raise InputError(
            f"lm_head.weight differs from wte.weight, {folder}: untied heads are not supported, "
            "use a model with tied embeddings"
        )
    table = names(config.n_layer)
    expected = shapes(config)
    _check(tensors, {key: expected[path] for key, path in table}, folder)
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(
                f"{key} holds values that are not finite, {folder}: {_AGAIN}, or use weights of "
                "a training that did not diverge"
            )
    return unflatten_dict({path: tensors[key] for key, path in table}, sep="/")


def write_folder(
    folder: Path, config: GPT2Config, params: Mapping, end_token: int | None = None
) -> None:
    """Writes config.json and model.safetensors as Hugging Face does; other files stay.

    `params` is the pytree of `read_params`; each array keeps its dtype. `end_token` is the id at
    which generation stops, also its first token; without it Hugging Face takes GPT-2's 50256.
    Every file appears whole or not at all. Raises InputError where `params` does not fit `config`,
    and for a full disk.
    """
    folder = Path(folder)
    ours = {path: np.asarray(array) for path, array in flatten_dict(params, sep="/").items()}
    _check(ours, shapes(config), folder)
    # safetensors writes the raw buffer, so a transposed view has to be laid out first.
    tensors = {
        PREFIX + key: np.ascontiguousarray(ours[path]) for key, path in names(config.n_layer)
    }
    fields = config.to_hf() | {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": ours["wte/embedding"].dtype.name,
    }
    if end_token is not None:
        fields |= {"bos_token_id": end_token, "eos_token_id": end_token}
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    with catch_disk_full(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / WEIGHTS, lambda path: save_file(tensors, path, {"format": "pt"}))
        _replace(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of the folder under its stored key."""
    if (folder / WEIGHTS).is_file():
        return _load(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    foreign = sorted(path.name for pattern in FOREIGN for path in folder.glob(pattern))
    if foreign:
        raise InputError(
            f"no safetensors but {foreign[0]}, {folder}: such files can run code when opened; "
            "convert in a trusted place: load with transformers, then "
            "save_pretrained(..., safe_serialization=True)"
        )
    raise InputError(f"no {WEIGHTS} or {INDEX}, {folder}: give a folder with safetensors weights")


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    index = folder / INDEX
    weight_map = read_json(index, _AGAIN).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(f"no weight_map from keys to files, {index}: download the model again")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        # By name alone: resolving links would refuse the hub cache, which is made of links.
        if Path(shard).name != shard or shard == "..":
            raise InputError(
                f"shard {quote(shard)} is outside the folder, {index}: name files in it"
            )
        if not os.path.isfile(folder / shard):  # False for names that cannot be one, too
            raise InputError(
                f"missing shard {escape(shard)[:200]}, {index}: download the model again"
            )
    tensors = {}
    for shard in shards:
        found = _load(folder / shard)
        listed = {key for key, file in weight_map.items() if file == shard}
        if odd := sorted(listed ^ found.keys()):
            where = "the index only" if odd[0] in listed else f"{shard} only"
            key = escape(odd[0])[:200]
            raise InputError(f"{key} is in {where}, {index}: download the model again")
        tensors |= found
    return tensors


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "np") as file:
            keys = file.keys()
            kinds = [file.get_slice(key).get_dtype() for key in keys]
        for key, kind in zip(keys, kinds):
            if kind.startswith(("F4", "F6_", "F8")):  # NumPy has no such thing
                raise InputError(
                    f"{escape(key)[:200]} is stored as {kind}, {path}: convert it to "
                    f"{' or '.join(DTYPES)}"
                )
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"unreadable safetensors, {path}: copy or download it again ({one_line(error)})"
        ) from error


def _without_prefix(tensors: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    bare = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    if len(bare) < len(tensors):
        twice = next(key for key in bare if key in tensors and PREFIX + key in tensors)
        raise InputError(f"{twice} with and without {PREFIX!r}, {folder}: keep one of them")
    return bare


def _check(found: Mapping[str, np.ndarray], expected: Mapping[str, tuple], folder: Path) -> None:
    """Raises InputError naming the keys of `found` that are missing, unused or of a wrong kind."""
    faults = []
    for key in sorted(expected.keys() | found.keys()):
        want = expected.get(key)
        have = found[key].shape if key in found else None
        if want != have:
            want, have = ("nothing" if shape is None else shape for shape in (want, have))
            faults.append(f"{key} expected {want}, found {have}")
        elif found[key].dtype.name not in DTYPES:
            faults.append(f"{key} expected {' or '.join(DTYPES)}, found {found[key].dtype.name}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(
            f"weights do not fit the configuration ({'; '.join(faults[:5])}{more}), {folder}: "
            f"use the {CONFIG} that belongs to these weights"
        )


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary neighbour of `path`, then moves it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes its files private, whatever the umask says
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
