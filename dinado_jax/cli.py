"""The `dinado` command: parses arguments; each command calls one function."""

import argparse
import contextlib
import difflib
import errno
import json
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from dinado_jax import __version__
from dinado_jax.bench.sizes import SIZES
from dinado_jax.distributed import signals
from dinado_jax.errors import (
    ELSEWHERE,
    InputError,
    escape,
    one_line,
    quote,
)
from dinado_jax.evaluation import options
from dinado_jax.utils import streams
from dinado_jax.utils.files import exists

_STAGE_HELP = {
    "sft": "train the base on the task",
    "rollout": "sample the base and let the oracle judge",
    "train": "train the control, in rounds",
    "generate": "continue held-out prompts, with and without control",
    "evaluate": "measure success, KL to the base and efficiency",
}
_CHANGES = "changes a value of the configuration; of equal keys the last one is used"
_DISK = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS), "write")
_DISK |= dict.fromkeys((errno.EACCES, errno.EPERM), "open")
_WARNED = 3  # exit code


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, like all other errors of the package."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        see = f"see `{self.prog} --help`"
        if found := re.fullmatch(r"(.*): invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
            what, word, choices = found.groups()
            see = _near(word, re.findall(r"[\w.-]+", choices))
            message = f"{what}: invalid choice: {quote(word)}"
        elif found := re.fullmatch(r"the following arguments are required: ([^,]*).*", message):
            message = f"`{self.prog}`, {found[1]} is missing"
        raise InputError(f"{message}: {see}")


_Commands = argparse._SubParsersAction  # where commands are added; has no public name


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dinado", description="Control of language models with NADO and DiNADO.")
    parser.add_argument("--version", action="version", version=f"dinado {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    common = _common_options()
    demo = commands.add_parser(
        "demo", parents=[common], help="the whole pipeline on the embedded toy task"
    )
    demo.add_argument("overrides", nargs="*", metavar="section.key=value", help=_CHANGES)
    everything = {"run": "all stages in order, resuming what is done", **_STAGE_HELP}
    for name, text in everything.items():
        command = commands.add_parser(name, parents=[common], help=text)
        command.add_argument(
            "config",
            metavar="CONFIG",
            nargs="?" if name == "evaluate" else None,  # it may have predictions instead
            help="a .toml file, see configs/",
        )
        command.add_argument("overrides", nargs="*", metavar="section.key=value", help=_CHANGES)
        if name == "generate":
            _add_own_prompts(command)
        elif name == "evaluate":
            options.add_options(command)
    _add_export(commands)
    _add_exact(commands)
    _add_bench(commands)
    return parser


def _add_own_prompts(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "your own prompts", "with the folder of a finished run in place of CONFIG"
    )
    group.add_argument("--prompt", action="append", metavar="TEXT", help="may be given repeatedly")
    group.add_argument("--prompts", type=Path, metavar="FILE", help="one per line, or .jsonl")
    group.add_argument("--samples", type=int, metavar="N", help="of each (default: 1)")
    group.add_argument("--strength", type=float, metavar="X", help="of the control (the run's)")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="(the run's)")
    group.add_argument("--seed", type=int, metavar="N", help="(default: 0)")
    group.add_argument("--json", action="store_true", help="a line of JSON per text")


def _common_options() -> _Parser:
    """The options of all commands that run stages."""
    common = _Parser(add_help=False)
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
    return common


def _add_export(commands: _Commands) -> None:
    command = commands.add_parser("export", help="write a trained control for other programs")
    command.set_defaults(overrides=[])
    command.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    command.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    command.add_argument(
        "--format",
        choices=("hf", "peft"),
        default="hf",
        help="the base with the delta merged, for transformers, or the low-rank delta alone, for "
        "peft (default: hf)",
    )


def _add_exact(commands: _Commands) -> None:
    command = commands.add_parser(
        "exact", help="train each parameterisation in an enumerable world and compare with q*"
    )
    choice = {"default": "table", "choices": ("table", "ends", "neural")}
    command.add_argument(
        "--world",
        **choice,
        help="tables, tables with sequences that end, or a tiny GPT-2 (default: table)",
    )
    command.add_argument(
        "--variant",
        action="append",
        choices=("nado", "soft", "merge", "hard", "hard_clamped"),
        help="may be given several times (default: all); hard is the projected form",
    )
    command.add_argument("--seed", type=int, default=0, help="of world and draws (default: 0)")
    command.add_argument("--vocabulary", type=int, metavar="N", help="tokens")
    command.add_argument("--length", type=int, metavar="N", help="new tokens at most")
    command.add_argument("--concentration", type=float, metavar="X", help="of the base's tables")
    command.add_argument("--rarity", type=float, metavar="R0", help="success rate of the base")
    command.add_argument("--rollouts", type=int, metavar="N", help="in all rounds together")
    command.add_argument("--out", type=Path, metavar="FILE", help="JSON: settings, figures, curves")
    command.add_argument("--plot", type=Path, metavar="FILE", help="a figure of the curves")
    command.add_argument("overrides", nargs="*", metavar="train.key=value")


_BENCH = {
    "vocab": "scalars of a control and their gradient, fused and naive",
    "train": "a training step of the published objective",
    "decode": "sampling under a control",
    "rollout": "samples of prompts, judged by an oracle on the host",
    "beam": "beam search under a control",
}


def _add_bench(commands: _Commands) -> None:
    bench = commands.add_parser(
        "bench", help="measure throughput and memory, compared with other implementations"
    )
    bench.set_defaults(overrides=[])
    kinds = bench.add_subparsers(dest="what", required=True, metavar="WHAT")
    for what, text in _BENCH.items():
        _add_bench_options(what, kinds.add_parser(what, help=text, description=text))


def _add_bench_options(what: str, command: argparse.ArgumentParser) -> None:
    def number(name: str, default: float, text: str) -> None:
        kind, metavar = (int, "N") if isinstance(default, int) else (float, "P")
        text = f"{text} (default: {default})"
        command.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=text)

    rows = what in ("vocab", "train")
    command.add_argument("--size", choices=SIZES, default="gpt2")
    variants = ("merge", "soft", "nado") if rows else ("base", "merge", "soft", "nado")
    command.add_argument("--variant", choices=variants, default="merge")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    number("batch", 64, "rows")
    number("length", 64, "tokens of a row" if rows else "new tokens of a row")
    number("repeats", 5, "timed runs of each implementation")
    if what == "vocab":
        command.add_argument("--trained", action="store_true", help="the matrix is trained too")
        return
    number("prompt", 16, "prompt tokens")
    number("layers", 4, "of nado's head, and of soft's trunk")
    command.add_argument("--peer", type=Path, metavar="FILE", help="a Python file with programs")
    command.add_argument(
        "--peer-way",
        action="append",
        metavar="NAME",
        help="one of its programs; may be given several times",
    )
    if what == "rollout":
        number("samples", 8, "rows that share a prompt")
        number("queues", 1, "samples that each row draws, on average")
        number("ends", 0.0, "chance of each token to end its sample")
    if what == "beam":
        number("beams", 4, "hypotheses per row")
    if what in ("decode", "rollout"):
        number("top-k", 0, "0 is off")
        number("top-p", 1.0, "1 is off")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses arguments. InputError for unknown commands, options or values."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    for flag in (word for word in rest if word.startswith("-")):
        near = _near(flag.partition("=")[0], _options(parser, args))
        raise InputError(f"unrecognized arguments: {escape(flag)}: {near}")
    if args.command is None:
        raise InputError(f"no command given: one of {', '.join(_choices(parser))}")
    # argparse leaves over what follows an option, because it has filled `overrides` by then.
    args.overrides = [*args.overrides, *rest]
    return args


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The options of the command that was given."""
    for name in (args.command, getattr(args, "what", None)):
        parser = _choices(parser).get(name or "", parser)
    return [option for option in parser._option_string_actions if option.startswith("--")]


def _near(word: str, words: Iterable[str]) -> str:
    """Suggests the closest of the words, or all of them."""
    words = list(words)
    close = difflib.get_close_matches(word, words, 1)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(words)}"


def _run(args: argparse.Namespace) -> None:
    if args.command == "exact":
        from dinado_jax.exact.command import exact

        signals.install_handlers()
        with _diverging():
            exact(args)
    elif args.command == "export":
        from dinado_jax.stages.export import export

        if args.overrides:
            raise InputError(f"no more than RUN and DIR, {quote(args.overrides[0])}: leave it out")
        export(args.run, args.folder, args.format)
        streams.print_result(str(args.folder))
    elif args.command == "bench":
        from dinado_jax.bench.command import bench
        from dinado_jax.bench.measure import Failed

        try:
            bench(args)
        except Failed as error:
            _fail(error, 1)
    elif args.command == "generate" and (_own_prompts(args) or _is_folder(args.config)):
        _continue_prompts(args)
    elif args.command == "evaluate" and options.are_predictions(args):
        from dinado_jax.evaluation.command import evaluate_files

        evaluate_files(args)
    else:
        _run_stages(args)


_OWN_PROMPTS = ("prompt", "prompts", "samples", "strength", "max_new_tokens", "seed", "json")


def _own_prompts(args: argparse.Namespace) -> list[str]:
    """The options that were given of those for the user's own prompts."""
    given = [name for name in _OWN_PROMPTS if getattr(args, name) not in (None, False)]
    return ["--" + name.replace("_", "-") for name in given]


