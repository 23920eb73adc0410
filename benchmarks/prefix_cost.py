"""What a prefix adds to a decoding step.

    python benchmarks/prefix_cost.py [--size gpt2] [--rows 32] [--positions 10] [--repeats 5]

Samples a base of the shape of a well-known model with a prefix and without, in turns. Prints a line
of JSON: seconds of a step without, the median ratio of seconds and of process seconds, which other
work on the machine hardly changes, and the ratio of XLA's FLOPs of a step.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np

from dinado_jax.adapters.prefix import Prefix
from dinado_jax.bench.compiled import compiled, random_params
from dinado_jax.bench.decode import NEVER
from dinado_jax.bench.sizes import SIZES
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.models.architectures import parse_model

PROMPT = 16  # tokens


def sampling(args: argparse.Namespace, positions: int):
    """A call that draws all tokens and times them, and XLA's FLOPs of a step."""
    model = parse_model(SIZES[args.size], args.size)
    params, number = random_params(model), np.arange(args.rows, dtype=np.int32)
    if positions:
        prefix = Prefix(model, positions, shift=False, hidden=1)
        params = prefix.merge(params, prefix.init(jax.random.key(0), params))
        model = prefix.adapted
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (args.rows, PROMPT), np.int32)
    prompts = Prompts(tokens, np.full(args.rows, PROMPT, np.int32))
    sampler = Sampler(ModelPolicy(model), Method(), NEVER, args.length)
    variables, arguments = {"params": params}, (prompts, number, jax.random.key(0))
    prefill, _ = compiled(Sampler.prefill, sampler, variables, *arguments)
    first = jax.block_until_ready(prefill(variables, *arguments))
    loop, figures = compiled(Sampler.decode, sampler, variables, first)

    def seconds() -> tuple[float, float]:
        state = jax.block_until_ready(prefill(variables, *arguments))
        began, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(loop(variables, state))
        return time.perf_counter() - began, time.process_time() - used

    return seconds, figures["counted_flops"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    for name, default in (("rows", 32), ("length", 16), ("positions", 10), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    calls = [sampling(args, positions) for positions in (0, args.positions)]
    for seconds, _ in calls:
        seconds()
    pairs = [[seconds() for seconds, _ in calls] for _ in range(args.repeats)]
    wall, process = (
        statistics.median(other[which] / one[which] for one, other in pairs) for which in (0, 1)
    )
    found = {
        "step_s": round(min(one[0] for one, _ in pairs) / args.length, 4),
        "ratio": round(wall, 3),
        "process_ratio": round(process, 3),
        "flops_ratio": round(calls[1][1] / calls[0][1], 4),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps({**vars(args), **found}))


if __name__ == "__main__":
    main()
