"""`dinado exact`: each parameterisation trained in one world and set against its optimum."""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dinado_jax.config import schema
from dinado_jax.config.load import differences
from dinado_jax.controls.make import make_control
from dinado_jax.errors import InputError
from dinado_jax.exact.learn import Setting, enumerated, learn
from dinado_jax.exact.neural import decoded, train_base
from dinado_jax.exact.table import table_control
from dinado_jax.exact.world import Optimum, World
from dinado_jax.stages.relevance import unused_settings
from dinado_jax.stages.settings import changed
from dinado_jax.utils import arguments, streams
from dinado_jax.utils.files import write_json
from dinado_jax.utils.progress import Progress

# Each variant as (kind, form).
VARIANTS = {
    "nado": ("nado", "split"),
    "soft": ("soft", "split"),
    "merge": ("merge", "split"),
    "hard": ("hard", "projected"),
    "hard_clamped": ("hard", "clamped"),
}
WORLDS = {
    "table": World(),
    "ends": World(ends=True),
    "neural": World(vocabulary=8, length=6, ends=True),
}
ROLLOUTS = {"table": 192_000, "ends": 192_000, "neural": 100_000}
_TABLE = schema.Train(
    steps=1500,
    batch=128,
    learning_rate=0.03,
    warmup=0,
    clip=0.0,
    objective="matching",
    warmup_direction=0,
    rounds=15,
    refresh_samples=1000,  # of which train.mixture is a share; budgets are --rollouts
    mixture=0.5,
)
_NEURAL = schema.Train(
    steps=2000,
    batch=512,
    objective="regression",
    warmup_direction=400,
    margin=8.0,
    rounds=5,
    refresh_samples=1000,
    mixture=0.5,
)
TRAIN = {"table": _TABLE, "ends": _TABLE, "neural": _NEURAL}


def setting(kind: str, world: World, variant: str, seed: int) -> Setting:
    """A variant in a world; `seed` numbers the draws. kind: table | ends | neural.

    hard has merge's direction in tables; in neural worlds soft's, which comes closer to q* there.
    """
    name, form = VARIANTS[variant]
    if kind != "neural":
        control = table_control(world, name, form)
        base_params = {"table": jnp.asarray(world.tables())}
        log_p = world.log_tabled()
        optimum = Optimum.of(world, log_p, world.scattered(log_p))
        draw = enumerated(world, optimum, control, base_params, seed)
        return Setting(world, optimum, control, base_params, draw)
    base = train_base(world)
    chosen = schema.Control(kind=name, direction="soft", form=form, layers=2)
    free = schema.Delta(low_rank=(), full=(".*",))
    control = make_control(schema.Config(control=chosen, delta=free), base.model)
    optimum = Optimum.of(world, base.log_p, world.keywords(base.log_p))
    return Setting(world, optimum, control, base.params, decoded(base, optimum, control, seed))


def compare(
    kind: str,
    world: World,
    train: schema.Train,
    variants: list[str],
    rollouts: int,
    norm_bias: str,
    seed: int,
) -> Iterator[dict]:
    """One record per variant, as each is done: its figures, the curve they came from, and the steps
    and rollouts at the first measurement with 90% satisfaction (None: never).
    """
    for variant in variants:
        began = time.monotonic()
        case = setting(kind, world, variant, seed)
        _, curve = learn(case, train, rollouts, norm_bias, seed)
        hit = next((point for point in curve if point["satisfaction"] >= 0.9), {})
        yield {
            "variant": variant,
            "base_rate": case.optimum.rate,
            "optimum_kl_to_base": -float(np.log(case.optimum.rate)),
            **curve[-1],
            "steps_to_90": hit.get("steps"),
            "rollouts_to_90": hit.get("rollouts"),
            "seconds": round(time.monotonic() - began, 1),
            "curve": curve,
        }


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


def table(records: list[dict]) -> str:
    """The records as text: the optimum first, KL in nats per sequence."""
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


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install '.[plot]'") from None
    return Figure


def plot(records: list[dict], path: Path) -> None:
    """Satisfaction and KL(q* || q) against rollouts, a line per variant; the suffix says the
    format. InputError without matplotlib.
    """
    figure = _figure_class()(figsize=(9, 3.5), layout="constrained")
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


_ABSENT = ("train.accumulate", "train.refresh_prompts", "train.refresh_samples")
_ABSENT += ("train.reference_weight", "train.base_states")


def _refuse_idle(preset: schema.Config, whole: schema.Config, variants: list[str]) -> None:
    """InputError for a changed setting that plays no part in a world, or for none of these
    variants.
    """
    keys = sorted(set(differences(whole)) - set(differences(preset)))
    keys = [line.partition(" = ")[0] for line in keys]
    for key in keys:
        if key in _ABSENT:
            raise InputError(f"{key} plays no part in these worlds: leave it out")
    common = set(keys)
    for kind, form in (VARIANTS[variant] for variant in variants):
        control = dataclasses.replace(whole.control, kind=kind, form=form)
        common &= dict(unused_settings(dataclasses.replace(whole, control=control), keys)).keys()
    for key in sorted(common):
        raise InputError(
            f"{key} plays no part for {', '.join(variants)} with these settings: leave it out"
        )


def exact(args: argparse.Namespace) -> None:
    """The command `dinado exact`: prints the table, and writes what --out and --plot ask for."""
    given = {
        key: getattr(args, key)
        for key in ("seed", "vocabulary", "length", "concentration", "rarity")
        if getattr(args, key) is not None
    }
    arguments.require_seed(args.seed, "--seed")
    world = dataclasses.replace(WORLDS[args.world], **given)
    for text in args.overrides:
        if not text.startswith(("train.", "control.norm_bias=")):
            raise InputError(f"override {text!r}: only train.* and control.norm_bias count here")
    if args.world == "neural" and args.concentration is not None:
        raise InputError("--concentration is of tables, a neural world has none: leave it out")
    preset = schema.Config(train=TRAIN[args.world])
    whole = changed(preset, args.overrides)
    variants, bias = args.variant or list(VARIANTS), whole.control.norm_bias
    _refuse_idle(preset, whole, variants)
    rollouts = ROLLOUTS[args.world] if args.rollouts is None else args.rollouts
    if rollouts < whole.train.rounds:
        raise InputError(
            f"--rollouts {rollouts} in train.rounds = {whole.train.rounds}: give at least one each"
        )
    for path in (args.out, args.plot):
        if path and not path.parent.is_dir():
            raise InputError(f"no folder {str(path.parent)!r} for {path.name}: make it first")
        if path and path.is_dir():
            raise InputError(f"{path} is a folder: name a file in it")
    if args.plot and args.plot.suffix not in _SUFFIXES:
        raise InputError(f"cannot draw {str(args.plot)!r}: end it in {', '.join(_SUFFIXES)}")
    if args.plot:
        _figure_class()
    records = []
    with Progress("exact", len(variants), "variant") as progress:
        for record in compare(args.world, world, whole.train, variants, rollouts, bias, args.seed):
            records.append(record)
            progress.advance()
    streams.print_result(table(records))
    if args.out:
        settings = {
            "world": {"kind": args.world, **dataclasses.asdict(world)},
            "train": dataclasses.asdict(whole.train),
            "norm_bias": bias,
            "rollouts": rollouts,
        }
        out = {"settings": settings, "variants": {r["variant"]: r for r in records}}
        write_json(args.out, out)
    if args.plot:
        plot(records, args.plot)
