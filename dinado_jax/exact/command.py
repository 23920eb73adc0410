"""The command `dinado exact`: a table of all variants in one world, as text, JSON and figure."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from dinado_jax.config import schema
from dinado_jax.config.load import differences
from dinado_jax.errors import InputError
from dinado_jax.exact.compare import ROLLOUTS, TRAIN, VARIANTS, WORLDS, compare
from dinado_jax.exact.world import World
from dinado_jax.stages.relevance import unused_settings
from dinado_jax.stages.settings import changed
from dinado_jax.utils import arguments, streams
from dinado_jax.utils.files import write_json
from dinado_jax.utils.progress import Progress

_COLUMNS = {
    "satisfaction": "satisfied",
    "total_variation": "total var.",
    "kl_optimum": "KL(q*||q)",
    "kl_to_base": "KL(q||p)",
    "kl_floor": "floor",
    "max_error": "max|R-R*|",
    "consistency": "consistency",
    "bellman": "bellman",
}


def table(records: list[dict[str, Any]]) -> str:
    """Returns records as a text table: the optimum first, KL in nats per sequence."""
    rate, ideal = records[0]["base_rate"], records[0]["optimum_kl_to_base"]
    head = ["variant", *_COLUMNS.values(), "rollouts to 90%"]
    rows = [["optimum", "1.000", "0.000", "0.000", f"{ideal:.3f}", f"{ideal:.3f}", *["0"] * 3, ""]]
    for record in records:
        figures = [
            f"{record[key]:.3f}" if abs(record[key]) >= 5e-4 else f"{record[key]:.0e}"
            for key in _COLUMNS
        ]
        rows.append([record["variant"], *figures, str(record["rollouts_to_90"] or "never")])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in [head, *rows]]
    return "\n".join([f"R0 = {rate:.4f}", *lines])


_SUFFIXES = (".png", ".svg", ".pdf")


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draws satisfaction and KL(q* || q) against rollouts, a line per variant.

    Args:
      records: of the variants.
      path: its suffix, .png, .svg or .pdf, is the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, key, label in zip(
        axes, ("satisfaction", "kl_optimum"), ("satisfaction", "KL(q* || q), nats")
    ):
        for record in records:
            points = record["curve"]
            axis.plot(
                [p["rollouts"] for p in points], [p[key] for p in points], label=record["variant"]
            )
        axis.set(xlabel="rollouts", ylabel=label)
    axes[1].set_yscale("log")
    axes[0].legend()
    figure.savefig(path)


_UNUSED = ("train.accumulate", "train.refresh_prompts", "train.refresh_samples")
_UNUSED += ("train.reference_weight", "train.roll_out", "train.base_states", "train.strict")


def _check_settings(preset: schema.Config, config: schema.Config, variants: list[str]) -> None:
    """Raises InputError for a changed setting that has no effect here."""
    keys = sorted(set(differences(config)) - set(differences(preset)))
    keys = [line.partition(" = ")[0] for line in keys]
    for key in keys:
        if key in _UNUSED:
            raise InputError(f"{key} has no effect in these worlds: leave it out")
    common = set(keys)
    for kind, form in (VARIANTS[name] for name in variants):
        control = dataclasses.replace(config.control, kind=kind, form=form)
        common &= dict(unused_settings(dataclasses.replace(config, control=control), keys)).keys()
    for key in sorted(common):
        raise InputError(
            f"{key} has no effect for {', '.join(variants)} with these settings: leave it out"
        )


def _world(args: argparse.Namespace) -> World:
    """Returns the world of the arguments. InputError if it cannot be enumerated."""
    arguments.require_seed(args.seed, "--seed")
    if args.world == "neural" and args.concentration is not None:
        raise InputError("--concentration has no effect in a neural world: leave it out")
    given = {
        key: getattr(args, key)
        for key in ("seed", "vocabulary", "length", "concentration", "rarity")
        if getattr(args, key) is not None
    }
    return dataclasses.replace(WORLDS[args.world], **given)


def _config(args: argparse.Namespace, variants: list[str]) -> schema.Config:
    """Returns the preset with overrides. InputError for one without effect."""
    for text in args.overrides:
        if not text.startswith(("train.", "control.norm_bias=", "control.state=")):
            raise InputError(
                f"override {text!r}: only train.*, control.norm_bias and control.state have an "
                "effect here"
            )
    preset = schema.Config(train=TRAIN[args.world])
    config = changed(preset, args.overrides)
    if config.control.state and args.world != "neural":
        raise InputError(
            f"control.state: the oracle of the {args.world} world has none, use --world neural"
        )
    _check_settings(preset, config, variants)
    return config


def _check_files(out: Path | None, figure: Path | None) -> None:
    """Raises InputError before training if the results could not be written."""
    for path in (out, figure):
        if path and not path.parent.is_dir():
            raise InputError(f"no folder {str(path.parent)!r} for {path.name}: make it first")
        if path and path.is_dir():
            raise InputError(f"{path} is a folder: name a file in it")
    if figure and figure.suffix not in _SUFFIXES:
        raise InputError(f"cannot draw {str(figure)!r}: end it in {', '.join(_SUFFIXES)}")


def exact(args: argparse.Namespace) -> None:
    """Trains the variants in one world, prints the table and writes the files of --out and --plot.

    Raises:
      InputError: an option is out of range or has no effect, or a file cannot be written.
    """
    world = _world(args)
    variants = args.variant or list(VARIANTS)
    config = _config(args, variants)
    train, bias = config.train, config.control.norm_bias
    rollouts = ROLLOUTS[args.world] if args.rollouts is None else args.rollouts
    if rollouts < train.rounds:
        raise InputError(
            f"--rollouts {rollouts} in train.rounds = {train.rounds} rounds: give at least one each"
        )
    _check_files(args.out, args.plot)
    records = []
    with Progress("exact", len(variants), "variant") as progress:
        state = config.control.state
        for record in compare(args.world, world, train, variants, rollouts, bias, args.seed, state):
            records.append(record)
            progress.advance()
    streams.print_result(table(records))
    if args.out:
        settings = {
            "world": {"kind": args.world, **dataclasses.asdict(world)},
            "train": dataclasses.asdict(train),
            "norm_bias": bias,
            "state": config.control.state,
            "rollouts": rollouts,
        }
        out = {"settings": settings, "variants": {r["variant"]: r for r in records}}
        write_json(args.out, out)
    if args.plot:
        plot(records, args.plot)
