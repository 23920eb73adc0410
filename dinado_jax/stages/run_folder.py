"""The folder of a run: a subfolder per stage, with a record of what the stage read and wrote.

`config.json` is written when a stage begins: its settings and the SHA-256 of its other inputs.
`done.json` is written when it ends: figures, seconds and the SHA-256 of its results. A stage is
continued or reused only if none of these has changed; otherwise an error names what has.
"""

import contextlib
import dataclasses
import fcntl
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dinado_jax.config.schema import Config
from dinado_jax.distributed.processes import barrier, broadcast, is_main
from dinado_jax.errors import InputError, os_error, quote
from dinado_jax.evaluation import stage_figures
from dinado_jax.evaluation.records import read_record
from dinado_jax.evaluation.stage_figures import Figures
from dinado_jax.rollouts.shards import remove_shards
from dinado_jax.utils.files import (
    exists,
    file_digest,
    json_digest,
    read_json,
    read_sealed,
    write_sealed,
)

# Version of the records and of the files that stages write for each other. Bump it when older run
# folders can no longer be continued.
FORMAT = 9
STAGES = ("sft", "rollout", "train", "generate", "evaluate")
# The figures of each stage.
_FIGURES = {
    "sft": stage_figures.SftFigures,
    "rollout": stage_figures.RolloutFigures,
    "train": stage_figures.TrainFigures,
    "generate": stage_figures.GenerateFigures,
    "evaluate": stage_figures.EvaluateFigures,
}
# What each stage writes for later stages, relative to its folder; hashed when it is done.
_RESULTS = {
    "sft": ("base",),
    "rollout": ("rollouts.npz", "moments.json"),
    "train": ("control",),
    "generate": ("base.jsonl", "control.jsonl", "values.jsonl", "strengths"),
    "evaluate": ("../summary.json", "../report.html"),
}
# Folders of judged samples, a file per batch; removed once the stage is done.
_SHARDS = {
    "rollout": r"(references_)?shards",
    "train": r"(table|round|roll_outs|particles)_\d+_shards",
    "generate": r"(base|control|strength_.*)_shards",
}
# Settings that each stage's result depends on; a finished stage is reused if none has changed.
_SECTIONS = {
    "sft": ("seed", "task", "base", "sft"),
    "rollout": ("rollout", "target"),
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
# These change memory and speed, and results only by rounding: a run that ran out of memory can
# continue with smaller values. `strict` only changes the exit code, `oracle_seconds` only which
# samples are left out, and what another oracle says is read by the stage evaluate alone, whose
# record has its digest.
_NOT_IN_FINGERPRINT = {
    "base": ("remat",),
    "sft": ("accumulate",),
    "train": ("accumulate", "base_states", "strict"),
    "rollout": ("batch", "oracle_seconds"),
    "decode": ("batch",),
    "evaluate": ("oracle",),
}
# What may change while a stage is unfinished, by the beginning of its name: training continues from
# a checkpoint after it has diverged, and the base's samples do not depend on the means wanted.
_FREE_UNTIL_DONE = {
    "sft": "sft.learning_rate",
    "rollout": "target.",
    "train": "train.learning_rate",
}


def check_format(run: Path) -> None:
    """Checks that this version can continue or load the run in a folder.

    Raises:
      InputError: if another version wrote it.
    """
    for name in STAGES:
        record = run / name / "config.json"
        if _exists(record) and read_json(record, _again(run, name)).get("format") != FORMAT:
            raise InputError(
                f"{record} was written by another version of dinado-jax: delete the folder {run} "
                "and run again, or use the version that wrote it"
            )


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """The content of done.json."""

    figures: Any  # the `Figures` of the stage
    seconds: float
    results: dict[str, str]  # SHA-256 of each result file, by path

    @property
    def digest(self) -> str:
        """SHA-256 of all results."""
        return json_digest(self.results)


def read_stage_record(run: Path, name: str) -> StageRecord | None:
    """Reads the record of a stage; None if it is not done. What it wrote is not looked at.

    Args:
      run: the run's folder.
      name: of the stage.

    Raises:
      InputError: if the record is damaged.
    """
    done = run / name / "done.json"
    if not _exists(done):
        return None
    again = _again(run, name)
    tree = read_sealed(done, again)
    figures = stage_figures.from_dict(
        _FIGURES[name], tree.get("figures", {}), f"{done}, figures", again
    )
    return read_record(StageRecord, tree, str(done), again, figures=figures)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """runs/NAME. InputError if it cannot be written or holds a run of another configuration."""

    path: Path
    config: Config

    def stage_folder(self, name: str) -> Path:
        """Returns the stage's folder, and creates it if necessary."""
        folder = self.path / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write the run folder: {os_error(folder, error)}") from None
        return folder

    def finished(self, name: str) -> StageRecord | None:
        """Reads the record of a stage; None if it is not done.

        Raises:
          InputError: if it was begun with other settings, or if its results have changed since.
        """
        record = None if self.started(name) is None else read_stage_record(self.path, name)
        if record is None:
            return None
        again = _again(self.path, name)
        found = _digests(self.path / name, _RESULTS[name])
        for file in sorted(found.keys() | record.results.keys()):
            was, now = record.results.get(file), found.get(file)
            if was != now:
                what = "is missing" if now is None else "is new" if was is None else "has changed"
                raise InputError(
                    f"{self.path / name / file} {what} since stage {name} was done: put it back "
                    f"as it was, or {again}"
                )
        return record

    def record(self, name: str) -> StageRecord:
        """Reads the record of a stage that is done. InputError if it is not, or as `finished`."""
        record = self.finished(name)
        if record is None:
            raise InputError(
                f"stage {name} is not done in {self.path}: run `dinado {name}` or `dinado run`"
            )
        return record

    def started(self, name: str) -> dict | None:
        """Reads what a stage recorded when it began; None if it has not started.

        Raises:
          InputError: if its settings differ.
        """
        folder = self.path / name
        record = folder / "config.json"
        if not any(entry.name != record.name and _is_work(entry) for entry in _entries(folder)):
            return None
        if not _exists(record):
            again = _again(self.path, name)
            raise InputError(f"{record} is missing, but its folder has other files: {again}")
        before = read_sealed(record, _again(self.path, name))
        open_stage = self._open(name)
        old, new = (
            _counted(settings, open_stage)
            for settings in (_with_defaults(before["settings"]), self._settings(name))
        )
        if old != new:
            key = next(
                key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
            )
            raise InputError(
                f"stage {name} in {self.path} was begun with another {key} "
                f"({quote(old.get(key))}, now {quote(new.get(key))}): set it back, give this run "
                f"a name or folder of its own, or {_again(self.path, name)}"
            )
        return before

    def check_inputs(self, name: str, inputs: dict[str, str]) -> None:
        """Checks that the inputs of a stage, SHA-256 by name, have not changed since it began.

        Raises:
          InputError: if one of them has.
        """
        before = self.started(name)
        if before is None:
            return
        for what, digest in _without_free(inputs, self._open(name)).items():
            was = before["inputs"].get(what)
            if was != digest:
                raise InputError(
                    f"stage {name} in {self.path} was begun with other content of {what}: put "
                    f"back what was there, or {_again(self.path, name)}"
                )

    def fingerprint(self, name: str) -> str:
        """Returns the SHA-256 of everything that the results of a started stage depend on."""
        before = read_sealed(self.path / name / "config.json", _again(self.path, name))
        inputs = _without_free(before["inputs"], name)
        return json_digest([_counted(before["settings"], name), inputs])

    def run(self, name: str, work: Callable[[], Figures], inputs: dict[str, str]) -> StageRecord:
        """Runs a stage unless it is done, in all processes, and returns its record.

        The figures on disk are the main process's; others may lack those that only it computes.

        Args:
          work: the stage.
          inputs: SHA-256, by name, of what the stage reads besides its settings.
        """
        record = self.finished(name)
        if record is None:
            barrier(f"{name} begins")
            folder = self.stage_folder(name)
            if is_main():
                begun = {"format": FORMAT, "settings": self._settings(name), "inputs": inputs}
                write_sealed(folder / "config.json", begun)
            barrier(f"{name} has begun")
            began = time.monotonic()
            figures = work()
            barrier(f"{name} has been worked on")  # no process reads its shards any more
            record = StageRecord(figures, round(time.monotonic() - began, 2), {})
            if is_main():
                results = _digests(folder, _RESULTS[name])
                record = dataclasses.replace(record, results=results)
                tree = {**vars(record), "figures": stage_figures.as_dict(figures)}
                write_sealed(folder / "done.json", tree)
                _tidy(folder, _SHARDS.get(name, ""))
            barrier(f"{name} is done")
        return record

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the run while stages run.

        Raises:
          InputError: if another command holds the lock, or if the folder was removed meanwhile.
        """
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
                    f"another command is running in {self.path}: wait for it, stop it, or give "
                    "this run a name or folder of its own"
                )
            try:
                yield
            except FileNotFoundError:
                if _exists(self.path / "lock"):  # the folder itself may have been made again
                    raise
                raise InputError(
                    f"{self.path} was removed while stages ran: run the same command again"
                ) from None

    def _open(self, name: str) -> str:
        """Returns the name of a stage that is not done; "" of one that is."""
        return "" if _exists(self.path / name / "done.json") else name

    def _settings(self, name: str) -> dict[str, Any]:
        """Returns the sections a stage depends on: its own and those of earlier stages."""
        until = STAGES[: STAGES.index(name) + 1]
        everything = self.config.as_dict()
        return {section: everything[section] for stage in until for section in _SECTIONS[stage]}


def _again(run: Path, name: str) -> str:
    """Says how to run a stage again: the folders of later stages must be deleted too."""
    later = STAGES[STAGES.index(name) :]
    there = [stage for stage in later if stage == name or _exists(run / stage)]
    folders = f"folder {there[0]}" if len(there) == 1 else f"folders {', '.join(there)}"
    return f"delete the {folders} in {run} and run again"


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Adds the settings that are newer than a record: they had the effect of their defaults."""
    defaults = Config().as_dict()
    return {
        section: {**defaults.get(section, {}), **values} if isinstance(values, dict) else values
        for section, values in settings.items()
    }


def _counted(settings: dict[str, Any], open_stage: str) -> dict[str, Any]:
    """Flattens the settings that results depend on to {"section.key": value}.

    Args:
      open_stage: an unfinished stage, some of whose settings are left out; "" for none.
    """
    counted = {}
    for section, values in settings.items():
        if not isinstance(values, dict):
            counted[section] = values
            continue
        free = _NOT_IN_FINGERPRINT.get(section, ())
        counted |= {f"{section}.{key}": value for key, value in values.items() if key not in free}
    return _without_free(counted, open_stage)


def _without_free(values: dict[str, Any], open_stage: str) -> dict[str, Any]:
    """Leaves out what may change while that stage is unfinished; nothing for ""."""
    free = _FREE_UNTIL_DONE.get(open_stage)
    return {key: value for key, value in values.items() if not (free and key.startswith(free))}


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise os_error(folder, error) from error


def _is_work(entry: Path) -> bool:
    """Whether a stage wrote it: not the remains of a removal or of an interrupted write."""
    return not entry.name.startswith("forgotten_") and entry.suffix != ".partial"


def _exists(path: Path) -> bool:
    return path.is_symlink() or exists(path)


def _digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Returns the SHA-256 of files, and of all files in folders, by path relative to `folder`.

    What does not exist is left out.
    """
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


def _tidy(folder: Path, shards: str) -> None:
    """Removes the shards that a stage's result was collected from."""
    for entry in _entries(folder):
        if re.fullmatch(shards, entry.name) and entry.is_dir():
            remove_shards(entry)
