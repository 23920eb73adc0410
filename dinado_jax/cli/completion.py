"""`dinado completion`: a script by which a shell completes commands, options and paths."""

import argparse
import importlib
from typing import Any, cast

from dinado_jax.cli.parser import Commands, Parser, add_command
from dinado_jax.errors import InputError
from dinado_jax.utils import streams

_HOW = """\
write the script to where the shell looks for it, once:
  bash  dinado completion bash > ~/.local/share/bash-completion/completions/dinado
  zsh   dinado completion zsh > "${fpath[1]}/_dinado"
"""
_FOLDERS = ("DIR", "RUN")
_FILES = ("FILE", "CONFIG", "PATH")


def add(commands: Commands, parser: Parser) -> None:
    """Adds the command, which completes all that `parser` reads."""

    def show(args: argparse.Namespace) -> None:
        streams.print_result(_script(parser, args.shell))

    text = "print a script that makes a shell complete commands, options and paths"
    command = add_command(commands, "completion", show, text)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _HOW
    command.add_argument("shell", choices=("bash", "zsh"))


def _script(parser: Parser, shell: str) -> str:
    try:
        shtab = importlib.import_module("shtab")
    except ModuleNotFoundError:
        raise InputError(
            "completion needs the package shtab: pip install '.[completion]'"
        ) from None
    _mark_paths(parser, shtab)
    return shtab.complete(parser, shell=shell).rstrip()


def _mark_paths(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Tells which arguments are paths, by what the help calls them."""
    for action in cast(list[Any], parser._actions):  # shtab reads an attribute of its own
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_paths(command, shtab)
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY
        elif action.metavar in _FILES:
            action.complete = shtab.FILE
