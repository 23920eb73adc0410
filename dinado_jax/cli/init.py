"""`dinado init`: writes a first configuration, which `dinado run` accepts."""

import argparse
import re
import tempfile
from pathlib import Path

from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.errors import InputError, escape, os_error
from dinado_jax.utils import streams
from dinado_jax.utils.files import exists, write_text


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "write a first configuration with a comment on each setting; asks nothing"
    command = add_command(commands, "init", _init, text)
    command.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path("run.toml"),
        metavar="FILE",
        help="a new .toml file (default: run.toml)",
    )
    command.add_argument("--prompts", default="", metavar="FILE", help="yours (a built-in task's)")
    command.add_argument(
        "--oracle",
        default="",
        metavar="ORACLE",
        help="a name, package.module:function, FILE.py:function or an expression (the task's)",
    )
    command.add_argument(
        "--base",
        default="",
        metavar="PATH",
        help="a folder, .gguf file, package:FILE or name on the hub (a small new model)",
    )


def _init(args: argparse.Namespace) -> None:
    file = args.file
    if file.suffix != ".toml":
        raise InputError(f"{file}, no .toml file: name it {file.stem or 'run'}.toml")
    if exists(file):
        raise InputError(f"{file} is there already: name another file, or delete it")
    if args.prompts and not args.base:
        raise InputError("--prompts needs a base that can continue them: give --base PATH too")
    if args.prompts and not args.oracle:
        raise InputError("--prompts needs an oracle that judges what follows: give --oracle too")
    from dinado_jax.stages.first_config import first_config

    name = re.sub(r"[^\w.-]", "_", file.stem)
    text = first_config(escape(str(file)), name, args.prompts, args.oracle, args.base)
    _check(text, file.name)
    try:
        write_text(file, text)
    except OSError as error:
        raise os_error(file, error) from error
    streams.print_result(str(file))


def _check(text: str, name: str) -> None:
    """Checks a configuration as a run does before it computes anything."""
    from dinado_jax.stages import pipeline
    from dinado_jax.stages.run_folder import STAGES
    from dinado_jax.stages.settings import load_config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write_text(path, text)
        config = load_config(path)
    pipeline.check(config, STAGES, judge=True)
