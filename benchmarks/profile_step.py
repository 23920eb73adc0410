"""Writes a profile of a few training steps and decoding calls, for xprof or Perfetto, and prints
where their time goes.

    python benchmarks/profile_step.py --size gpt2-large --dtype bfloat16 --batch 256 --out profile

The programs are those of `dinado bench train` and `dinado bench decode` with --variant merge.
Prints a JSON line per program and kind of operation, most time first: milliseconds of a call, on
all threads or streams together, and executions of a call.
"""

import argparse
import collections
import json
import re
from pathlib import Path

import jax
from jax.profiler import ProfileData

from dinado_jax.bench import decode, train
from dinado_jax.bench.measure import Request
from dinado_jax.bench.sizes import SIZES

CALLS = 3
AROUND = {"while", "call", "conditional"}  # operations whose time is that of others


def kinds(profile: Path) -> list[tuple[tuple[str, str], float, int]]:
    """Returns the operations by program and the kind in their name: ((program, kind), nanoseconds,
    executions), most time first.
    """
    spent, executed = collections.Counter(), collections.Counter()
    for plane in ProfileData.from_file(str(profile)).planes:
        for event in (event for line in plane.lines for event in line.events):
            stats = dict(event.stats)
            if "hlo_op" not in stats:
                continue
            kind = re.sub(r"[.\d]+", "", str(stats["hlo_op"]))
            if kind not in AROUND:
                key = str(stats["hlo_module"]), kind
                spent[key] += event.duration_ns
                executed[key] += 1
    return [(key, duration, executed[key]) for key, duration in spent.most_common()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--top", type=int, default=12, help="kinds of operations to print")
    parser.add_argument("--out", type=Path, default=Path("profile"))
    args = parser.parse_args()
    for what, made in (("train", train.program), ("decode", decode.program)):
        sizes = {"batch": args.batch, "prompt": 16, "length": args.length}
        program = made(Request(what, "ours", SIZES[args.size], args.dtype, "merge", **sizes))
        program.run()
        with jax.profiler.trace(str(args.out / what)):
            for step in range(CALLS):
                with jax.profiler.StepTraceAnnotation(what, step_num=step):
                    program.run()
        (newest,) = sorted((args.out / what).rglob("*.xplane.pb"))[-1:]
        for (name, kind), duration, executed in kinds(newest)[: args.top]:
            figures = {"ms": duration / 1e6 / CALLS, "executions": executed // CALLS}
            print(json.dumps({"what": what, "program": name, "kind": kind, **figures}))


if __name__ == "__main__":
    main()
