"""The user's own prompts, continued with a finished run: `dinado generate RUN`."""

import argparse
import os
from pathlib import Path

from dinado_jax.errors import InputError, escape, os_error
from dinado_jax.utils import streams
from dinado_jax.utils.files import exists, write_text

_NUMBERS = ("samples", "strength", "particles", "beams", "max_new_tokens", "seed")
_OPTIONS = ("prompt", "prompts", *_NUMBERS, "stream")


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of the stage's command that are for this."""
    group = command.add_argument_group(
        "your own prompts",
        "with the folder of a finished run in place of CONFIG; --out FILE: write them to a file",
    )
    group.add_argument("--prompt", action="append", metavar="TEXT", help="may be given repeatedly")
    group.add_argument("--prompts", type=Path, metavar="FILE", help="one per line, or .jsonl")
    group.add_argument("--samples", type=int, metavar="N", help="of each (default: 1)")
    group.add_argument("--strength", type=float, metavar="X", help="of the control (the run's)")
    group.add_argument(
        "--particles",
        type=int,
        metavar="N",
        help="that each text is chosen from; 0: none (the run's)",
    )
    group.add_argument(
        "--beams", type=int, metavar="N", help="the likeliest texts that succeed, by beam search"
    )
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="(the run's)")
    group.add_argument("--seed", type=int, metavar="N", help="(default: 0)")
    group.add_argument(
        "--stream", action="store_true", default=None, help="print texts while they are drawn"
    )


def are_given(args: argparse.Namespace) -> bool:
    """Whether these arguments are for this, and not for the stage."""
    return bool(_options_given(args)) or _is_folder(args.config)


def _options_given(args: argparse.Namespace) -> list[str]:
    given = [name for name in _OPTIONS if getattr(args, name) is not None]
    return ["--" + name.replace("_", "-") for name in given]


def _is_folder(path: str | Path) -> bool:
    return exists(Path(path)) and Path(path).is_dir()


def continue_prompts(args: argparse.Namespace) -> None:
    """Continues the user's prompts with a finished run."""
    from dinado_jax.stages import completions
    from dinado_jax.tasks.prompts import read_prompts

    if not _is_folder(args.config):
        option = _options_given(args)[0]
        raise InputError(
            f"{option} is for a finished run, and {escape(args.config)} is no folder: give the "
            f"run's folder, `dinado generate runs/demo {option} ..`"
        )
    if args.overrides or args.print_config or args.dry_run:
        raise InputError(
            f"{escape(args.config)} is a run, its settings are fixed: leave out section.key=value, "
            "--print-config and --dry-run, or give its CONFIG instead of its folder; a prompt is "
            "given as --prompt TEXT"
        )
    if args.out:
        check_file(args.out, args.prompts)
    prompts = [
        *(args.prompt or []),
        *(read_prompts(args.prompts) if args.prompts else []),
    ]
    if not prompts:
        raise InputError("no prompts given: --prompt TEXT, or --prompts FILE with one per line")
    how = {
        "samples": 1 if args.samples is None else args.samples,
        "seed": args.seed or 0,
        "strength": args.strength,
        "particles": args.particles,
        "max_new_tokens": args.max_new_tokens,
    }
    if not args.stream:
        made = completions.completions(args.config, prompts, **how, beams=args.beams)
        return give((completions.as_json if args.json else completions.as_text)(made), args.out)
    given_options = ("--json", args.json), ("--beams", args.beams is not None), ("--out", args.out)
    for option, given in given_options:
        if given:
            raise InputError(
                f"--stream prints texts while they are drawn: leave out --stream or {option}"
            )
    for part in completions.as_streamed_text(
        completions.stream_completions(args.config, prompts, **how)
    ):
        streams.print_result(part, end="")


def check_file(file: Path, source: Path | None) -> None:
    """Refuses a file that could not be written, or that is the one that is read, before anything
    is generated.
    """
    if source is not None and source.resolve() == file.resolve():
        raise InputError(f"--out {escape(str(file))} is the file that is read: name another one")
    folder = file.absolute().parent
    if _is_folder(file) or not _is_folder(folder) or not os.access(folder, os.W_OK):
        raise InputError(
            f"--out {escape(str(file))}: texts are written to a file, name one in a folder that is "
            "there and writable"
        )


def give(text: str, file: Path | None) -> None:
    """Prints a result, or writes it to a file."""
    if not file:
        return streams.print_result(text)
    try:
        write_text(file, text + "\n")
    except OSError as error:
        raise os_error(file, error) from error
    streams.print_result(str(file))
