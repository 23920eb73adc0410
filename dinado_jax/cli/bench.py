"""`dinado bench`: its arguments."""

import argparse
from pathlib import Path

from dinado_jax.bench.sizes import SIZES
from dinado_jax.cli.exits import fail
from dinado_jax.cli.parser import Commands, add_command

_BENCH = {
    "vocab": "scalars of a control and their gradient, fused and naive",
    "train": "a training step of the published objective",
    "decode": "sampling under a control",
    "rollout": "samples of prompts, judged by an oracle on the host",
    "beam": "beam search under a control",
}


def add(commands: Commands) -> None:
    """Adds the command."""
    bench = commands.add_parser(
        "bench", help="measure throughput and memory, compared with other implementations"
    )
    kinds = bench.add_subparsers(dest="what", required=True, metavar="WHAT")
    for what, text in _BENCH.items():
        _add_options(what, add_command(kinds, what, _run, text))


def _add_options(what: str, command: argparse.ArgumentParser) -> None:
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


def _run(args: argparse.Namespace) -> None:
    from dinado_jax.bench.command import bench
    from dinado_jax.bench.measure import Failed

    try:
        bench(args)
    except Failed as error:
        fail(error, 1)
