"""A training step with a delta on all layers against one with a delta on the upper half.

    python benchmarks/from_layer.py --size smollm2-135m --rows 4 --length 32

Each from tokens and from cached states of the base, with the default objective, control and delta
rules, and random parameters. Prints a line of JSON for each: milliseconds of a step, scratch
memory, and speed and FLOPs (as XLA counts them, loops once) relative to a whole delta from tokens.
All programs run in turns.
"""

import argparse
import dataclasses
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.bench.compiled import compiled, random_params
from dinado_jax.bench.sizes import SIZES
from dinado_jax.config import schema
from dinado_jax.controls.make import make_control
from dinado_jax.models.architectures import parse_model
from dinado_jax.objectives.table import phases
from dinado_jax.training.cost_estimate import training
from dinado_jax.training.step import init_state, make_step

LEARNS = {"label": 1.0, "bellman": 1.0, "suffix": 1.0}  # values of the rows' arrays, others are 0


def filled(rows, width, cached, length):
    """Rows of random tokens from their shapes, with random states of the base if `cached`."""
    rng, shape = np.random.default_rng(0), rows.tokens.shape
    fields = {
        name: jnp.full(leaf.shape, LEARNS.get(name, 0), leaf.dtype)
        for name, leaf in vars(rows).items()
        if leaf is not None
    }
    fields["tokens"] = jnp.asarray(rng.integers(1, 1000, shape), jnp.int32)
    fields["length"] = jnp.full(shape[:2], length, jnp.int32)
    fields["prompt_length"] = jnp.full(shape[:2], length // 3, jnp.int32)
    if cached:
        fields["states"] = jnp.asarray(rng.standard_normal((*shape, width), np.float32))
    return type(rows)(**fields)


def program(args, model, base, first, cached):
    """Returns a compiled step, its figures, state and batch."""
    config = schema.Config(
        train=schema.Train(batch=args.rows), delta=schema.Delta(from_layer=first)
    )
    control = make_control(config, model)
    (terms, transform), _, batch = training(config, control, base, args.length)
    reads = phases(config.train)[-1][1].reads_states(control)
    batch = dataclasses.replace(
        batch,
        **{
            name: filled(rows, model.width, cached and name in reads, args.length)
            for name, rows in vars(batch).items()
        },
    )
    params = control.init(jax.random.key(1), base, 0.3)
    state = init_state(params, transform)
    return *compiled(make_step(terms, transform), state, base, batch), state, batch


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="smollm2-135m")
    for name, default in (("rows", 4), ("length", 32), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    model = parse_model(SIZES[args.size], args.size)
    base, half = random_params(model), model.num_layers // 2
    ways = [(first, cached) for first in (0, half) for cached in (False, True)]
    programs = {way: program(args, model, base, *way) for way in ways}
    states = {way: state for way, (_, _, state, _) in programs.items()}
    seconds = {way: [] for way in ways}
    for _ in range(args.repeats + 1):
        for way, (call, _, _, batch) in programs.items():
            began = time.perf_counter()
            states[way], _ = jax.block_until_ready(call(states[way], base, batch))
            seconds[way].append(time.perf_counter() - began)
    taken = {way: statistics.median(values[1:]) for way, values in seconds.items()}
    flops = {way: figures["counted_flops"] for way, (_, figures, _, _) in programs.items()}
    whole = ways[0]
    for way in ways:
        record = {"size": args.size, "rows": args.rows, "length": args.length}
        record |= {"from_layer": way[0], "cached": way[1], "ms": round(1e3 * taken[way], 1)}
        record |= {"speed_ratio": round(taken[whole] / taken[way], 3)}
        record |= {"flops_ratio": round(flops[whole] / flops[way], 3)}
        record |= {"temp_bytes": programs[way][1]["temp_bytes"]}
        print(json.dumps(record | {"device": jax.devices()[0].device_kind}), flush=True)


if __name__ == "__main__":
    main()
