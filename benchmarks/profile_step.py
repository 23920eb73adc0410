"""Writes a profile of a few training steps and decoding calls, for xprof or Perfetto.

    python benchmarks/profile_step.py --size gpt2-large --dtype bfloat16 --batch 256 --out profile

The programs are those of `dinado bench train` and `dinado bench decode` with --variant merge.
"""

import argparse

import jax

from dinado_jax.bench import decode, train
from dinado_jax.bench.measure import Request
from dinado_jax.bench.sizes import SIZES


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--out", default="profile")
    args = parser.parse_args()
    for what, made in (("train", train.program), ("decode", decode.program)):
        sizes = {"batch": args.batch, "prompt": 16, "length": args.length}
        program = made(Request(what, "ours", SIZES[args.size], args.dtype, "merge", **sizes))
        program.run()
        with jax.profiler.trace(f"{args.out}/{what}"):
            for step in range(3):
                with jax.profiler.StepTraceAnnotation(what, step_num=step):
                    program.run()


if __name__ == "__main__":
    main()
