"""The worlds of `dinado exact`: trains every parameterisation in one and compares it with q*."""

import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from dinado_jax.config import schema
from dinado_jax.controls.make import make_control
from dinado_jax.exact.learn import Setting, enumerated, learn
from dinado_jax.exact.neural import automata_of, decoded, train_base
from dinado_jax.exact.table import table_control
from dinado_jax.exact.world import Optimum, World

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
    weight_decay=0.0,
    average=1,  # rounds end at the newest parameters
    warmup=0,
    clip=0.0,
    objective="matching",
    warmup_direction=0,
    rounds=15,
    refresh_samples=1000,  # unused: --rollouts is the budget of all rounds
    mixture=0.5,
)
_NEURAL = schema.Train(
    steps=2000,
    batch=512,
    weight_decay=0.0,
    average=1,  # rounds end at the newest parameters
    objective="regression",
    warmup_direction=400,
    margin=8.0,
    rounds=5,
    refresh_samples=1000,
    mixture=0.5,
)
TRAIN = {"table": _TABLE, "ends": _TABLE, "neural": _NEURAL}


def setting(kind: str, world: World, variant: str, seed: int, state: bool = False) -> Setting:
    """Returns a variant to train in a world.

    Args:
      kind: table | ends | neural, a key of WORLDS.
      variant: a key of VARIANTS. The direction of hard is merge's in tables; in neural worlds it is
        soft's, which comes closer to q* there.
      seed: of the rollouts.
      state: whether the control reads the state of the oracle; in neural worlds.
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
    chosen = schema.Control(kind=name, direction="soft", form=form, layers=2, state=state)
    free = schema.Delta(low_rank=(), full=(".*",))
    length = schema.Rollout(max_new_tokens=world.length)
    config = schema.Config(control=chosen, delta=free, rollout=length)
    control = make_control(config, base.model)
    wanted, label = world.keywords(base.log_p)
    automata = automata_of(world, wanted) if state else None
    optimum = Optimum.of(world, base.log_p, label)
    draw = decoded(base, optimum, control, seed, automata)
    return Setting(world, optimum, control, base.params, draw, automata)


def compare(
    kind: str,
    world: World,
    train: schema.Train,
    variants: list[str],
    rollouts: int,
    norm_bias: str,
    seed: int,
    state: bool = False,
) -> Iterator[dict[str, Any]]:
    """Trains each variant in a world and yields its record.

    Args:
      kind, variants: keys of WORLDS and of VARIANTS.
      rollouts: in all rounds together.
      norm_bias: "success_rate", the first value of the norm, or "zero": 1/2.
      seed: of parameters and draws.
      state: as of `setting`.

    Yields:
      The last measurement, the curve of all measurements, and steps and rollouts of the first one
      with 90% satisfaction (None: never).
    """
    for variant in variants:
        started = time.monotonic()
        case = setting(kind, world, variant, seed, state)
        _, curve = learn(case, train, rollouts, norm_bias, seed)
        hit = next((point for point in curve if point["satisfaction"] >= 0.9), {})
        yield {
            "variant": variant,
            "base_rate": case.optimum.rate,
            "optimum_kl_to_base": -float(np.log(case.optimum.rate)),
            **curve[-1],
            "steps_to_90": hit.get("steps"),
            "rollouts_to_90": hit.get("rollouts"),
            "seconds": round(time.monotonic() - started, 1),
            "curve": curve,
        }
