"""Options of the command line for fields of settings, dataclasses of plain values."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any


def add_fields(group: Any, defaults: Any, meanings: Mapping[str, str]) -> None:
    """Adds an option for some fields of settings, None where it is not given.

    Args:
      group: a parser, or a group of one.
      defaults: the settings, whose values the help names.
      meanings: of the options, by name, "learning-rate" for the field `learning_rate`.
    """
    for flag, meaning in meanings.items():
        default = getattr(defaults, flag.replace("-", "_"))
        help = f"{meaning} ({default})".strip()
        metavar = {int: "N", float: "X", str: "WORD"}[type(default)]
        group.add_argument(f"--{flag}", type=type(default), metavar=metavar, help=help)


def given(args: argparse.Namespace, flags: Iterable[str]) -> dict[str, Any]:
    """The options that are given, by field."""
    names = [flag.replace("-", "_") for flag in flags]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
