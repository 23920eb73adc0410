"""The options of `dinado evaluate --predictions FILE`."""

import argparse
from pathlib import Path

from dinado_jax.errors import InputError

_OF_PREDICTIONS = (
    "references", "formal", "informal", "metrics", "baseline", "model",
    "text_field", "references_field", "prompt_field",
)  # fmt: skip


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options for texts that may come from anywhere."""
    group = command.add_argument_group("texts from anywhere", "in place of CONFIG")
    group.add_argument(
        "--predictions", type=Path, metavar="FILE", help="a text per line, or .jsonl"
    )
    group.add_argument(
        "--references",
        type=Path,
        action="extend",
        nargs="+",
        metavar="FILE",
        help=".jsonl with lists, or text files with one per line or several between tabs",
    )
    group.add_argument(
        "--formal", type=Path, metavar="FILE", help="references with marks, as of CoCoA-MT: M-Acc"
    )
    group.add_argument("--informal", type=Path, metavar="FILE", help="of the same lines")
    group.add_argument(
        "--metrics", action="extend", nargs="+", metavar="NAME", help="(all that can be computed)"
    )
    group.add_argument("--baseline", type=Path, metavar="FILE", help="another system's predictions")
    group.add_argument("--model", metavar="BASE", help="that judges the texts, or reads")
    group.add_argument("--text-field", metavar="NAME", help="of .jsonl (text)")
    group.add_argument("--references-field", metavar="NAME", help="(references, scene or target)")
    group.add_argument("--prompt-field", metavar="NAME", help="(prompt or concepts)")


def are_given(args: argparse.Namespace) -> bool:
    """Whether texts are to be scored, and not a run.

    Raises:
      InputError: for options that do not go together.
    """
    of_run = [name for name in ("out", "print_config", "dry_run") if getattr(args, name)]
    if args.predictions is None:
        for name in _OF_PREDICTIONS:
            if getattr(args, name):
                raise InputError(
                    f"{_flag(name)} is for texts from anywhere: give --predictions FILE"
                )
        if args.config is None:
            raise InputError("`dinado evaluate`, CONFIG is missing: give it, or --predictions FILE")
        return False
    if args.config is not None:
        raise InputError("CONFIG has no effect with --predictions FILE: leave out one of them")
    if (args.formal is None) != (args.informal is None):
        raise InputError("--formal and --informal belong together: give both, or neither")
    if args.formal is not None and args.formal == args.informal:
        raise InputError("--formal and --informal are the same file: give the two kinds")
    if of_run:
        raise InputError(f"{_flag(of_run[0])} has no effect with --predictions FILE: leave it out")
    return True


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
