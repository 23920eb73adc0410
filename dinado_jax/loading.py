"""Models from files: a base of a checkpoint, a control that `Controlled.save` has written."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.adapters.make import reserve_positions
from dinado_jax.adapters.peft_files import ADAPTER_FILES, apply_adapter
from dinado_jax.automata.compiled import AutomataOf
from dinado_jax.config.checks import DTYPES
from dinado_jax.controls.control_file import (
    CONTROL,
    CONTROL_FILES,
    Record,
    read_control,
    read_params,
)
from dinado_jax.controls.make import make_control
from dinado_jax.errors import InputError, quote
from dinado_jax.guides.tilt import Tilt
from dinado_jax.hmm.folder import load_of_base
from dinado_jax.hmm.model import Hmm
from dinado_jax.language_model import Base, Controlled, require_base
from dinado_jax.models.architectures import load_model, load_params
from dinado_jax.models.hf_folder import HUB_FILES, fingerprint, locate, own_name
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.oracles.expression import find_automata, is_own
from dinado_jax.utils.arguments import known_keywords
from dinado_jax.utils.files import exists


class LoadSettings(TypedDict, total=False):
    """The settings of `load_base`."""

    adapter: str | Path
    dtype: str
    param_dtype: str
    remat: bool
    prompt_template: str
    place: Callable[[dict], dict]


@known_keywords()
def load(path_or_name: str | os.PathLike[str], **settings: Unpack[LoadSettings]) -> Base | Any:
    """Loads a base, or a saved control with its base.

    Args:
      path_or_name: a Hugging Face folder, a .gguf file or a hub name such as "gpt2"; or a folder or
        hub name that `Controlled.save` or `push_to_hub` has written.
      **settings: of a base: adapter, dtype, param_dtype, remat, prompt_template and place, see
        `load_base`.

    Returns:
      A `Base`; for a control a `Controlled`, as `load_control` does.

    Raises:
      InputError: as `load_base` or `load_control`, and for settings of a base where a control is.
    """
    if not isinstance(path_or_name, (str, os.PathLike)):
        raise InputError(f"{quote(path_or_name)} is no path: give a folder or a name on the hub")
    path_or_name = os.fsdecode(path_or_name)
    folder = locate(path_or_name, (*HUB_FILES, CONTROL))
    if not exists(folder / CONTROL):
        return load_base(path_or_name, **settings)
    if settings:
        raise InputError(
            f"{folder} has a control, and {next(iter(settings))} is a setting of bases: load the "
            "base with it, and give it to load_control(DIR, base)"
        )
    return load_control(path_or_name)


def load_control(
    path_or_name: str | Path,
    base: Base | str | Path | None = None,
    *,
    oracle: str | Callable[..., Any] | None = None,
) -> Controlled:
    """Loads a control that `Controlled.save` has written.

    Args:
      path_or_name: its folder or hub name.
      base: the one it was trained on: what `load` returns, or takes; None: the one that is named in
        control.json.
      oracle: of a control with state, which reads its automata: one of `dinado_jax.constraints`, or
        a name or an expression as in rollout.oracle. None: an oracle of this package, or an
        expression of such, as recorded; no other code is imported because a file names it.

    Raises:
      InputError: in one line for files that are missing, damaged or of a newer version, for every
        tensor that is missing, unused or misshapen, for another base, and for an oracle that has to
        be given, has no automata or is not needed.
    """
    folder = locate(str(path_or_name), CONTROL_FILES)
    record = read_control(folder)
    settings = record.origin.settings
    base = _base_of(folder, record, base)
    base = dataclasses.replace(base, model=reserve_positions(base.model, settings))
    control = make_control(settings, base.model)
    params = jax.device_put(read_params(folder, record, control, base.params))
    decode = settings.decode
    return Controlled(
        dataclasses.replace(base, max_new_tokens=decode.max_new_tokens),
        control,
        params,
        Tilt.of(decode),
        _automata_of(folder, record, oracle),
        record.origin,
    )


def load_hmm(folder: str | Path, base: Base, head: bool = False) -> Hmm:
    """Loads a hidden Markov model that `dinado hmm train` has made of a base.

    Args:
      folder: of the HMM.
      base: that it is to guide, see `guarantee`.
      head: whether the head of `dinado hmm train --head` predicts the HMM's state from the base's
        hidden state, in place of the HMM's own filter.

    Raises:
      InputError: in one line for files that are missing, damaged or of a newer version, for an HMM
        of another base, and for one without the head that is asked for.
    """
    require_base(base)
    return load_of_base(folder, base.saved_folder(), head)


def _base_of(folder: Path, record: Record, given: Base | str | Path | None) -> Base:
    """Loads the base of a control, unless it is given loaded. InputError for another one."""
    settings = record.origin.settings.base
    if isinstance(given, Base):
        base, there = given, given.saved_folder()
    else:
        try:
            base = load_base(
                settings.path if given is None else given,
                dtype=settings.dtype,
                param_dtype=settings.param_dtype,
                prompt_template=settings.prompt_template,
            )
        except InputError as error:
            raise InputError(f"the base of the control in {folder}, {error}") from error
        there = base.folder
    if (found := fingerprint(there)) != record.base:
        raise InputError(
            f"{folder} is a control of the base {quote(settings.path)}, {record.base[:12]}, and "
            f"{there} is another, {found[:12]}: load the one it was trained on"
        )
    if base.prompt_template != settings.prompt_template:
        raise InputError(
            f"{folder} is a control of a base with prompt_template = "
            f"{quote(settings.prompt_template)}, not {quote(base.prompt_template)}: load the base "
            "with it"
        )
    return base


def _automata_of(
    folder: Path, record: Record, given: str | Callable[..., Any] | None
) -> AutomataOf | None:
    """The automata of a control's oracle; None for a control that does not read them."""
    name = record.origin.settings.rollout.oracle
    if not record.origin.settings.control.state:
        if given is not None:
            raise InputError(f"the control in {folder} reads no state of an oracle: leave it out")
        return None
    if given is None and not is_own(name):
        raise InputError(
            f"the control in {folder} reads the state of its oracle {quote(name)}, which is not "
            "one of this package: give it, load_control(DIR, oracle=...)"
        )
    given = name if given is None else given
    automata_of = find_automata(given)
    if automata_of is None:
        raise InputError(
            f"oracle {quote(given)} has no automata, whose state the control in {folder} reads: "
            "give the one it was trained with"
        )
    return automata_of


