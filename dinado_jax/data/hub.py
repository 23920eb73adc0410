"""Data sets of the package `datasets`: on the hub, or in a folder."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dinado_jax.data.records import Columns, Record
from dinado_jax.errors import InputError, one_line, quote
from dinado_jax.utils.files import exists, validate

_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves in a folder
_FILES = (".txt", ".jsonl", ".csv", ".tsv", ".gz", ".xz")  # which no name on the hub ends in


def names_data_set(source: str) -> bool:
    """Whether a source can only be the name of a data set on the hub: it is not there, and does not
    look like a path.
    """
    path_like = source.startswith((".", "/", "~")) or source.endswith(_FILES)
    return not (path_like or exists(Path(source)))


def load_splits(name: str) -> Mapping[str, Any]:
    """Loads a data set: its splits by name, each a sequence of rows by column.

    Args:
      name: on the hub, with ":SUBSET" for one of several configurations; or a folder that
        `save_to_disk` wrote, or that has .parquet files or others that `load_dataset` reads.

    Raises:
      InputError: for whatever goes wrong.
    """
    path, subset = os.path.expanduser(name), ""
    if not exists(Path(path)):
        path, _, subset = path.partition(":")
    try:
        import datasets

        if any(exists(Path(path) / file) for file in _SAVED):
            found: Any = datasets.load_from_disk(path)
        else:
            found = datasets.load_dataset(path, subset or None)
    except Exception as error:  # of any of the libraries below
        raise InputError(
            f"data set {quote(name)}, neither a folder of data nor loaded from the hub "
            f"({one_line(error)}): correct the name"
        ) from error
    return found if isinstance(found, Mapping) else {"train": found}


def read_rows(name: str, rows: Any, columns: Columns, fix: str) -> Iterator[Record]:
    """Yields the rows of a split of `load_splits` as records; other arguments as for
    `read_records`. InputError for a missing column or a value of another type.
    """
    for number, row in enumerate(rows):
        where = f"{name}, row {number}"
        yield where, validate(row, dict(columns), where, fix)
