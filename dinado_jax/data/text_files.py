"""Plain text from files: lines, and documents of one or several lines."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from dinado_jax.errors import InputError, os_error
from dinado_jax.utils.files import read_lines

_SUFFIXES = (".txt", ".gz", ".xz")
_ABOUT = ("SOURCE", "README", "LICENSE")


def text_paths(path: str | Path, suffixes: tuple[str, ...] = _SUFFIXES) -> list[Path]:
    """A file, or the files of a folder in order of their names: those whose last suffix is one of
    `suffixes`, without SOURCE, README and LICENSE files.

    Raises InputError for a path that cannot be read.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return [path]
        return sorted(
            file
            for file in path.iterdir()
            if file.suffix in suffixes and not file.name.startswith(_ABOUT)
        )
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error


def read_text_lines(path: str | Path) -> list[str]:
    """The lines of a file, or of all .txt, .gz and .xz files of a folder, see `text_paths`; blank
    lines are dropped.

    Raises InputError if there is no such path, no such file in the folder, or no text.
    """
    texts = [line for file in text_paths(path) for line in read_lines(file) if line.strip()]
    if not texts:
        raise InputError(f"{path}, no text there: put lines into .txt, .gz or .xz files")
    return texts


def read_paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yields the number of the first line and the lines, joined by "\n", of each part of a file
    that blank lines set off. InputError if the file cannot be read.
    """
    numbered = enumerate(read_lines(path), start=1)
    for written, group in itertools.groupby(numbered, lambda pair: bool(pair[1].strip())):
        if written:
            numbers, lines = zip(*group)
            yield numbers[0], "\n".join(lines)
