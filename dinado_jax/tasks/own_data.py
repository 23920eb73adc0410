"""Data of your own: files, a folder or a data set of the hub, and which of it is whose split.

Splits are files of their own (task.dev, task.test), those that a data set has, or shares of
task.source (task.held_out).
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dinado_jax.config import schema
from dinado_jax.data.hub import load_splits, names_data_set, read_rows
from dinado_jax.data.records import Columns, Record, is_table, read_records
from dinado_jax.errors import InputError, quote
from dinado_jax.tasks.protocol import SPLITS, Example, ReadExamples, of_split

_ALIASES = {"train": ("train",), "dev": ("validation", "dev", "valid"), "test": ("test",)}


def _itself(path: Path) -> list[Path]:
    return [] if path.is_dir() else [path]


@dataclasses.dataclass(frozen=True)
class OwnData:
    """How a task reads data of your own."""

    columns: Columns  # of files and data sets that have named ones
    fix: str  # ends messages about a malformed record
    read_plain: Callable[[Path], Iterator[Record]]  # a file without columns
    make: Callable[[str, Iterator[Record]], list[Example]]  # from a source and its records
    files_of: Callable[[Path], list[Path]] = _itself  # of a path; a folder without is a data set

    def reader(self, settings: schema.Task) -> ReadExamples:
        """Returns what reads the examples of a split; every source is read once."""
        whole = functools.cache(self._examples)

        def read(split: str, seed: int, count: int | None = None) -> list[Example]:
            source, separate = _source(settings, split)
            files = self._files(source)
            found, shared = whole(source, "train" if files or separate else split)
            if not shared or separate:
                return found[:count]
            chosen = of_split(found, split, settings.held_out)
            if not chosen:
                raise InputError(
                    f"{source}, none of its {len(found)} examples is of the {split} split "
                    f"(task.held_out = {settings.held_out}): give more, or change task.held_out"
                )
            return chosen[:count]

        return read

    def _files(self, source: str) -> list[Path]:
        """The files of a source; none of a data set."""
        return [] if names_data_set(source) else self.files_of(Path(source))

    def _examples(self, source: str, split: str) -> tuple[list[Example], bool]:
        """All examples of a source for a split, and whether they are those of every split."""
        shared, files = True, self._files(source)
        if files:
            records = (record for file in files for record in self._of_file(file))
        else:
            records, shared = self._of_data_set(source, split)
        examples = self.make(source, records)
        if not examples:
            raise InputError(f"{source}, no examples there: give data that has some")
        return examples, shared

    def _of_file(self, path: Path) -> Iterator[Record]:
        if is_table(path):
            return read_records(path, self.columns, self.fix)
        return self.read_plain(path)

    def _of_data_set(self, name: str, split: str) -> tuple[Iterator[Record], bool]:
        splits = load_splits(name)
        found = {
            own: next((splits[alias] for alias in aliases if alias in splits), None)
            for own, aliases in _ALIASES.items()
        }
        shared = found["dev"] is None and found["test"] is None
        rows = found["train" if shared else split]
        if rows is None:
            raise InputError(
                f"data set {quote(name)}, its splits are {', '.join(splits)}, and {split} is "
                "wanted: set evaluate.split, or give files by task.dev and task.test"
            )
        return read_rows(name, rows, self.columns, self.fix), shared


def _source(settings: schema.Task, split: str) -> tuple[str, bool]:
    """Where the examples of a split are, and whether splits have files of their own."""
    if split not in SPLITS:
        raise InputError(f"split {quote(split)}, no such split: give one of {', '.join(SPLITS)}")
    separate = bool(settings.dev or settings.test)
    source = settings.source
    if separate and split != "train":
        source = settings.dev if split == "dev" else settings.test
    if not source:
        raise InputError(
            f"task.{split} is empty, and the {split} split is wanted: give a file, task.{split}="
            "FILE, or leave out task.dev and task.test for shares of task.source"
        )
    return os.path.expanduser(source), separate


def settings_read(
    settings: schema.Task, named: frozenset[str], plain: frozenset[str] = frozenset()
) -> frozenset[str]:
    """The settings of the `task` section that a task with data of your own reads.

    Args:
      settings: of the section.
      named: settings for data with named columns.
      plain: settings for files without.
    """
    sources = [source for source in (settings.source, settings.dev, settings.test) if source]
    read = frozenset({"source", "dev", "test"})
    if not (settings.dev or settings.test):
        read |= {"held_out"}
    for source in map(os.path.expanduser, sources):
        table, path = is_table(Path(source)), Path(source)
        if table or names_data_set(source) or path.is_dir():
            read |= named
        if not table and not names_data_set(source):
            read |= plain
    return read
