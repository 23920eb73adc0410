"""`dinado inspect`: what is in the folder of a run, and what its control makes of a text."""

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.cli.tables import number, table
from dinado_jax.errors import InputError, escape, os_error
from dinado_jax.utils import streams
from dinado_jax.utils.files import write_text

_ROUNDS = (
    ("success", "newest_success_rate", "{:.1%}"),
    ("KL (nats)", "newest_kl", "{:z.2f}"),
    ("efficiency", "newest_efficiency", "{:.2f}"),
    ("ended by itself", "newest_finished", "{:.1%}"),
    ("log p per token", "newest_log_prob_per_token", "{:.2f}"),
    ("rollouts so far", "rollouts", "{:,}"),
    ("effective successes", "effective_successes", "{:,.0f}"),
)

_WIDTH = 20  # of a bar
_BAR = re.compile("#+$", re.MULTILINE)
_TERMINAL_COLOURS = (208, 180, 248, 110, 75)  # of 256, like those of the report


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "show the sizes, settings, rounds and warnings of a run, finished or not"
    command = add_command(commands, "inspect", _inspect, text)
    command.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    command.add_argument("--json", action="store_true", help="all of it as JSON")
    group = command.add_argument_group("R token by token", "of a run whose control is trained")
    group.add_argument("--prompt", metavar="TEXT", help="of the text that is looked at")
    group.add_argument("--text", metavar="TEXT", help="after it (default: a sample of the control)")
    more = "tokens to show that q would rather have drawn in place of each (default: 3)"
    group.add_argument("--alternatives", type=int, metavar="N", help=more)
    group.add_argument("--html", type=Path, metavar="FILE", help="write it as a page")


def _inspect(args: argparse.Namespace) -> None:
    from dinado_jax.stages.inspection import inspect_run, inspect_text

    if args.prompt is not None:
        count = 3 if args.alternatives is None else args.alternatives
        found = inspect_text(args.run, args.prompt, args.text, count)
        if args.html:
            return _write_page(args.html, args.run, found)
        return streams.print_result(json.dumps(found, indent=1) if args.json else _tokens(found))
    for option in ("text", "alternatives", "html"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option} is about the text after a prompt: give --prompt TEXT too")
    found = inspect_run(args.run)
    text = json.dumps(found, indent=1) if args.json else _text(args.run, found)
    streams.print_result(text)


def _write_page(path: Path, run: Path, found: dict[str, Any]) -> None:
    from dinado_jax.evaluation.report.text_page import text_page

    try:
        write_text(path, text_page(run.name, found))
    except OSError as error:
        raise os_error(path, error) from None
    streams.print_result(str(path))


def _tokens(found: dict[str, Any]) -> str:
    rows = [("token", "p", "q", "R after it", "")]
    rows.append((escape(found["prompt"]), "", "", *_bar(found["value"])))
    for each in found["tokens"]:
        rows.append((escape(each["token"]), *_shares(each), *_bar(each["value"])))
        for other in each["alternatives"]:
            value = f"{other['value']:.3f}"
            rows.append((f"    or {escape(other['token'])}", *_shares(other), value, ""))
    further = sum(each["log_prob"] - each["log_prob_base"] for each in found["tokens"])
    shown = table(rows)
    if streams.takes_colours():
        shown = _BAR.sub(_coloured, shown)
    return f"{shown}\n\nlog q - log p of the text: {further:.2f} nats"


def _shares(each: dict[str, Any]) -> tuple[str, str]:
    return f"{math.exp(each['log_prob_base']):.3g}", f"{math.exp(each['log_prob']):.3g}"


def _bar(value: float) -> tuple[str, str]:
    return f"{value:.3f}", f"{'#' * round(_WIDTH * min(value, 1.0)):{_WIDTH}}"


def _coloured(bar: re.Match[str]) -> str:
    from dinado_jax.evaluation.report.palette import value_level

    colour = _TERMINAL_COLOURS[value_level(len(bar[0]) / _WIDTH)]
    return f"\x1b[38;5;{colour}m{bar[0]}\x1b[0m"


def _text(run: Path, found: dict[str, Any]) -> str:
    from dinado_jax.config.toml_text import toml_value

    stages = [("stage", "state", "seconds", "files", "MB")]
    for name, each in found["stages"].items():
        seconds, size = number(each["seconds"], "{:.0f}"), f"{each['bytes'] / 1e6:.1f}"
        stages.append((name, each["state"], seconds, str(each["files"]), size))
    blocks = [str(run), table(stages)]
    if found["parameters"]:
        lines = ["parameters"]
        for name, parts in found["parameters"].items():
            each = ", ".join(f"{part} {count:,}" for part, count in parts.items())
            lines.append(f"  {name:8} {sum(parts.values()):>13,}: {each}")
        blocks.append("\n".join(lines))
    settings = [f"  {key} = {toml_value(value)}" for key, value in found["settings"].items()]
    blocks.append("\n".join(["settings other than the defaults", *(settings or ["  none"])]))
    if found["rounds"]:
        rows = [("round", *(label for label, _, _ in _ROUNDS))]
        for count, figures in enumerate(found["rounds"], start=1):
            cells = (number(figures.get(key), form) for _, key, form in _ROUNDS)
            rows.append((str(count), *cells))
        blocks.append(f"rollouts that each round begins with\n{table(rows)}")
    if found["warnings"]:
        blocks.append("\n".join(f"warning: {line}" for line in found["warnings"]))
    return "\n\n".join(blocks)
