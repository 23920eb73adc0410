"""An HMM in a folder: `hmm.json`, which names the file of its arrays, and that file.

hmm.json has the fingerprint of the base, the settings of the training, and how far it is. Each
epoch has a file of its own, and so has the last one with a head; it is written before hmm.json
names it: one of the two is always whole.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dinado_jax import __version__
from dinado_jax.errors import InputError
from dinado_jax.hmm.model import Hmm
from dinado_jax.models.hf_folder import (
    check_finite,
    check_tensors,
    fingerprint,
    read_safetensors,
    write_tensors,
)
from dinado_jax.utils.files import (
    exists,
    file_digest,
    json_digest,
    read_sealed_record,
    write_sealed,
)

RECORD = "hmm.json"
_HEAD = "head/"  # of the names of its tensors
# Version of the files. Bump it when an older version of the package would misread them.
FORMAT = 1
_FIX = "copy it again, or delete its folder and train it again"
_SCHEMA = {
    "format": int, "version": str, "base": str, "states": int, "vocab_size": int,
    "reads_prompt": bool, "settings": dict, "epochs": int, "figures": dict, "file": str,
    "sha256": str,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    hmm: Hmm  # on the host
    base: str  # fingerprint of the base
    settings: dict[str, Any]  # of the training, its length aside
    epochs: int  # that it has been trained
    figures: dict[str, Any]


def save_hmm(folder: Path, saved: Saved) -> None:
    """Writes an HMM in place of an earlier epoch. InputError for a full disk."""
    hmm, head = saved.hmm, "" if saved.hmm.head is None else "_head"
    path = folder / f"epoch_{saved.epochs:04d}{head}.safetensors"
    write_tensors(path, _tensors(hmm))
    write_sealed(
        folder / RECORD,
        {
            "format": FORMAT,
            "version": __version__,
            "base": saved.base,
            "states": hmm.states,
            "vocab_size": hmm.vocab_size,
            "reads_prompt": hmm.reads_prompt,
            "settings": saved.settings,
            "epochs": saved.epochs,
            "figures": saved.figures,
            "file": path.name,
            "sha256": file_digest(path),
        },
    )
    for other in folder.glob("epoch_[0-9][0-9][0-9][0-9]*.safetensors"):
        if other != path:
            other.unlink()


def is_saved(folder: Path) -> bool:
    """Whether there is an HMM in a folder. InputError if it may not be read."""
    return exists(folder / RECORD)


def saved_digest(folder: str | Path, head: bool) -> str:
    """SHA-256 of an HMM, with its head or without: one that is added later does not change what
    reads the HMM alone. InputError as for `load_saved`.
    """
    saved = load_saved(folder)
    hmm = saved.hmm if head else dataclasses.replace(saved.hmm, head=None)
    arrays = {name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in _tensors(hmm).items()}
    return json_digest([saved.base, hmm.reads_prompt, arrays])


def load_saved(folder: str | Path) -> Saved:
    """Reads an HMM that `save_hmm` has written.

    Raises:
      InputError: in one line for what is missing, damaged or of a newer version.
    """
    folder = Path(folder).expanduser()
    path = _record_of(folder)
    record = read_sealed_record(path, _SCHEMA, FORMAT, _FIX)
    file = folder / Path(record["file"]).name
    if not exists(file) or file_digest(file) != record["sha256"]:
        raise InputError(f"{file} is not what {path} was written with: {_FIX}")
    tensors, H, V = read_safetensors(file), record["states"], record["vocab_size"]
    shapes = {"initial": (H,), "transition": (H, H), "emission": (V, H)}
    own = {name: x for name, x in tensors.items() if not name.startswith(_HEAD)}
    check_tensors(own, shapes, folder, RECORD)
    check_finite(tensors, folder)
    arrays = (np.asarray(tensors[name], np.float32) for name in shapes)
    head = {name[len(_HEAD) :]: x for name, x in tensors.items() if name not in own}
    hmm = Hmm(
        *arrays,
        reads_prompt=record["reads_prompt"],
        head=unflatten_dict(head, sep="/") if head else None,
    )
    return Saved(hmm, record["base"], record["settings"], record["epochs"], record["figures"])


def load_of_base(folder: str | Path, base: Path | None, head: bool) -> Hmm:
    """Reads the HMM of a base.

    Args:
      folder: of the HMM.
      base: the folder of the base that it is to guide; None: one that is not there yet.
      head: whether it needs its head, which is left out otherwise.

    Raises:
      InputError: as `load_saved`, for an HMM of another base, and for one without a head.
    """
    saved = load_saved(folder)
    if base is not None and (found := fingerprint(base)) != saved.base:
        of_run = base.parts[-2:] == ("sft", "base")  # whose prompts of training it should read
        raise InputError(
            f"{folder} is an HMM of the base {saved.base[:12]}, and {base} is another, "
            f"{found[:12]}: train one with `dinado hmm train {base.parents[1] if of_run else base}`"
        )
    if head and saved.hmm.head is None:
        raise InputError(
            f"{folder} has no head: train it by the same `dinado hmm train` with --head, or use "
            "the HMM without one"
        )
    return saved.hmm if head else dataclasses.replace(saved.hmm, head=None)


def _record_of(folder: Path) -> Path:
    if folder.is_file():
        raise InputError(f"{folder} is a file: give the folder of an HMM, which holds its {RECORD}")
    if not is_saved(folder):
        raise InputError(
            f"no {RECORD} in {folder}: give the folder of an HMM (of a run: decode.hmm), as a path "
            "from where you are, or make one with `dinado hmm train`"
        )
    return folder / RECORD


def _tensors(hmm: Hmm) -> dict[str, np.ndarray]:
    named = {"initial": hmm.initial, "transition": hmm.transition, "emission": hmm.emission}
    if hmm.head is not None:
        named |= {_HEAD + name: x for name, x in flatten_dict(hmm.head, sep="/").items()}
    return jax.tree.map(np.asarray, named)
