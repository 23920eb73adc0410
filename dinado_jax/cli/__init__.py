"""The `dinado` command: each module holds a command's arguments, and calls one function.

What takes long to import is imported by the command that needs it.
"""

import errno
import sys
import traceback

from dinado_jax import __version__
from dinado_jax.cli import (
    bench,
    compare,
    completion,
    denoise,
    doctor,
    exact,
    export,
    hmm,
    init,
    inspect,
    oracle,
    recurrence,
    run,
)
from dinado_jax.cli.exits import fail, leave
from dinado_jax.cli.parser import Parser, parse
from dinado_jax.distributed import signals
from dinado_jax.errors import ELSEWHERE, InputError, one_line
from dinado_jax.utils import streams

_DISK = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS), "write")
_DISK |= dict.fromkeys((errno.EACCES, errno.EPERM), "open")
_MODULES = (
    run, init, oracle, hmm, recurrence, denoise, inspect, compare, export, doctor, exact, bench
)  # fmt: skip


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="dinado", description="Control of language models with NADO and DiNADO.")
    parser.add_argument("--version", action="version", version=f"dinado {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in _MODULES:
        module.add(commands)
    completion.add(commands, parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Exit codes: 0 done, 2 bad input (one line), 3 done with warnings under `train.strict`, 1
    anything else, 128 + signal after a stop, 141 if nobody reads the results.
    """
    streams.prepare()
    try:
        args = parse(make_parser(), argv)
        args.function(args)
    except InputError as error:
        fail(error, 2)
    except streams.ReaderGone:
        sys.exit(streams.READER_GONE)
    except signals.Stopped as stop:
        streams.print_status(f"stopped by {stop}; run the same command again to continue")
        sys.exit(stop.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            where = error.filename or "the run folder"
            what = f"cannot {_DISK[error.errno]} {where} ({error.strerror})"
            fail(f"{what}: {ELSEWHERE}", 2)
        streams.print_status(traceback.format_exc().rstrip())
        leave(1, one_line(error))
