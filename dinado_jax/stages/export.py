"""The control of a run as files without the run, most of which other programs read."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from dinado_jax.adapters.peft_files import write_adapter
from dinado_jax.errors import InputError
from dinado_jax.language_model import Base, Controlled
from dinado_jax.models.gguf_export import write_gguf
from dinado_jax.stages.pipeline import load_run
from dinado_jax.utils.files import new_folder


def export(run: Path, folder: Path, form: str) -> None:
    """Writes the control of a finished run, or its q where that is the base with other parameters.

    Args:
      run: its folder.
      folder: made, with its parents; whole or not at all.
      form: hf, the base with the delta merged, as `Base.save` writes it; gguf, the same as one
        file, model.gguf, as `write_gguf` does; peft, the low-rank delta alone, as `write_adapter`
        does, of the base in the run's folder; or control, any control of that base, as
        `Controlled.save` does.

    Raises:
      InputError: as `load_run`; for a control that is no delta of the base or that the form cannot
        hold, and for a folder that is there and not empty.
    """
    model = load_run(run)
    write = {
        "hf": _save_merged,
        "gguf": _save_gguf,
        "peft": _save_adapter,
        "control": Controlled.save,
    }[form]
    with new_folder(folder) as partial:
        try:
            write(model, partial)
        except InputError as error:
            raise InputError(f"the control of {run} is not exported, {error}") from error


def _save_merged(model: Controlled, folder: Path) -> None:
    _merged(model).save(folder)


def _save_gguf(model: Controlled, folder: Path) -> None:
    base = _merged(model)
    write_gguf(folder / "model.gguf", base.model, jax.device_get(base.params), base.codec)


def _merged(model: Controlled) -> Base:
    return dataclasses.replace(model, base=_in_float32(model.base)).as_base()


def _save_adapter(model: Controlled, folder: Path) -> None:
    base, (adapter, delta) = model.base, model.delta()
    write_adapter(folder, base.model, base.params, adapter, delta, str(base.folder.resolve()))


def _in_float32(base: Base) -> Base:
    """In lower precision, merging would round a small change away."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), base.params)
    return dataclasses.replace(base, model=base.model.replace(param_dtype="float32"), params=params)
