"""The command `dinado bench`: a JSON line for each way of doing the same, then a small table."""

import argparse
import dataclasses
import json
import sys

import jax

from dinado_jax.bench import measure, vocab
from dinado_jax.errors import InputError
from dinado_jax.models.gpt2 import GPT2Config

SIZES = {
    "tiny": GPT2Config(n_embd=256, n_layer=4, n_head=4),
    "gpt2": GPT2Config(),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
}


def bench(args: argparse.Namespace) -> None:
    """Prints a record for each way, made in one run, in turns: seconds (median, least, most),
    tokens a second, and the share of this machine's rate of matrix products that the fewest
    products would need which the result can be had with. InputError for a number that is none."""
    for name in ("batch", "length", "repeats"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: it must be at least 1")
    sizes = dataclasses.replace(SIZES[args.size], dtype=args.dtype, param_dtype=args.dtype)
    tokens = args.batch * args.length
    programs = vocab.programs(sizes, args.variant, tokens, args.trained)
    product, operations = measure.matrix_product(args.dtype)
    found = measure.in_turns({**programs, "matrix product": product}, args.repeats)
    rate = operations / found.pop("matrix product")["seconds"]
    of_logits = 2.0 * tokens * sizes.n_embd * sizes.vocab_size
    needed = of_logits * (4 if args.trained else 3)
    common = {
        "what": args.what,
        "size": args.size,
        "variant": args.variant,
        "trained": args.trained,
        "batch": args.batch,
        "length": args.length,
        "dtype": args.dtype,
        "device": jax.devices()[0].device_kind,
    }
    records = [
        {
            **common,
            "way": way,
            **figures,
            "tokens_per_s": tokens / figures["seconds"],
            "share_of_matmul_rate": needed / figures["seconds"] / rate,
            "time_to_naive": figures["seconds"] / found["naive"]["seconds"],
            "memory_to_naive": figures["temp_bytes"] / found["naive"]["temp_bytes"],
        }
        for way, figures in found.items()
    ]
    for record in records:
        print(json.dumps(record), flush=True)
    print(_table(records), file=sys.stderr)


def _table(records: list[dict]) -> str:
    head = ("tokens/s", "spread", "temp MB", "of matmul", "time", "memory")
    lines = [" " * 8 + "".join(f"{name:>10}" for name in head)]
    for one in records:
        cells = (
            f"{one['tokens_per_s']:.0f}",
            f"{one['seconds_most'] / one['seconds_least'] - 1:.0%}",
            f"{one['temp_bytes'] / 1e6:.0f}",
            f"{one['share_of_matmul_rate']:.0%}",
            f"{one['time_to_naive']:.2f}",
            f"{one['memory_to_naive']:.3f}",
        )
        lines.append(f"{one['way']:8}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)
