"""A run's folder: one subfolder a stage, a record of what is done, and refusals in one line."""

import contextlib
import dataclasses
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dinado_jax.config import Config
from dinado_jax.errors import ELSEWHERE, InputError
from dinado_jax.files import read_json, write_json
from dinado_jax.processes import first, meet, told

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


def _counts(section: str, value, free: tuple[str, ...]):
    """What of a section a stage's result depends on."""
    if not isinstance(value, dict):
        return value
    free = (*free, *_FREE.get(section, ()))
    return {key: inner for key, inner in value.items() if key not in free}


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
        """InputError if the stage holds work that was begun with another configuration. While it is
        not done its learning rate may change: a loss that diverged goes on from a checkpoint."""
        begun = self.path / name / "config.json"
        if not begun.exists() or len(list(begun.parent.iterdir())) == 1:
            return
        free = () if (self.path / name / "done.json").exists() else ("learning_rate",)
        before = read_json(begun, _ANEW)
        for section, value in self._inputs(name).items():
            rates = free if section == name else ()
            if _counts(section, before.get(section), rates) != _counts(section, value, rates):
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
        """Does a stage unless it is done, in all processes together; returns its figures and the
        seconds it took. Process 0's are the ones on disk, others may lack what it alone does."""
        record = self.finished(name)
        if record is None:
            meet(f"{name} begins")
            folder = self.stage(name)
            if first():
                write_json(folder / "config.json", self._inputs(name))
            began = time.monotonic()
            figures = work(self.config, self)
            meet(f"{name} has been worked on")  # nobody reads its parts any more
            record = {"figures": figures, "seconds": round(time.monotonic() - began, 2)}
            if first():
                write_json(folder / "done.json", record)
                for parts in folder.glob("*parts"):  # what it was collected from
                    shutil.rmtree(parts)
            meet(f"{name} is done")
        return record

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While stages are done. InputError if another command does stages of this run."""
        with contextlib.ExitStack() as stack:
            free = True
            if first():
                self.stage("")
                file = stack.enter_context((self.path / "lock").open("a"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    free = False
            if not told(free):
                raise InputError(
                    f"another command is at work in {self.path}: wait for it, stop it, or give "
                    "this run its own name=..."
                )
            yield
