"""The judged samples of a run, one JSON object per line."""

from pathlib import Path

from dinado_jax.errors import InputError
from dinado_jax.utils.files import (
    exists,
    parse_json,
    read_lines,
    validate,
)

# A line of generate's files.
_SCHEMA = {
    "prompt_id": int,
    "prompt": str,
    "text": str,
    "label": float,
    "log_prob": float,
    "log_prob_base": float,
    "tokens": int,
    "finished": bool,
}


def read_samples(path: Path) -> list[dict]:
    """The lines of one of generate's files. InputError if it is missing, empty or damaged."""
    if not exists(path):
        raise InputError(f"no samples in {path}: run the generate stage first")
    fix = "delete the generate stage's folder and run it again"
    samples = [
        validate(parse_json(line, f"{path}:{number}", fix), _SCHEMA, f"{path}:{number}", fix)
        for number, line in enumerate(read_lines(path, fix), start=1)
    ]
    if not samples:
        raise InputError(f"no samples in {path}: {fix}")
    return samples
