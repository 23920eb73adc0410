"""Training state on disk: Orbax checkpoints, each with a manifest of its content.

Orbax commits a checkpoint atomically but reads a damaged one silently. The manifest, written before
the checkpoint is committed, holds the SHA-256 of every file and of the base it belongs to.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dinado_jax.config.checks import LARGEST
from dinado_jax.distributed.processes import broadcast, is_main
from dinado_jax.errors import (
    InputError,
    catch_disk_full,
    escape,
    one_line,
    os_error,
)
from dinado_jax.utils.files import (
    exists,
    file_digest,
    read_json,
    write_json,
)
from dinado_jax.utils.progress import print_once

_MANIFEST = "manifest.json"
_WRITTEN_ON_COMMIT = (_MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt")
_TIMEOUT = 300  # seconds that processes wait for each other's part of a checkpoint
_NONE, _DAMAGED, _FOREIGN = -1, -2, -3
_FIX = "restore the original files, or delete that folder (and done.json next to it, if any)"


class Checkpoints:
    """Keeps the newest two states of a training run.

    A context manager. All processes make the same calls.

    Args:
      folder: of the checkpoints, one subfolder per step.
      base: fingerprint of the base that the states belong to; empty for none.

    Raises:
      InputError: if `folder` cannot be a folder, or holds unreadable metadata.
    """

    def __init__(self, folder: Path, base: str = ""):
        # Orbax needs an absolute path; `resolve` would raise for links in a circle.
        self._folder, self._base = folder.absolute(), base
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,  # left by killed processes
            preservation_policy=policies.LatestN(2),
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._seal, timeout_secs=_TIMEOUT
            ),
        )
        if exists(folder) and not folder.is_dir():
            raise os_error(folder, NotADirectoryError(errno.ENOTDIR, "not a directory"))
        with contextlib.ExitStack() as muted:
            muted.enter_context(_orbax_muted())
            try:
                self._manager = ocp.CheckpointManager(self._folder, options=options)
            except OSError as error:
                raise os_error(folder, error) from error
            except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
                # Orbax parses the metadata of every checkpoint.
                raise InputError(
                    f"checkpoints in {folder}, unreadable _CHECKPOINT_METADATA "
                    f"({one_line(error)}): delete that file"
                ) from error
            self._muted = muted.pop_all()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        with self._muted, catch_disk_full(self._folder):
            self._manager.wait_until_finished()
            self._manager.close()

    def save(self, step: int, state: Any) -> None:
        """Writes a state, a pytree of arrays, in the background unless this step exists already.

        Raises:
          InputError: here or on exit, if the disk is full.
        """
        if step not in self._manager.all_steps():
            with catch_disk_full(self._folder):
                self._manager.save(step, args=ocp.args.StandardSave(state))

    def newest(self) -> Path | None:
        """Returns the folder of the newest committed checkpoint, or None."""
        self._manager.wait_until_finished()
        step = self._manager.latest_step()
        return None if step is None else self._folder / str(step)

    def restore(self, like: Any) -> Any:
        """Reads the newest undamaged state; damaged ones are reported and moved aside.

        Args:
          like: pytree of `jax.ShapeDtypeStruct` with the shardings to restore to.

        Returns:
          The state, or None if nothing has been saved.

        Raises:
          InputError: if every checkpoint is damaged, or the newest undamaged one belongs to another
            base or has another structure, shapes or dtypes.
        """
        step, errors = self._newest_intact() if is_main() else (_NONE, {})
        step = broadcast(step)
        if step in (_DAMAGED, _FOREIGN):
            what = "is intact" if step == _DAMAGED else "belongs to this base"
            found = "; ".join(f"{step}, {error}" for step, error in errors.items())
            raise InputError(
                f"no checkpoint in {self._folder} {what} ({found or 'see process 0'}): {_FIX}"
            )
        self._manager.reload()
        if step == _NONE:
            return None
        if error := _misfit(self._folder / str(step), like):
            raise InputError(
                f"checkpoint {step} in {self._folder} does not fit this model and optimiser "
                f"({error}): {_FIX}"
            )
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def _newest_intact(self) -> tuple[int, dict[int, str]]:
        """Returns the newest intact step, or a code for why there is none, and errors by step.

        Moves damaged checkpoints aside if there is an older intact one.
        """
        errors = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            base, error = _examined(self._folder / str(step))
            if step > LARGEST["train.steps"]:
                error = "its number is no training step"
            if error:
                errors[step] = error
                continue
            if base != self._base:
                errors[step] = f"written for base {base[:12]}, this is {self._base[:12]}"
                return _FOREIGN, errors
            for damaged, error in errors.items():
                aside = self._folder / f"damaged_{damaged}"
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(damaged)).rename(aside)
                print_once(f"checkpoint {damaged} in {self._folder}: {error}; going back to {step}")
            return step, errors
        return (_DAMAGED if errors else _NONE), errors

    def _seal(self) -> None:
        """Writes the manifest of the checkpoint about to be committed."""
        if is_main():
            for folder in self._folder.glob("*.orbax-checkpoint-tmp*"):
                manifest = {"base": self._base, "files": _digests(folder)}
                write_json(folder / _MANIFEST, {**manifest, "digest": _own_digest(manifest)})


@contextlib.contextmanager
def _orbax_muted() -> Iterator[None]:
    """Drops what Orbax logs, in any thread: it logs a failure and raises it too."""

    def of_others(record: logging.LogRecord) -> bool:
        return "orbax" not in Path(record.pathname).parts

    logger = logging.getLogger("absl")
    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its relative path, except those that Orbax writes on commit."""
    paths = (Path(where) / name for where, _, names in os.walk(folder) for name in names)
    found = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: file_digest(found[name]) for name in sorted(found) if name not in _WRITTEN_ON_COMMIT
    }


def _own_digest(manifest: dict) -> str:
    content = json.dumps({name: manifest[name] for name in ("base", "files")}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _examined(folder: Path) -> tuple[str, str]:
    """Returns the fingerprint of a checkpoint's base, and what is wrong with it ("" if intact)."""
    try:
        manifest = read_json(folder / _MANIFEST, "", {"base": str, "files": dict, "digest": str})
        if manifest["digest"] != _own_digest(manifest):
            return "", f"its {_MANIFEST} has changed"
        there = _digests(folder)
    except (InputError, OSError):
        return "", f"its {_MANIFEST} or a file in it cannot be read"
    for name, digest in manifest["files"].items():
        if there.get(name) != digest:
            return "", f"{name} {'has changed' if name in there else 'is missing'}"
    return manifest["base"], ""


def _misfit(folder: Path, like) -> str:
    """Returns the first difference between a checkpoint's arrays and `like`; "" if none."""
    try:
        directory: Any = folder / "default"  # Orbax annotates its own path type
        found = _arrays(ocp.StandardCheckpointHandler().metadata(directory).tree)
    except Exception as error:  # whatever Orbax raises for malformed metadata
        return f"its metadata cannot be read, {one_line(error)}"
    wanted = _arrays(like)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            there, asked = (side.get(name, "nothing") for side in (found, wanted))
            return f"{escape(name)[:200]} is {there}, not {asked}"
    return ""


def _arrays(tree) -> dict[str, str]:
    """Returns dtype and shape of every array, by path."""

    def name(path):
        parts = (getattr(key, "name", getattr(key, "key", getattr(key, "idx", ""))) for key in path)
        return "/".join(map(str, parts))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
