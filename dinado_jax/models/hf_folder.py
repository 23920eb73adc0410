"""Hugging Face folders, whatever architecture they hold: finding, checking, reading and writing.

Only safetensors and GGUF are read: nothing is unpickled. A GGUF file stands for a folder in all
that reads one.
"""

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from dinado_jax.errors import InputError, catch_disk_full, escape, one_line, quote
from dinado_jax.models import gguf_checkpoint
from dinado_jax.utils.files import exists, file_digest, read_json
from dinado_jax.utils.progress import print_once

Tensors = Mapping[str, np.ndarray]  # by key
Shapes = Mapping[str, tuple[int, ...]]

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION, ADAPTER = "generation_config.json", "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX_FOLDER = "prefix"  # the folder of a base's own prefix, within its folder
PREFIX_CONFIG = f"{PREFIX_FOLDER}/{ADAPTER}"
_OF_A_RUN = "sft/base"  # where a run keeps its base
_AGAIN = "copy or download it again"
DTYPES = ("float32", "float16", "bfloat16")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
HUB_FILES = (
    CONFIG, GENERATION, ADAPTER, "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES,
    PREFIX_CONFIG, f"{PREFIX_FOLDER}/{ADAPTER_WEIGHTS}",
)  # fmt: skip
_FOREIGN = ("*.bin", "*.msgpack", "*.pt", "*.pth", "*.h5")

# Options of a config.json that no architecture here has, with the values that leave a model plain;
# None always does.
_UNSUPPORTED = {
    "quantization_config": ({},),
    "compression_config": ({},),
    "auto_map": ({},),
    "pruned_heads": ({},),
    "is_encoder_decoder": (False,),
}
# Settings of transformers' own generation that say which tokens a model may write at all: without
# them it would be another one. They are refused, as the options above.
_TOKEN_SETTINGS = {
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": ([],),
}
# Its settings of sampling, with the values that leave a distribution as it is. Here it is the
# decoder that samples, from the model's own distribution unless asked otherwise.
_SAMPLING_SETTINGS = {
    "temperature": (1,),
    "top_k": (0,),
    "top_p": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "exponential_decay_length_penalty": (),
}


def locate(name_or_path: str, patterns: Sequence[str] = HUB_FILES) -> Path:
    """Finds a model: an existing folder or .gguf file, or a hub name fetched into the local cache.

    Args:
      name_or_path: of the model; `package:FILE` for a file of an installed package.
      patterns: file names to fetch from the hub, as globs.

    Raises:
      InputError: for a missing path, another file, a package that is not installed, and whatever
        goes wrong with the hub.
    """
    if not name_or_path:
        raise InputError("no model named, '': give a folder, a .gguf file or a name on the hub")
    path = Path(os.path.expanduser(name_or_path))
    if exists(path):
        if not path.is_dir() and path.suffix != ".gguf":
            raise InputError(
                f"not a folder or a .gguf file, {path}: name the folder that holds {CONFIG}"
            )
        if exists(path / _OF_A_RUN / CONFIG):
            raise InputError(f"{path} is the folder of a run: give its base, {path / _OF_A_RUN}")
        return path
    package, _, file = name_or_path.partition(":")
    if file and package.isidentifier():
        return locate(str(_in_package(package, file)), patterns)
    # A name on the hub has at most one slash.
    if name_or_path.startswith((".", "/", "~", os.sep)) or name_or_path.count("/") > 1:
        raise InputError(f"no such folder, {quote(name_or_path)}: check the path of the model")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name_or_path, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client lets errors of several HTTP libraries through
        raise InputError(
            f"neither a local folder nor reachable on the hub, {quote(name_or_path)}: check the "
            f"name and the network, or give a folder ({one_line(error)})"
        ) from error


def own_name(name_or_path: str) -> str:
    """The name on the hub or in a package by which `locate` finds a model; "" for a path."""
    return "" if exists(Path(os.path.expanduser(name_or_path))) else name_or_path


def on_the_hub(name: str) -> bool:
    """Whether `locate` would look for a name on the hub."""
    package, _, file = name.partition(":")
    local = name.startswith((".", "/", "~")) or (file and package.isidentifier())
    return not (local or exists(Path(name)))


