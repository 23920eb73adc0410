"""Text and JSON files, written whole or not at all and read with errors in one line; checksums."""

import codecs
import errno
import functools
import gzip
import hashlib
import json
import lzma
import math
import os
import stat
import tomllib
import zlib
from pathlib import Path
from typing import Any

from dinado_jax.errors import (
    InputError,
    escape,
    one_line,
    os_error,
    quote,
)

_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_BOM = "\ufeff"
_KINDS = {
    dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number",
    bool: "true or false", type(None): "null",
}  # fmt: skip
# A type (float takes integers too), a tuple of types, {key: schema} or [schema].
Schema = type | tuple | dict | list
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
    check_regular(path)
    try:
        with opener(path, "rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error) as error:
        fix = fix or "give UTF-8 text"
        raise InputError(
            f"{path}, cannot be read, a damaged {path.suffix} file ({one_line(error)}): {fix}"
        ) from error
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error
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


def parse_toml(text: str, where: str, fix: str) -> dict:
    """The tables of a TOML text. InputError, in one line, for malformed or unbounded text."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{where}, nested too deep: {fix}") from None
    except ValueError as error:  # integers of thousands of digits are no TOMLDecodeError
        raise InputError(f"{where} is not TOML ({one_line(error)}): {fix}") from error


def validate(content: Any, schema: Schema, where: str, fix: str) -> Any:
    """`content`, a parsed JSON value, if it has the shape of `schema`; other keys may be there too.

    A schema is a type (float takes integers too, and int no bools), a tuple of such, {key: schema}
    or [schema], a list of any length: checked(record, {"figures": dict, "seconds": float}, ..).
    InputError, "where, which part is what: fix", for the first part that has another.
    """
    if fault := _misfit(content, schema, ""):
        raise InputError(f"{where}, {fault}: {fix}")
    return content


def _misfit(content: Any, schema: Schema, name: str) -> str:
    """What is wrong with the part called `name`, if anything."""
    if isinstance(schema, dict):
        if fault := _misfit(content, dict, name):
            return fault
        for key, inner in schema.items():
            part = f"{name}.{key}".lstrip(".")
            if key not in content:
                return f"{part} is missing"
            if fault := _misfit(content[key], inner, part):
                return fault
        return ""
    if isinstance(schema, list):
        parts = enumerate(content) if type(content) is list else ()
        faults = (_misfit(part, schema[0], f"{name}[{i}]") for i, part in parts)
        return _misfit(content, list, name) or next(filter(None, faults), "")
    kinds = schema if isinstance(schema, tuple) else (schema,)
    if type(content) in kinds or (float in kinds and type(content) is int):
        return ""
    wanted = " or ".join(_KINDS[kind] for kind in kinds)
    return f"{name or 'its content'} is {quote(content)}, not {wanted}"


def read_json(path: Path, fix: str, schema: Schema = dict) -> dict:
    """The object in a JSON file. InputError, ending in `fix`, if it cannot be read, is none, or
    does not have the shape of `schema` (see `checked`)."""
    content = parse_json(read_text(path, fix), str(path), fix)
    if not isinstance(content, dict):
        raise InputError(f"{path}, not a JSON object: {fix}")
    return validate(content, schema, str(path), fix)


def check_regular(path: Path) -> None:
    """InputError unless there is a file, links followed: pipes and devices may never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error
    if stat.S_ISDIR(mode):
        raise os_error(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if not stat.S_ISREG(mode):
        raise InputError(f"{escape(str(path))}, a pipe or a device: give a file")


def exists(path: Path) -> bool:
    """Whether something is there, links followed. InputError for a path that cannot be one, or
    that may not be looked at."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error
    return True


def write_sealed(path: Path, content: dict) -> None:
    """Writes a JSON object with the SHA-256 of its content, for `read_sealed`."""
    content = _finite(content)
    write_json(path, {**content, "digest": json_digest(content)})


def read_sealed(path: Path, fix: str) -> dict:
    """What `write_sealed` wrote, as JSON has it. InputError, ending in `fix`, if it cannot be read
    or has changed since."""
    content = read_json(path, fix)
    if content.pop("digest", None) != json_digest(content):
        raise InputError(
            f"{path}, changed since it was written, or written by another version: {fix}"
        )
    return content


def json_digest(content: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal; the order of keys does not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. InputError if it cannot be read."""
    check_regular(path)
    try:
        now = path.stat()
        return _digest(path, now.st_ino, now.st_size, now.st_mtime_ns)
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error


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
