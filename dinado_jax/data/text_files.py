"""Plain text from files: one line, one text."""

from pathlib import Path

from dinado_jax.errors import InputError, os_error
from dinado_jax.utils.files import read_lines

_SUFFIXES = (".txt", ".gz", ".xz")
_ABOUT = ("SOURCE", "README", "LICENSE")


def read_text_lines(path: str | Path) -> list[str]:
    """The lines of a file, or of all .txt, .gz and .xz files of a folder in order of their
    names; blank lines are dropped, and so are a folder's SOURCE, README and LICENSE files.

    Raises InputError if there is no such path, no such file in the folder, or no text.
    """
    path = Path(path)
    files = [path]
    try:
        if path.is_dir():
            files = sorted(
                file
                for file in path.iterdir()
                if file.suffix in _SUFFIXES and not file.name.startswith(_ABOUT)
            )
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error
    texts = [line for file in files for line in read_lines(file) if line.strip()]
    if not texts:
        raise InputError(f"{path}, no text there: put lines into .txt, .gz or .xz files")
    return texts
