"""Files: JSON, written whole or not at all and read with faults told in one line; checksums."""

import hashlib
import json
import math
from pathlib import Path

from dinado_jax.errors import InputError, one_line


def write_json(path: Path, value) -> None:
    """Writes a JSON file; numbers that JSON lacks (nan, infinity) as null."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def read_json(path: Path, mend: str) -> dict:
    """The object in a JSON file. InputError, ending in `mend`, if it cannot be read or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}, cannot be read ({one_line(error)}): {mend}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}, not a JSON object: {mend}")
    return content


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