def _in_package(package: str, file: str) -> Path:
    """The path of a file in an installed package, whose code is not run. InputError if either is
    missing.
    """
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # of a module without a spec, such as __main__
        spec = None
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    if not folders:
        raise InputError(
            f"no package {package} is installed, {quote(f'{package}:{file}')}: pip install "
            f"--no-deps {package.replace('_', '-')} (its files are enough), or check the name"
        )
    for folder in folders:
        if exists(folder / file):
            return folder / file
    known = [path.name for folder in folders for path in sorted(folder.glob("*.gguf"))]
    raise InputError(
        f"no file {quote(file)} in the package {package}: it has {', '.join(known) or 'no .gguf'}"
    )


def fingerprint(path: Path) -> str:
    """SHA-256 of a model's sizes, weights and tokenizer, in hexadecimal; for a GGUF file without a
    tokenizer beside it, the file's own.
    """
    if path.is_file():
        digest, beside = file_digest(path), gguf_checkpoint.tokenizer_beside(path)
        return _combined([digest, *_digests(beside, TOKENIZER_FILES)]) if beside else digest
    return _combined(_digests(path, HUB_FILES))


def _digests(folder: Path, patterns: Sequence[str]) -> list[str]:
    files = {path for pattern in patterns for path in folder.glob(pattern)}
    return [f"{path.name} {file_digest(path)}" for path in sorted(files)]


