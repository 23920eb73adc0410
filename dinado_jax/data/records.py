"""Records with named columns from files: objects of .jsonl, rows of .csv and .tsv."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dinado_jax.errors import InputError, one_line, quote
from dinado_jax.utils.files import (
    Schema,
    parse_json,
    read_lines,
    read_text,
    suffix_of_content,
    validate,
)

Record = tuple[str, dict[str, Any]]  # where it was read ("FILE:LINE"), values by column
Columns = Mapping[str, Schema]  # the type of each column's values, see `validate`

_LONGEST = 2**31 - 1  # characters of a value; csv's own limit is 131,072
_TABLES = {".jsonl": "", ".csv": ",", ".tsv": "\t"}  # what divides columns


def is_table(path: Path) -> bool:
    """Whether a file has named columns, by its name: .jsonl, .csv or .tsv, compressed or not."""
    return suffix_of_content(path) in _TABLES


def has_objects(path: Path, *, tabs: bool = False) -> bool:
    """Whether a file of texts has an object per line, as .jsonl, and not a text per line, by its
    name.

    Args:
      path: of the file.
      tabs: whether tabs may divide several texts of a line, as in .tsv.

    Raises:
      InputError: for a kind of file that has neither.
    """
    suffix = suffix_of_content(path)
    if suffix in (".json", ".csv") or (suffix == ".tsv" and not tabs):
        raise InputError(f"{path}, a {suffix} file: give a text per line, or .jsonl")
    return suffix == ".jsonl"


def read_records(path: Path, columns: Columns, fix: str) -> Iterator[Record]:
    """Yields the records of a file; blank lines are left out.

    The first row of .csv and .tsv is a header if it has the names of all `columns`. In a file
    without one every row has just these columns, in their order. Values are texts, "" where a cell
    is empty; those in quotation marks may hold new lines.

    Args:
      path: a file of which `is_table` holds.
      columns: that are read; there may be others.
      fix: ends messages about a malformed record.

    Raises:
      InputError: with file and line, for a file that cannot be read, and for a record that is
        malformed, lacks a column or has a value of another type.
    """
    delimiter = _TABLES[suffix_of_content(path)]
    if delimiter:
        yield from _rows(path, columns, delimiter)
        return
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, validate(parse_json(line, where, fix), dict(columns), where, fix)


def _rows(path: Path, columns: Columns, delimiter: str) -> Iterator[Record]:
    wanted = list(columns)
    names = ", ".join(wanted)
    header: list[str] | None = None
    for where, row in _cells(path, delimiter):
        if header is None:
            missing = [name for name in wanted if name not in row]
            header = wanted if missing else row
            if twice := [name for name in wanted if row.count(name) > 1]:
                raise InputError(
                    f"{where}, the header has two columns {quote(twice[0])}: rename one of them"
                )
            if not missing:
                continue
            meant = _folded(row) >= _folded(wanted)  # all are there, some in other letters
            if len(missing) < len(wanted) or meant:
                raise InputError(
                    f"{where}, the header has no column {quote(missing[0])}: correct the header, "
                    "or name the column that is meant"
                )
        if len(row) != len(header):
            raise InputError(
                f"{where}, a row of {len(row)} columns where {len(header)} are needed: correct it, "
                f"or begin the file with a header that has {names}"
            )
        yield where, dict(zip(header, row))


def _folded(names: list[str]) -> set[str]:
    return {name.strip().casefold() for name in names}


def _cells(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yields where each row begins, and its values."""
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    before = 0
    while True:
        where = f"{path}:{before + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{where}, malformed row ({one_line(error)}): a value that holds or begins with a "
                "quotation mark needs marks around it, with each mark inside doubled"
            ) from None
        if row is None:
            return
        before = reader.line_num
        if any(map(str.strip, row)):
            yield where, row
