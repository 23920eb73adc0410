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
    from dinado_jax.evaluation.intervals import Comparison
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
_DIFFERENCES = (
    ("success, minus the first run's", "success_difference", "{:+.1%}"),
    ("KL, minus the first run's", "kl_difference", "{:+.2f}"),
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
    figures = [
        {**_figures(summary), **difference}
        for summary, difference in zip(summaries, _differences(args.runs), strict=True)
    ]
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
    for label, key, form in _DIFFERENCES:
        rows.append([label, *(_difference(each[key], form) for each in figures)])
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
            "with `dinado run`, or leave it out"
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


def _differences(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """How each run differs from the first on the same held-out prompts; None for the first, and
    where the prompts differ or the samples are gone.
    """
    from dinado_jax.evaluation.paired import differences
    from dinado_jax.evaluation.samples import read_samples

    keys = [key for _, key, _ in _DIFFERENCES]
    paths = [run / "generate" / "control.jsonl" for run in runs]
    samples = [read_samples(path) if exists(path) else [] for path in paths]
    found = [differences(samples[0], other) for other in samples[1:]]
    rows = [None, *found]
    return [dict(zip(keys, map(_as_dict, each))) if each else dict.fromkeys(keys) for each in rows]


def _as_dict(comparison: "Comparison") -> dict[str, Any]:
    """Of two prompts or more: with fewer there is neither interval nor p-value."""
    known = comparison.p_value == comparison.p_value
    return {
        "value": comparison.difference,
        "interval": list(comparison.interval) if known else None,
        "p_value": comparison.p_value if known else None,
    }


def _difference(given: dict[str, Any] | None, form: str) -> str:
    """With its 95% interval and the p-value of no difference."""
    if given is None:
        return "-"
    text = form.format(given["value"])
    if given["interval"] is None:
        return text
    low, high = map(form.format, given["interval"])
    return f"{text} ({low} to {high}), p {given['p_value']:.2g}"


def _shown(value: Any) -> str:
    from dinado_jax.config.toml_text import toml_value

    return "-" if value is None else toml_value(value)
