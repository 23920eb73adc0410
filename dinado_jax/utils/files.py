"""Text, JSON and TOML files: atomic writes, one-line errors on reading, checksums."""

import codecs
import contextlib
import errno
import functools
import gzip
import hashlib
import json
import lzma
import math
import os
import re
import shutil
import stat
import tomllib
import zlib
from collections import Counter
from collections.abc import Iterator
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
_ALIASES = {".ndjson": ".jsonl", ".jl": ".jsonl"}
_BOM = "\ufeff"
_SHOWN = 80  # characters of a line
_KINDS = {
    dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number",
    bool: "true or false", type(None): "null",
}  # fmt: skip
Schema = type | tuple[type, ...] | dict[str, Any] | list[Any]  # see `validate`
_OTHER_MARKS = {  # UTF-32 first: its little-endian mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically; nan and infinity, which JSON lacks, become null."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically: a reader sees the old content or all of the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A context with a folder to fill, which is moved to `path` at its end; of a context that fails
    nothing is left.

    Raises:
      InputError: `path` is there, and not an empty folder, or cannot be made.
    """
    path = path.absolute()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _os_errors_of(path):
        require_new(path)
        partial.mkdir(parents=True)
    try:
        yield partial
        with _os_errors_of(path):
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(path: Path) -> None:
    """InputError if a path is there, and not an empty folder."""
    with _os_errors_of(path):
        if exists(path) and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} is there already: name a new folder, or an empty one")


def make_folder(path: Path) -> None:
    """Makes a folder with those above it, unless it is there. InputError if that fails."""
    with _os_errors_of(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _os_errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise os_error(path, error) from error


def suffix_of_content(path: Path) -> str:
    """The suffix of a file's name that says what it holds, before that of a compression, in lower
    case; ".jsonl" for its other names .ndjson and .jl.
    """
    compressed = path.suffix.lower() in _OPENERS
    suffix = (path.with_suffix("") if compressed else path).suffix.lower()
    return _ALIASES.get(suffix, suffix)


def read_text(path: Path, fix: str = "") -> str:
    r"""Returns the content of a UTF-8 text file.

    Files ending in .gz or .xz are decompressed, byte-order marks are removed, and CR LF and CR
    become "\n".

    Args:
      path: of a regular file.
      fix: ends the message if the content is at fault; "give UTF-8 text" by default.

    Raises:
      InputError: the file cannot be read or is not UTF-8 text.
    """
    return _content(path, fix).replace("\r\n", "\n").replace("\r", "\n")


def _content(path: Path, fix: str) -> str:
    """As `read_text`, with line ends as they are."""
    opener = _OPENERS.get(path.suffix.lower(), open)
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
    # Concatenated files have marks inside as well; a mark is never text.
    return text.replace(_BOM, "")


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
    """Returns all lines of a text file, blank ones included, without line ends; see `read_text`."""
    # str.splitlines would also split at form feeds and U+2028, and shift the line numbers.
    lines = read_text(path, fix).split("\n")
    return lines if lines[-1] else lines[:-1]


def read_lf_lines(path: Path) -> list[str]:
    r"""As `read_lines`, but "\r" alone ends no line: in transcripts it stands inside of some, and
    another file has one line for each.
    """
    lines = _content(path, "").replace("\r\n", "\n").replace("\r", " ").split("\n")
    return lines if lines[-1] else lines[:-1]


def parse_json(text: str, where: str, fix: str) -> Any:
    """Parses JSON text.

    Args:
      text: the JSON text.
      where: names its source, at the start of the message.
      fix: ends the message.

    Raises:
      InputError: malformed text, text nested too deep, integers of thousands of digits, half a
        surrogate pair, or a key that an object has twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
        if "\\ud" in text.lower():  # half a surrogate pair is valid JSON but not valid text
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(f"{where}, nested too deep: {fix}") from None
    except UnicodeEncodeError:
        raise InputError(f"{where}, contains half a surrogate pair (\\ud800): {fix}") from None
    except ValueError as error:
        raise InputError(f"{where}, malformed JSON ({one_line(error)}): {fix}") from error
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. ValueError for a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {quote(twice)} is there twice")
    return found


def parse_toml(text: str, where: str, fix: str) -> dict:
    """Parses TOML text; Args and Raises as for `parse_json`."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{where}, nested too deep: {fix}") from None
    except ValueError as error:  # not only TOMLDecodeError: integers of thousands of digits
        raise InputError(f"{where} is not TOML ({_toml_fault(text, error)}): {fix}") from error


def _toml_fault(text: str, error: ValueError) -> str:
    """What the parser says, and the line that it says it of."""
    said = one_line(error).partition(": ")[2] or one_line(error)
    found = re.search(r"at line (\d+)", said)
    if not found:
        return said
    line = text.split("\n")[int(found[1]) - 1].strip()
    return f"{said}: {escape(line[:_SHOWN])}"


def validate(content: Any, schema: Schema, where: str, fix: str) -> Any:
    """Returns `content`, a parsed JSON value, if it has the structure of `schema`.

    Args:
      content: the value.
      schema: a type (float accepts integers, int does not accept bools), a tuple of types,
        {key: schema}, where other keys are allowed too, or [schema], a list of any length:
        validate(record, {"figures": dict, "seconds": float}, ...).
      where: names its source, at the start of the message.
      fix: ends the message.

    Raises:
      InputError: names the first part that does not fit, and its value.
    """
    if error := _mismatch(content, schema, ""):
        raise InputError(f"{where}, {error}: {fix}")
    return content


def _mismatch(content: Any, schema: Schema, name: str) -> str:
    """Says what is wrong with the part called `name`; "" if nothing is."""
    if isinstance(schema, dict):
        if error := _mismatch(content, dict, name):
            return error
        for key, inner in schema.items():
            part = f"{name}.{key}".lstrip(".")
            if key not in content:
                return f"{part} is missing"
            if error := _mismatch(content[key], inner, part):
                return error
        return ""
    if isinstance(schema, list):
        parts = enumerate(content) if type(content) is list else ()
        errors = (_mismatch(part, schema[0], f"{name}[{i}]") for i, part in parts)
        return _mismatch(content, list, name) or next(filter(None, errors), "")
    kinds = schema if isinstance(schema, tuple) else (schema,)
    if type(content) in kinds or (float in kinds and type(content) is int):
        return ""
    wanted = " or ".join(_KINDS[kind] for kind in kinds)
    return f"{name or 'its content'} is {quote(content)}, not {wanted}"


def read_json(path: Path, fix: str, schema: Schema = dict) -> dict:
    """Returns the object in a JSON file.

    Args:
      path: the file.
      fix: ends the message.
      schema: as of `validate`.

    Raises:
      InputError: the file cannot be read, does not hold a JSON object, or does not fit `schema`.
    """
    content = parse_json(read_text(path, fix), str(path), fix)
    if not isinstance(content, dict):
        raise InputError(f"{path}, not a JSON object: {fix}")
    return validate(content, schema, str(path), fix)


def check_regular(path: Path) -> None:
    """Raises InputError unless `path` is a regular file or a link to one.

    Reading a pipe or a device might never end.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error
    if stat.S_ISDIR(mode):
        raise os_error(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if not stat.S_ISREG(mode):
        raise InputError(f"{escape(str(path))}, a pipe or a device: give a file")


def exists(path: Path) -> bool:
    """Returns whether `path`, links followed, exists.

    Raises:
      InputError: `path` is not a valid path, or its folder may not be read.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error
    return True


def write_sealed(path: Path, content: dict) -> None:
    """Writes a JSON object together with the SHA-256 of its content, for `read_sealed`."""
    content = _finite(content)
    write_json(path, {**content, "digest": json_digest(content)})


def read_sealed(path: Path, fix: str) -> dict:
    """Returns the object that `write_sealed` wrote.

    Raises:
      InputError: the file cannot be read, or its content does not have its digest; ends in `fix`.
    """
    content = read_json(path, fix)
    if content.pop("digest", None) != json_digest(content):
        raise InputError(
            f"{path}, changed since it was written, or written by another version: {fix}"
        )
    return content


def read_sealed_record(path: Path, schema: Schema, newest: int, fix: str) -> dict:
    """Returns the object that `write_sealed` wrote, with a field `format`: the version of its
    layout.

    Args:
      path: of the file.
      schema: of the object.
      newest: the newest format that is read.
      fix: ends the message.

    Raises:
      InputError: as for `read_sealed` and `validate`, and for a newer format, before anything else
        is asked of it.
    """
    written = read_json(path, fix, {"format": int})["format"]
    if written > newest:
        raise InputError(
            f"{path} has format {written}, this version of dinado-jax reads {newest}: install a "
            "newer one"
        )
    return validate(read_sealed(path, fix), schema, str(path), fix)


def json_digest(content: Any) -> str:
    """Returns the SHA-256 of a JSON value in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal.

    Raises:
      InputError: the file cannot be read.
    """
    check_regular(path)
    try:
        now = path.stat()
        return _digest(path, now.st_ino, now.st_size, now.st_mtime_ns)
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error


@functools.lru_cache(1024)
def _digest(path: Path, *_state: int) -> str:
    """Cached by inode, size and modification time: stages hash the same files often."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
