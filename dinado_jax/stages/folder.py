"""A run's folder: one subfolder a stage, a record of what is done, and refusals in one line."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from dinado_jax.config import Config
from dinado_jax.errors import ELSEWHERE, InputError
from dinado_jax.files import read_json, write_json

STAGES = ("sft", "rollout", "train", "generate", "evaluate")
# What each stage's result depends on; a finished stage is reused only while these stand.
_SECTIONS = {
    "sft": ("seed", "task", "base", "sft"),
    "rollout": ("rollout",),
    "train": ("delta", "control", "train"),
    "generate": ("decode", "evaluate"),
    "evaluate": (),
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
_ANEW = "delete the stage's folder and run it again"


def _counts(section: str, value):
    """What of a section a stage's result depends on."""
    if not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if key not in _FREE.get(section, ())}


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """runs/NAME. InputError if it cannot be written or holds a run of another configuration."""

    path: Path
    config: Config

    def stage(self, name: str) -> Path:
        folder = self.path / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write the run folder {folder} ({error.strerror}): {ELSEWHERE}"
            ) from None
        return folder

    def _inputs(self, name: str) -> dict:
        """The configuration a stage depends on: its own sections and those of earlier stages."""
        upto = STAGES[: STAGES.index(name) + 1]
        keys = [section for stage in upto for section in _SECTIONS[stage]]
        everything = self.config.as_dict()
        return {key: everything[key] for key in keys}

    def _check_inputs(self, name: str) -> None:
        """InputError if the stage holds work that was begun with another configuration."""
        begun = self.path / name / "config.json"
        if not begun.exists() or len(list(begun.parent.iterdir())) == 1:
            return
        before = read_json(begun, _ANEW)
        for section, value in self._inputs(name).items():
            if _counts(section, before.get(section)) != _counts(section, value):
                raise InputError(
                    f"stage {name} in {self.path} was begun with another [{section}]: "
                    "give this run its own name=..., or delete that stage's folder"
                )

    def finished(self, name: str) -> dict | None:
        """The record of a finished stage, or None. InputError if its configuration differs."""
        self._check_inputs(name)
        done = self.path / name / "done.json"
        return read_json(done, _ANEW) if done.exists() else None

    def run(self, name: str, work: Callable[[Config, "RunFolder"], dict]) -> dict:
        """Does a stage unless it is done; returns its figures and the seconds it took."""
        record = self.finished(name)
        if record is None:
            write_json(self.stage(name) / "config.json", self._inputs(name))
            began = time.monotonic()
            figures = work(self.config, self)
            record = {"figures": figures, "seconds": round(time.monotonic() - began, 2)}
            write_json(self.path / name / "done.json", record)
        return record
