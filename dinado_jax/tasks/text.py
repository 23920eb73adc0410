"""Plain text from files: one line, one text."""

import gzip
import lzma
import zlib
from pathlib import Path

from dinado_jax.errors import InputError, one_line

_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_ABOUT = ("SOURCE", "README", "LICENSE")


def read_lines(path: Path) -> list[str]:
    """All lines of a UTF-8 text file, plain or compressed by its suffix (.gz, .xz), blank ones
    too, without their ends. Raises InputError if the file cannot be read."""
    try:
        # Not str.splitlines: it also cuts at form feeds and U+2028, and pairs would shift.
        with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as handle:
            return [line.rstrip("\n") for line in handle]
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path}, cannot be read ({one_line(error)}): give UTF-8 text") from error


def lines(path: str | Path) -> list[str]:
    """The lines of a file, or of all .txt, .gz and .xz files of a folder in order of their
    names; blank lines are dropped, and so are a folder's SOURCE, README and LICENSE files.

    Raises InputError if there is no such path, no such file in the folder, or no text.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}, no such file or folder: correct the path")
    files = [path]
    if path.is_dir():
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix in {".txt", *_OPENERS} and not file.name.startswith(_ABOUT)
        )
    texts = [line for file in files for line in read_lines(file) if line.strip()]
    if not texts:
        raise InputError(f"{path}, no text there: put lines into .txt, .gz or .xz files")
    return texts
