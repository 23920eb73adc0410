"""R after each token of the samples that a report shows, one JSON object per line of
generate/values.jsonl.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from dinado_jax.utils.files import exists, parse_json, read_lines, validate, write_text

_SCHEMA = {"model": str, "sample": int, "prompt_value": float, "pieces": [str], "values": [float]}

ValuesOf = Mapping[tuple[str, int], "TokenValues"]
"""By the name of the model and the number of the sample."""


@dataclasses.dataclass(frozen=True)
class TokenValues:
    """What the control makes of one sample, token by token."""

    model: str  # "base" or "control", which drew it
    sample: int  # number of its line in the file of that model, from 0
    prompt_value: float  # V(prompt)
    pieces: tuple[str, ...]  # the text that each token adds, "" for a special one
    values: tuple[float, ...]  # R after each


def write_token_values(path: Path, found: Iterable[TokenValues]) -> None:
    """Writes a file atomically."""
    write_text(path, "".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in found))


def read_token_values(path: Path) -> ValuesOf:
    """Reads a file of the generate stage; {} where there is none, as in runs of older versions.

    Raises:
      InputError: if it is damaged.
    """
    if not exists(path):
        return {}
    fix = "delete the generate stage's folder and run it again"
    found = {}
    for number, line in enumerate(read_lines(path, fix), start=1):
        where = f"{path}:{number}"
        row = validate(parse_json(line, where, fix), _SCHEMA, where, fix)
        each = TokenValues(
            row["model"],
            row["sample"],
            row["prompt_value"],
            tuple(row["pieces"]),
            tuple(row["values"]),
        )
        found[each.model, each.sample] = each
    return found
