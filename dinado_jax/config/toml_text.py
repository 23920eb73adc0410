"""A configuration as TOML, for people to read; `load` reads it too."""

import dataclasses
import json
from typing import Any

from dinado_jax.config.schema import Config, flatten

_COLUMN = 34  # where comments begin


def toml_value(value: Any) -> str:
    """Writes a value of a setting as TOML."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        fields = (f"{name} = {toml_value(inner)}" for name, inner in value.items())
        return "{" + ", ".join(fields) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # as TOML wants it


def as_toml(config: Config) -> str:
    """Writes all settings, a table per section; what differs from its default has it beside it."""
    lines, section = [], ""
    defaults = flatten(Config())
    for key, (value, _) in flatten(config).items():
        own, _, name = key.rpartition(".")
        if own != section:
            lines += ["", f"[{own}]"]
            section = own
        line, default = f"{name} = {toml_value(value)}", defaults[key][0]
        if value != default:
            line = f"{line:{_COLUMN}} # default: {toml_value(default)}"
        lines.append(line)
    return "\n".join(lines)
