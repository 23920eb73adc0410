"""`dinado exact`: its arguments."""

import argparse
from pathlib import Path

from dinado_jax.cli.exits import diverging
from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.distributed import signals


def add(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "exact",
        _run,
        "train each parameterisation in an enumerable world and compare with q*",
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


def _run(args: argparse.Namespace) -> None:
    from dinado_jax.exact.command import exact

    signals.install_handlers()
    with diverging():
        exact(args)