def _combined(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json as a dict; of a GGUF file, what would be in it.

    Prints a warning for settings of sampling in the folder, which are not applied.

    Raises:
      InputError: where the folder or the file is missing or is not a JSON object; for an adapter,
        or tokens that generation leaves out or forces, that would be ignored; for what no
        architecture here supports.
    """
    folder = Path(folder)
    if folder.is_file():
        return gguf_checkpoint.read_config(folder)
    if not exists(folder) or not folder.is_dir():
        raise InputError(f"no such folder, {escape(str(folder))}: check the path of the model")
    if not exists(folder / CONFIG):
        raise InputError(f"no {CONFIG}, {folder}: give a model's folder{_or_gguf(folder)}")
    config = read_json(folder / CONFIG, _AGAIN)
    if exists(folder / ADAPTER):
        raise InputError(
            f"an adapter, {folder / ADAPTER}: move it away to use the model without it; "
            "load(MODEL, adapter=FOLDER) or peft's merge_and_unload merges it into the weights"
        )
    refuse_options(config, _UNSUPPORTED, str(folder / CONFIG), "choose a plain checkpoint")
    settings = {CONFIG: config}
    if exists(folder / GENERATION):
        settings[GENERATION] = read_json(folder / GENERATION, _AGAIN)
    for name, given in settings.items():
        fix = "the model's own distribution is decoded, remove it"
        refuse_options(given, _TOKEN_SETTINGS, str(folder / name), fix)
        if sampling := _effective(given, _SAMPLING_SETTINGS):
            _warn(
                f"{folder / name} has {', '.join(sampling)}: not applied, the model's own "
                "distribution is decoded"
            )
    return config


@functools.cache  # a run reads a folder several times
def _warn(line: str) -> None:
    print_once(f"warning: {line}")


def refuse_options(
    given: Mapping[str, Any], neutral: Mapping[str, tuple], where: str, fix: str
) -> None:
    """InputError for the first option in `given` with another value than None and its `neutral`
    ones: it would be ignored. `where` and `fix` are for the message.
    """
    for name in _effective(given, neutral):
        raise InputError(f"{where} has {name} = {quote(given[name])}: not supported, {fix}")


def _effective(given: Mapping[str, Any], neutral: Mapping[str, tuple]) -> list[str]:
    """The options in `given` with another value than None and their `neutral` ones."""
    return [
        name
        for name, values in neutral.items()
        if given.get(name) is not None and given[name] not in values
    ]


def check_heads(hf: Mapping[str, Any], supported: Sequence[str]) -> None:
    """InputError where the `architectures` of a config.json are others than the supported ones."""
    heads = hf.get("architectures") or []
    heads = heads if isinstance(heads, list) else [heads]
    # TF and Flax prefixes are the same models in other frameworks.
    if any(str(head).removeprefix("TF").removeprefix("Flax") not in supported for head in heads):
        raise InputError(
            f"config.json has architectures = {quote(heads)}: only a language model, "
            f"{supported[0]}, is supported"
        )


def contradiction(other: str, theirs: Any, name: str, value: Any) -> InputError:
    """The error for two options of a config.json that stand for one and differ."""
    return InputError(
        f"config.json has {other} = {quote(theirs)} and {name} = {quote(value)}, which are one: "
        "correct or remove one of them"
    )


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Reads every tensor under its stored key, in its stored dtype, from one file or from shards.

    Those of a GGUF file have their Hugging Face keys, and quantised ones become float32.

    Raises:
      InputError: for missing, foreign or damaged files, and shards that disagree with their index.
    """
    if folder.is_file():
        return gguf_checkpoint.read_tensors(folder)
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    foreign = sorted(path.name for pattern in _FOREIGN for path in folder.glob(pattern))
    if foreign:
        raise InputError(
            f"no safetensors but {foreign[0]}, {folder}: such files can run code when opened; "
            "convert in a trusted place: load with transformers, then "
            "save_pretrained(..., safe_serialization=True)"
        )
    raise InputError(
        f"no {WEIGHTS} or {INDEX}, {folder}: give a folder with safetensors "
        f"weights{_or_gguf(folder)}"
    )


def read_adapter_weights(folder: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of an adapter of PEFT. InputError for missing, pickled or damaged files."""
    if exists(folder / ADAPTER_WEIGHTS):
        return read_safetensors(folder / ADAPTER_WEIGHTS)
    if pickled := sorted(path.name for path in folder.glob("adapter_model.*")):
        raise InputError(
            f"no safetensors but {pickled[0]}, {folder}: such files can run code when opened; "
            "convert in a trusted place: load with peft, then save_pretrained"
        )
    raise InputError(f"no {ADAPTER_WEIGHTS}, {folder}: copy or download the adapter again")


def check_tensors(found: Tensors, expected: Shapes, folder: Path, config: str = CONFIG) -> None:
    """InputError that names the tensors of `found` that are missing, unused, misshapen, or not of a
    float dtype. `folder` and its file `config` are for the message.
    """
    errors = []
    for key in sorted(expected.keys() | found.keys()):
        want = expected.get(key)
        have = found[key].shape if key in found else None
        if want != have:
            want, have = ("nothing" if shape is None else shape for shape in (want, have))
            errors.append(f"{key} expected {want}, found {have}")
        elif found[key].dtype.name not in DTYPES:
            errors.append(f"{key} expected {' or '.join(DTYPES)}, found {found[key].dtype.name}")
    if errors:
        more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise InputError(
            f"weights do not fit the configuration ({'; '.join(errors[:5])}{more}), {folder}: "
            f"use the {config} that belongs to these weights, or {_AGAIN}"
        )


def check_finite(tensors: Tensors, folder: Path) -> None:
    """InputError that names a tensor with a value that is not finite."""
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(
                f"{key} holds values that are not finite, {folder}: {_AGAIN}, or use weights of "
                "a training that did not diverge"
            )


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> None:
    """Writes config.json and model.safetensors as Hugging Face does; other files stay.

    Every file appears whole or not at all. Each tensor keeps its dtype. InputError for a full disk.
    """
    text = json.dumps(dict(config), indent=2, sort_keys=True) + "\n"
    with catch_disk_full(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, tensors)
        _replace(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Writes a safetensors file, whole or not at all. InputError for a full disk."""
    # safetensors writes the raw buffer, so a transposed view has to be laid out first.
    tensors = {key: np.asarray(tensor, order="C") for key, tensor in tensors.items()}
    with catch_disk_full(path):
        _replace(path, lambda temporary: save_file(tensors, temporary, {"format": "pt"}))


def _or_gguf(folder: Path) -> str:
    """Ends a message about a folder without weights that are read."""
    found = sorted(path.name for path in folder.glob("*.gguf"))
    return f", or name {escape(found[0])} in it" if found else ""


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
        found = read_safetensors(folder / shard)
        listed = {key for key, file in weight_map.items() if file == shard}
        if odd := sorted(listed ^ found.keys()):
            where = "the index only" if odd[0] in listed else f"{shard} only"
            key = escape(odd[0])[:200]
            raise InputError(f"{key} is in {where}, {index}: download the model again")
        tensors |= found
    return tensors


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a safetensors file. InputError for a damaged one, and for dtypes that
    NumPy lacks.
    """
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