def _is_folder(path: str) -> bool:
    return exists(Path(path)) and Path(path).is_dir()


def _continue_prompts(args: argparse.Namespace) -> None:
    """Continues the user's prompts with a finished run."""
    from dinado_jax.stages import completions
    from dinado_jax.tasks.prompts import read_prompts

    if not _is_folder(args.config):
        option = _own_prompts(args)[0]
        raise InputError(
            f"{option} is for a finished run, and {escape(args.config)} is no folder: give the "
            f"run's folder, `dinado generate runs/demo {option} ..`"
        )
    if args.overrides or args.out or args.print_config or args.dry_run:
        raise InputError(
            f"{escape(args.config)} is a run, its settings are fixed: leave out section.key=value, "
            "--out, --print-config and --dry-run, or give its CONFIG instead of its folder"
        )
    prompts = [
        *(args.prompt or []),
        *(read_prompts(args.prompts, "prompt") if args.prompts else []),
    ]
    if not prompts:
        raise InputError("no prompts given: --prompt TEXT, or --prompts FILE with one per line")
    made = completions.completions(
        args.config,
        prompts,
        samples=1 if args.samples is None else args.samples,
        seed=args.seed or 0,
        strength=args.strength,
        max_new_tokens=args.max_new_tokens,
    )
    streams.print_result((completions.as_json if args.json else completions.as_text)(made))


