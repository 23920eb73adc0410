"""How to make a run again: its settings, those that differ from the defaults first."""

import dataclasses
import shlex
from itertools import groupby

from dinado_jax.config.load import assign, differences, leaves, toml_lines
from dinado_jax.config.schema import Config
from dinado_jax.evaluation.summary import Summary
from dinado_jax.oracles.table import GIVEN


@dataclasses.dataclass(frozen=True)
class Settings:
    """The configuration of a run as lines of TOML."""

    changed: list[str]  # "section.key = value", those that differ from the defaults
    defaults: list[tuple[str, list[str]]]  # section and its other lines
    command: str  # that makes the run again, of a file of the changed lines; "" if none can


def settings(summary: Summary) -> Settings:
    """Reads the configuration of a summary."""
    config = assign(Config(), leaves(summary.config, "summary.json"))
    changed = differences(config)
    others = [line for line in toml_lines(config) if line not in changed]
    defaults = [
        (section, list(lines))
        for section, lines in groupby(
            others, lambda line: line.partition(" = ")[0].rpartition(".")[0]
        )
    ]
    return Settings(changed, defaults, _command(config) if changed else "dinado demo")


def _command(config: Config) -> str:
    if config.rollout.oracle.startswith(f"{GIVEN} "):
        return ""
    return shlex.join(["dinado", "run", f"{config.name}.toml"])
