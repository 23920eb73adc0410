"""A run's folder: one subfolder per stage, with a record of what the stage read and what it wrote.

`config.json` is written as a stage begins: its settings and the SHA-256 of what it reads besides
them. `done.json` is written as it ends: figures, seconds and the SHA-256 of its results. A stage is
continued or reused only while all of that still holds; what differs is named.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dinado_jax.config.schema import Config
from dinado_jax.distributed.processes import barrier, broadcast, is_main
from dinado_jax.errors import InputError, os_error, quote
from dinado_jax.rollouts.shards import remove_shards
from dinado_jax.utils.files import (
    exists,
    file_digest,
    read_sealed,
    write_sealed,
)

STAGES = ("sft", "rollout", "train", "generate", "evaluate")
# What each stage leaves for others, relative to its folder; hashed when it is done.
_RESULTS = {
    "sft": ("base",),
    "rollout": ("rollouts.npz",),
    "train": ("control",),
    "generate": ("base.jsonl", "control.jsonl"),
    "evaluate": ("../summary.json", "../report.html"),
}
# Folders of judged samples, a file per batch; of no use once the stage is done.
_PARTS = {
    "rollout": r"parts|references_parts",
    "train": r"round_\d+_parts",
    "generate": r"(base|control)_parts",
}
# What each stage's result depends on; a finished stage is reused only while these stand.
_SECTIONS = {
    "sft": ("seed", "task", "base", "sft"),
    "rollout": ("rollout",),
    "train": ("delta", "control", "train"),
    "generate": ("decode", "evaluate"),
    "evaluate": (),
}
# The earlier stages whose results a stage reads.
READS = {
    "sft": (),
    "rollout": ("sft",),
    "train": ("sft", "rollout"),
    "generate": ("sft", "train"),
    "evaluate": ("generate",),
}
# These change memory and speed, results by rounding at most: what ran out of memory goes on with
# less at once.
_FREE = {
    "base": ("remat",),
    "sft": ("accumulate",),
    "train": ("accumulate", "base_states"),
    "rollout": ("batch",),
    "decode": ("batch",),
}


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """runs/NAME. InputError if it cannot be written or holds a run of another configuration."""

    path: Path
    config: Config

    def stage_folder(self, name: str) -> Path:
        """The stage's folder, made if it is not there."""
        folder = self.path / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write the run folder: {os_error(folder, error)}") from None
        return folder

    def finished(self, name: str) -> dict | None:
        """The record of a finished stage, or None. InputError if it was begun with other settings,
        or if its results are no longer as it left them."""
        if self.started(name) is None or not _exists(self.path / name / "done.json"):
            return None
        record = read_sealed(self.path / name / "done.json", self._again(name))
        found = _digests(self.path / name, _RESULTS[name])
        for file in sorted(found.keys() | record["results"].keys()):
            was, now = record["results"].get(file), found.get(file)
            if was != now:
                what = "is missing" if now is None else "is new" if was is None else "has changed"
                raise InputError(
                    f"{self.path / name / file} {what} since stage {name} was done: put it back "
                    f"as it was, or {self._again(name)}"
                )
        return record

    def started(self, name: str) -> dict | None:
        """What a stage recorded as it began, or None if there is no work of it. InputError if its
        settings differ. While the stage is not done its learning rate may change: after a loss that
        diverged, training goes on from a checkpoint."""
        folder = self.path / name
        record = folder / "config.json"
        if not any(entry.name != record.name and _is_work(entry) for entry in _entries(folder)):
            return None
        if not _exists(record):
            raise InputError(f"no {record}, beside work of that stage: {self._again(name)}")
        before = read_sealed(record, self._again(name))
        done = _exists(folder / "done.json")
        old, new = (
            _counted(settings, "" if done else name)
            for settings in (before["settings"], self._settings(name))
        )
        if old != new:
            key = next(
                key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
            )
            raise InputError(
                f"stage {name} in {self.path} was begun with another {key} "
                f"({quote(old.get(key))}, now {quote(new.get(key))}): set it back, give this run "
                f"its own name=..., or {self._again(name)}"
            )
        return before

    def check_inputs(self, name: str, inputs: dict[str, str]) -> None:
        """InputError if the stage was begun from other content of any of these inputs, which are
        given by name as SHA-256."""
        before = self.started(name)
        for what, digest in inputs.items() if before else ():
            was = before["inputs"].get(what)
            if was != digest:
                raise InputError(
                    f"stage {name} in {self.path} was begun with other content of {what}: put "
                    f"back what was there, or {self._again(name)}"
                )

    def results_digest(self, name: str) -> str:
        """SHA-256 of what a finished stage left, "" if it is not finished."""
        record = self.finished(name)
        return "" if record is None else _hash(record["results"])

    def fingerprint(self, name: str) -> str:
        """SHA-256 of everything the results of a stage that was begun depend on."""
        before = read_sealed(self.path / name / "config.json", self._again(name))
        return _hash([_counted(before["settings"], name), before["inputs"]])

    def run(self, name: str, work: Callable, inputs: dict[str, str]) -> dict:
        """Does a stage unless it is done, in all processes together; returns its record. Process
        0's figures are the ones on disk, others may lack what it alone computes.

        Args:
          work: (config, run folder) -> figures.
          inputs: SHA-256, by name, of what the stage reads besides its settings.
        """
        record = self.finished(name)
        if record is None:
            barrier(f"{name} begins")
            folder = self.stage_folder(name)
            if is_main():
                settings = self._settings(name)
                write_sealed(folder / "config.json", {"settings": settings, "inputs": inputs})
            barrier(f"{name} has begun")
            began = time.monotonic()
            figures = work(self.config, self)
            barrier(f"{name} has been worked on")  # nobody reads its parts any more
            record = {"figures": figures, "seconds": round(time.monotonic() - began, 2)}
            if is_main():
                record["results"] = _digests(folder, _RESULTS[name])
                write_sealed(folder / "done.json", record)
                _tidy(folder, _PARTS.get(name, ""))
            barrier(f"{name} is done")
        return record

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While stages are done. InputError if another command does stages of this run."""
        with contextlib.ExitStack() as stack:
            free = True
            if is_main():
                self.stage_folder("")
                try:
                    file = stack.enter_context((self.path / "lock").open("a"))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    free = False
                except OSError as error:
                    raise os_error(self.path / "lock", error) from error
            if not broadcast(free):
                raise InputError(
                    f"another command is at work in {self.path}: wait for it, stop it, or give "
                    "this run its own name=..."
                )
            yield

    def _settings(self, name: str) -> dict[str, Any]:
        """The sections a stage depends on: its own and those of earlier stages."""
        until = STAGES[: STAGES.index(name) + 1]
        everything = self.config.as_dict()
        return {section: everything[section] for stage in until for section in _SECTIONS[stage]}

    def _again(self, name: str) -> str:
        """What to do to run a stage again: what came after it goes too."""
        later = STAGES[STAGES.index(name) :]
        there = [stage for stage in later if stage == name or _exists(self.path / stage)]
        folders = f"folder {there[0]}" if len(there) == 1 else f"folders {', '.join(there)}"
        return f"delete the {folders} in {self.path} and run again"


def _counted(settings: dict[str, Any], open_stage: str) -> dict[str, Any]:
    """Settings that results depend on, by "section.key". The learning rate of a stage that is not
    done is not among them."""
    counted = {}
    for section, values in settings.items():
        if not isinstance(values, dict):
            counted[section] = values
            continue
        free = (*_FREE.get(section, ()), *(("learning_rate",) if section == open_stage else ()))
        counted |= {f"{section}.{key}": value for key, value in values.items() if key not in free}
    return counted


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise os_error(folder, error) from error


def _is_work(entry: Path) -> bool:
    """What discarding left, or a write that was cut short, is none."""
    return not entry.name.startswith("forgotten_") and entry.suffix != ".partial"


def _exists(path: Path) -> bool:
    return path.is_symlink() or exists(path)


def _digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of files, and of all files in folders, by their path relative to `folder`; what is
    not there is left out."""
    found = {}
    for name in names:
        path = folder / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path] if _exists(path) else []
        for file in files:
            if not file.is_dir():
                found[f"{name}/{file.relative_to(path).as_posix()}".removesuffix("/.")] = (
                    file_digest(file)
                )
    return found


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _tidy(folder: Path, parts: str) -> None:
    """Removes the parts that a stage's result was collected from, and nothing else."""
    for entry in _entries(folder):
        if re.fullmatch(parts, entry.name) and entry.is_dir():
            remove_shards(entry)