def _run_stages(args: argparse.Namespace) -> None:
    from dinado_jax.stages import pipeline
    from dinado_jax.stages.settings import load_config

    whole = args.command in ("demo", "run")
    names = tuple(_STAGE_HELP) if whole else (args.command,)
    if args.out and any(text.startswith("run.folder=") for text in args.overrides):
        raise InputError("run.folder has no effect with --out: leave out one of them")
    config = load_config(getattr(args, "config", None), args.overrides)
    if args.print_config or args.dry_run:
        pipeline.check(config, names)
        made = config.as_dict()
        if args.dry_run:
            from dinado_jax.training.cost_estimate import dry_run

            made = dry_run(config)
        return streams.print_result(json.dumps(made, indent=1))
    from dinado_jax.distributed import processes

    processes.connect()
    signals.install_handlers()
    processes.barrier("connected")
    with _diverging():
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


@contextlib.contextmanager
def _diverging():
    """Reports a loss that is not finite in one line."""
    from dinado_jax.training.loop import Diverged

    try:
        yield
    except Diverged as error:
        _fail(error, 1)


def main(argv: list[str] | None = None) -> None:
    """Exit codes: 0 done, 2 bad input (one line), 3 done with warnings under `train.strict`, 1
    anything else, 128 + signal after a stop, 141 if nobody reads the results.
    """
    streams.prepare()
    try:
        _run(_parse(argv))
    except InputError as error:
        _fail(error, 2)
    except streams.ReaderGone:
        sys.exit(streams.READER_GONE)
    except signals.Stopped as stop:
        streams.print_status(f"stopped by {stop}; run the same command again to continue")
        sys.exit(stop.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            where = error.filename or "the run folder"
            what = f"cannot {_DISK[error.errno]} {where} ({error.strerror})"
            _fail(f"{what}: {ELSEWHERE}", 2)
        streams.print_status(traceback.format_exc().rstrip())
        _leave(1, one_line(error))


def _fail(message: object, code: int) -> NoReturn:
    streams.print_status(f"dinado: error: {message}")
    _leave(code, str(message))


def _leave(code: int, why: str) -> NoReturn:
    if "dinado_jax.distributed.processes" in sys.modules:  # else there is one process
        sys.modules["dinado_jax.distributed.processes"].abort(code, why)
    sys.exit(code)
