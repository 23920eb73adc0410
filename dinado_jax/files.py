"""Text and JSON files, written whole or not at all and read with errors in one line; checksums."""

import codecs
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
_OTHER_MARKS = {  # UTF-32 first: one of its marks begins with one of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


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
    line ends (CR LF, CR) become "\\n".

    InputError in one line for whatever is wrong, ending in `fix` where the file's content is.
    """
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error) as error:
        fix = fix or "give UTF-8 text"
        raise InputError(
            f"{path}, cannot be read, a damaged {path.suffix} file ({one_line(error)}): {fix}"
        ) from error
    except (OSError, ValueError) as error:
        raise os_fault(path, error) from error
    text = _decoded(data, path, fix or "give UTF-8 text")
    # A mark stands at the start of each of several files joined end to end, and is never text.
    return text.replace(_BOM, "").replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, path: Path, fix: str) -> str:
    for mark, encoding in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise InputError(f"{path}, {encoding} text: save it as UTF-8")
    if b"\0" in data:
        raise InputError(
            f"{path}, not UTF-8 text (NUL at byte {data.index(0)}, as in UTF-16): {fix}"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, not UTF-8 text (byte {error.start}): {fix}") from error


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


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise os_fault(path, error) from error


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
