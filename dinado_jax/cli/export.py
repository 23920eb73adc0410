"""`dinado export`: its arguments."""

import argparse
from pathlib import Path

from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.utils import streams


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "write a trained control for other programs"
    command = add_command(commands, "export", _run, text)
    command.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    command.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    command.add_argument(
        "--format",
        choices=("hf", "gguf", "peft", "control"),
        default="hf",
        help="the base with the delta merged, for transformers; the same for llama.cpp; the "
        "low-rank delta alone, for peft; or a control of any kind, for dinado_jax.load (default: "
        "hf)",
    )


def _run(args: argparse.Namespace) -> None:
    from dinado_jax.stages.export import export

    export(args.run, args.folder, args.format)
    streams.print_result(str(args.folder))
