"""Text and JSON files, written whole or not at all and read with errors in one line; checksums."""

import functools
import gzip
import hashlib
import json
import lzma
import math
import os
import zlib
from pathlib import Path
from typing import Any

from dinado_jax.errors import InputError, one_line, os_fault

_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_BOM = "\ufeff"


def write_json(path: Path, value) -> None:
    """Writes a JSON file; numbers that JSON lacks (nan, infinity) as null."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_text(path: Path, fix: str = "") -> str:
    """All of a UTF-8 text file, decompressed if its suffix is .gz or .xz, without byte-order marks;
    line ends become "\\n".

    InputError in one line for whatever is wrong, ending in `fix` where the file's content is.
    """
    opener = _OPENERS.get(path.suffix, open)
    fix = fix or "give UTF-8 text"
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, not UTF-8 text (byte {error.start}): {fix}") from error
    except (gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(
            f"{path}, cannot be read, a damaged {path.suffix} file ({one_line(error)}): {fix}"
        ) from error
    except (OSError, ValueError) as error:
        raise os_fault(path, error) from error
    # Files joined end to end have one at the start of each.
    return text.removeprefix(_BOM).replace(f"\n{_BOM}", "\n")


def read_lines(path: Path, fix: str = "") -> list[str]:
    """All lines of a text file, blank ones too, without their ends; InputError as `read_text`."""
    # Not str.splitlines: it also cuts at form feeds and U+2028, and line numbers would shift.
    lines = read_text(path, fix).split("\n")
    return lines if lines[-1] else lines[:-1]


def parse_json(text: str, where: str, fix: str) -> Any:
    """The value of a JSON text. InputError, "where, what: fix", for malformed or unbounded text:
    nested too deep, integers of thousands of digits, half a surrogate pair."""
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half a surrogate pair is valid JSON and no text
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(f"{where}, nested too deep: {fix}") from None
    except UnicodeEncodeError:
        raise InputError(f"{where}, holds half a surrogate pair (\\ud800): {fix}") from None
    except ValueError as error:
        raise InputError(f"{where}, malformed JSON ({one_line(error)}): {fix}") from error
    return value


def read_json(path: Path, fix: str) -> dict:
    """The object in a JSON file. InputError, ending in `fix`, if it cannot be read or is none."""
    content = parse_json(read_text(path, fix), str(path), fix)
    if not isinstance(content, dict):
        raise InputError(f"{path}, not a JSON object: {fix}")
    return content


def write_sealed(path: Path, content: dict) -> None:
    """Writes a JSON object with the SHA-256 of its content, for `read_sealed`."""
    write_json(path, {**content, "digest": _content_digest(content)})


def read_sealed(path: Path, fix: str) -> dict:
    """What `write_sealed` wrote, as JSON has it. InputError, ending in `fix`, if it cannot be read
    or has changed since."""
    content = read_json(path, fix)
    if content.pop("digest", None) != _content_digest(content):
        raise InputError(
            f"{path}, changed since it was written, or written by another version: {fix}"
        )
    return content


def _content_digest(content: dict) -> str:
    text = json.dumps(_finite(content), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. InputError if it cannot be read."""
    try:
        stat = path.stat()
        return _digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError) as error:
        raise os_fault(path, error) from error


@functools.lru_cache(1024)
def _digest(path: Path, *_state: int) -> str:
    """Read once while inode, size and time of the file stay the same: stages ask many times."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