def load_base(
    path_or_name: str | Path,
    *,
    adapter: str | Path = "",
    dtype: str = "float32",
    param_dtype: str = "float32",
    remat: bool = False,
    prompt_template: str = "",
    place: Callable[[dict], dict] = jax.device_put,
) -> Base:
    """Loads a base from a Hugging Face folder, .gguf file or hub name; safetensors only.

    Ids without text by the folder's tokenizer, if it has a readable one, are left out of p: see
    `Model.excluded_ids`.

    Args:
      path_or_name: a folder with config.json and model.safetensors (single or sharded), or a hub
        name such as "gpt2". Its architecture is one of `ARCHITECTURES`.
      adapter: a folder or hub name of a LoRA, prefix or prompt that PEFT or `dinado export` has
        written, merged into the base in float32; see `apply_adapter`.
      dtype: of activations; logits and control arithmetic are float32 whatever it is.
      param_dtype: of the parameters in memory.
      remat: gradients compute each block's activations again instead of keeping them.
      prompt_template: around every prompt: a text with {prompt} in it, in which names of special
        tokens are those tokens, "chat" for the tokenizer's own chat template, or "hidden": the base
        continues an empty text, whatever the prompt is.
      place: puts the parameters, arrays on the host, on devices.

    Raises:
      InputError: in one line for anything missing, unused, misshapen, damaged or pickled; for a
        tokenizer once it is asked for, or now if there is a prompt template.
    """
    _require_dtype("dtype", dtype)
    _require_dtype("param_dtype", param_dtype)
    folder = locate(str(path_or_name))
    model = load_model(folder).replace(dtype=dtype, param_dtype=param_dtype, remat=remat)
    params = load_params(folder, model)
    if adapter:
        model, params = apply_adapter(locate(str(adapter), ADAPTER_FILES), model, params)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.dtype(param_dtype)), params)
    try:
        codec = load_codec(folder, model.vocab_size)
    except InputError:
        if prompt_template:
            raise
        codec = None  # raised again where text is needed
    else:
        codec = codec.with_template(prompt_template)
        model = model.replace(excluded_ids=codec.excluded_ids(model.vocab_size))
    return Base(model, place(params), folder, codec, name=own_name(str(path_or_name)))


def _require_dtype(name: str, dtype: str) -> None:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{name} = {quote(dtype)}: give {' or '.join(map(quote, DTYPES))}")
