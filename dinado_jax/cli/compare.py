"""`dinado compare`: finished runs side by side."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.cli.tables import number, table
from dinado_jax.errors import InputError
from dinado_jax.utils import streams
from dinado_jax.utils.files import exists

if TYPE_CHECKING:
    from dinado_jax.evaluation.summary import Summary

_FIGURES = (
    ("success of the base", "base_success_rate", "{:.1%}"),
    ("success", "success_rate", "{:.1%}"),
    ("its standard error", "success_rate_error", "{:.1%}"),
    ("KL to the base (nats)", "kl_to_base", "{:.2f}"),
    ("its standard error", "kl_to_base_error", "{:.2f}"),
    ("least KL for that success", "kl_floor", "{:.2f}"),
    ("efficiency", "efficiency", "{:.2f}"),
    ("rounds", "rounds", "{}"),
    ("rollouts", "rollouts", "{:,}"),
    ("seconds", "seconds", "{:,.0f}"),
    ("warnings", "warnings", "{}"),
)
_WHERE = ("name", "run.folder")  # settings that say only where a run is kept


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "show where finished runs differ: settings and figures side by side"
    command = add_command(commands, "compare", _compare, text)
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="two folders or more")
    command.add_argument("--json", action="store_true", help="the same as JSON")


def _compare(args: argparse.Namespace) -> None:
    if len(args.runs) < 2:
        raise InputError(f"one run to compare, {args.runs[0]}: give two or more")
    summaries = _summaries(args.runs)
    settings = _differing([each.config for each in summaries])
    figures = list(map(_figures, summaries))
    names = list(map(str, args.runs))
    if args.json:
        found = {"runs": names, "settings": settings, "figures": figures}
        return streams.print_result(json.dumps(found, indent=1))
    rows = [["settings that differ", *names]]
    rows += [[key, *map(_shown, values)] for key, values in settings.items()]
    if not settings:
        rows.append(["none", *["" for _ in names]])
    rows += [[""] * len(rows[0]), ["figures", *["" for _ in names]]]
    for label, key, form in _FIGURES:
        rows.append([label, *(number(each[key], form) for each in figures)])
    streams.print_result(table(rows))


def _summaries(runs: Sequence[Path]) -> list["Summary"]:
    """Reads the summary of each run. InputError for what is no run, or not finished."""
    from dinado_jax.evaluation.summary import read_summary
    from dinado_jax.stages.pipeline import run_config

    for run in runs:
        run_config(run)
    if unfinished := [str(run) for run in runs if not exists(run / "summary.json")]:
        raise InputError(
            f"not finished, no summary.json in {', '.join(unfinished)}: run the rest of the stages "
            "with `dinado run`, or leave out"
        )
    again = "delete the folder evaluate beside it and run `dinado evaluate`"
    return [read_summary(run / "summary.json", again) for run in runs]


def _differing(configs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs; None where one is absent."""
    from dinado_jax.config.load import leaves

    flat = [
        {key: value for key, (value, _) in leaves(config, "summary.json").items()}
        for config in configs
    ]
    keys = dict.fromkeys(key for each in flat for key in each if key not in _WHERE)
    rows = {key: [each.get(key) for each in flat] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def _figures(summary: "Summary") -> dict[str, Any]:
    rounds = summary.stages.train.rounds
    figures = {
        "base_success_rate": summary.base.success_rate,
        "success_rate": summary.control.success_rate,
        "success_rate_error": summary.control.success_rate_error,
        "kl_to_base": summary.control.kl_to_base,
        "kl_to_base_error": summary.control.kl_to_base_error,
        "kl_floor": summary.floors.kl_floor,
        "efficiency": summary.floors.efficiency,
        "rounds": len(rounds),
        "rollouts": rounds[-1].rollouts if rounds else 0,
        "seconds": round(sum(summary.seconds.values()), 2),
        "warnings": len(summary.warnings),
    }
    return {key: None if value != value else value for key, value in figures.items()}


def _shown(value: Any) -> str:
    from dinado_jax.config.toml_text import toml_value

    return "-" if value is None else toml_value(value)
