"""A run's folder: one subfolder a stage, a record of what is done, and refusals in one line."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

from dinado_jax.config import Config
from dinado_jax.errors import InputError

STAGES = ("sft", "rollout", "train", "generate", "evaluate")
# What each stage's result depends on; a finished stage is reused only while these stand.
_SECTIONS = {
    "sft": ("seed", "task", "base", "sft"),
    "rollout": ("rollout",),
    "train": ("delta", "control", "train"),
    "generate": ("decode", "evaluate"),
    "evaluate": (),
}


def write_json(path: Path, value) -> None:
    """Writes a JSON file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


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
                f"cannot write the run folder {folder} ({error.strerror}): choose another with "
                "run.folder=DIR"
            ) from None
        return folder

    def _inputs(self, name: str) -> dict:
        """The configuration a stage depends on: its own sections and those of earlier stages."""
        upto = STAGES[: STAGES.index(name) + 1]
        keys = [section for stage in upto for section in _SECTIONS[stage]]
        everything = self.config.as_dict()
        return {key: everything[key] for key in keys}

    def finished(self, name: str) -> dict | None:
        """The figures of a finished stage, or None. InputError if its configuration differs."""
        done = self.path / name / "done.json"
        if not done.exists():
            return None
        record = json.loads(done.read_text())
        wanted = self._inputs(name)
        for section, value in wanted.items():
            if record["config"].get(section) != value:
                raise InputError(
                    f"stage {name} in {self.path} was done with another [{section}]: "
                    "give this run its own name=..., or delete that stage's folder"
                )
        return record

    def run(self, name: str, work: Callable[[Config, "RunFolder"], dict]) -> dict:
        """Does a stage unless it is done; returns its figures with the seconds it took."""
        record = self.finished(name)
        if record is None:
            began = time.monotonic()
            figures = work(self.config, self)
            record = {
                "figures": figures,
                "seconds": round(time.monotonic() - began, 2),
                "config": self._inputs(name),
            }
            write_json(self.path / name / "done.json", record)
        return record
