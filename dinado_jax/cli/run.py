"""`dinado run`, `dinado demo` and a command for each stage."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dinado_jax.cli import own_prompts, predictions, reading
from dinado_jax.cli.exits import diverging
from dinado_jax.cli.parser import Commands, Parser, add_command
from dinado_jax.distributed import signals
from dinado_jax.errors import InputError
from dinado_jax.utils import streams

if TYPE_CHECKING:
    from dinado_jax.config.schema import Config

_STAGE_HELP = {
    "sft": "train the base on the task",
    "rollout": "sample the base and let the oracle judge",
    "train": "train the control, in rounds",
    "generate": "continue held-out prompts, with and without control",
    "evaluate": "measure success, KL to the base and efficiency",
}
_CHANGES = "changes a value of the configuration; of equal keys the last one is used"
_WARNED = 3  # exit code


def add(commands: Commands) -> None:
    """Adds the commands."""
    common = _common_options()
    text = "the whole pipeline on the embedded toy task"
    demo = add_command(commands, "demo", _run, text, [common])
    demo.add_argument("overrides", nargs="*", metavar="section.key=value", help=_CHANGES)
    everything = {"run": "all stages in order, resuming what is done", **_STAGE_HELP}
    for name, text in everything.items():
        function = {"generate": _generate, "evaluate": _evaluate}.get(name, _run)
        command = add_command(commands, name, function, text, [common])
        command.add_argument(
            "config",
            metavar="CONFIG",
            nargs="?" if name == "evaluate" else None,  # it may have predictions instead
            help="a .toml file, see configs/",
        )
        command.add_argument("overrides", nargs="*", metavar="section.key=value", help=_CHANGES)
        if name == "generate":
            own_prompts.add_options(command)
        elif name == "evaluate":
            predictions.add_options(command)
            reading.add_options(command)


def _common_options() -> Parser:
    """The options of all commands that run stages."""
    common = Parser(add_help=False)
    common.add_argument(
        "--out", type=Path, metavar="DIR", help="the run's folder (default: run.folder/name)"
    )
    common.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    common.add_argument(
        "--dry-run",
        action="store_true",
        help="compile from shapes, print parameters, FLOPs and memory; load nothing",
    )
    common.add_argument(
        "--quiet", action="store_true", help="no progress; results, warnings and errors stay"
    )
    common.add_argument(
        "--json",
        action="store_true",
        help="the configuration, each text of your own prompts, or scores, as JSON",
    )
    return common


def _generate(args: argparse.Namespace) -> None:
    if own_prompts.are_given(args):
        own_prompts.continue_prompts(args)
    else:
        _run(args)


def _evaluate(args: argparse.Namespace) -> None:
    if reading.is_given(args):
        return reading.evaluate_reading(args)
    if not predictions.are_given(args):
        return _run(args)
    from dinado_jax.cli.scores import evaluate_files

    evaluate_files(args)


def _run(args: argparse.Namespace) -> None:
    from dinado_jax.stages import pipeline
    from dinado_jax.stages.settings import load_config

    whole = args.command in ("demo", "run")
    names = tuple(_STAGE_HELP) if whole else (args.command,)
    if args.out and any(text.startswith("run.folder=") for text in args.overrides):
        raise InputError("run.folder has no effect with --out: leave out one of them")
    config = load_config(getattr(args, "config", None), args.overrides)
    if args.print_config or args.dry_run:
        pipeline.check(config, names)
        return streams.print_result(_dry_run(config) if args.dry_run else _shown(config, args.json))
    if args.json:
        raise InputError("--json is for --print-config: give it too, or leave out --json")
    from dinado_jax.distributed import processes
    from dinado_jax.utils import progress

    progress.set_quiet(args.quiet)
    processes.connect()
    signals.install_handlers()
    processes.barrier("connected")
    with diverging():
        pipeline.run_stages(config, names, args.out)
    warnings, gone = 0, None
    try:
        if names[-1] == "evaluate" and processes.is_main():
            warnings = pipeline.show_report(config, args.out)
    except streams.ReaderGone as error:  # not a failure of the run
        gone = error
    processes.barrier("all is shown")
    warnings = processes.broadcast(warnings)
    if gone:
        raise gone
    if warnings and config.train.strict:
        sys.exit(_WARNED)


def _dry_run(config: "Config") -> str:
    from dinado_jax.training.cost_estimate import dry_run

    return json.dumps(dry_run(config), indent=1)


def _shown(config: "Config", as_json: bool) -> str:
    from dinado_jax.config.toml_text import as_toml

    return json.dumps(config.as_dict(), indent=1) if as_json else as_toml(config)
