"""What a particle costs in decoding, beside a sample of the same guided base.

    python benchmarks/particle_cost.py [--size gpt2] [--prompts 2] [--particles 16] [--length 16]

Draws as many samples of each prompt as particles, in turns, under a merge control with random
parameters beside the base, at the shape of a well-known model. `--noise` moves the control's
parameters, so that weights differ and particles are resampled. Prints a line of JSON: seconds of a
step (medians), the ratio (median of pairs), XLA's FLOPs and bytes of a step in proportion, and the
share of a prompt's particles that have the first token of the first.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np

from dinado_jax.bench.compiled import compiled, random_params
from dinado_jax.bench.decode import NEVER
from dinado_jax.bench.sizes import SIZES
from dinado_jax.config import schema
from dinado_jax.controls.make import make_control
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.particles import ParticleSampler
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.guides.guided import Guided
from dinado_jax.guides.tilt import NEUTRAL
from dinado_jax.models.architectures import parse_model

PROMPT = 8  # tokens


def noisy(params, scale: float):
    """Parameters moved at random."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [x + scale * jax.random.normal(key, x.shape, x.dtype) for x, key in zip(leaves, keys)]
    return jax.tree.unflatten(tree, moved)


class Drawing:
    """All tokens of some rows, as compiled programs."""

    def __init__(self, sampler, variables, prompts: Prompts):
        number = np.arange(len(prompts.lengths), dtype=np.int32)
        self._arguments = variables, prompts, number, jax.random.key(0)
        self._variables, self._length = variables, sampler.max_new_tokens
        kind = type(sampler)
        self._prefill, _ = compiled(kind.prefill, sampler, *self._arguments)
        first = jax.block_until_ready(self._prefill(*self._arguments))
        self._loop, self.figures = compiled(kind.decode, sampler, variables, first)

    def __call__(self) -> tuple[float, jax.Array]:
        """Seconds of a step, and the tokens."""
        state = jax.block_until_ready(self._prefill(*self._arguments))
        began = time.perf_counter()
        found = jax.block_until_ready(self._loop(self._variables, state))
        seconds = (time.perf_counter() - began) / self._length
        return seconds, found[1].tokens


def drawings(args: argparse.Namespace) -> list[Drawing]:
    """Samples, and particles."""
    model = parse_model(SIZES[args.size], args.size)
    control = make_control(schema.Config(control=schema.Control(kind="merge")), model)
    base = random_params(model)
    params = noisy(control.init(jax.random.key(1), base, 0.5), args.noise)
    guides = (jax.jit(control.decode_params)(params),)
    variables = {"base": base, "guides": guides, "tilts": (NEUTRAL.numbers,)}
    policy = Guided(model, (control,), (NEUTRAL.flags,))
    shape = args.prompts, PROMPT
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, shape, np.int32)
    prompts = Prompts(tokens, np.full(args.prompts, PROMPT, np.int32))
    samplers = (
        Sampler(policy, Method(), NEVER, args.length, args.particles),
        ParticleSampler(policy, NEVER, args.length, args.particles),
    )
    return [Drawing(sampler, variables, prompts) for sampler in samplers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    samples, particles = both = drawings(args)
    _, tokens = [each() for each in both][1]
    first = np.asarray(tokens).reshape(args.prompts, args.particles, -1)[..., 0]
    pairs = [[each()[0] for each in both] for _ in range(args.repeats)]
    record = {
        **vars(args),
        "sample_step_s": round(statistics.median(a for a, _ in pairs), 4),
        "particle_step_s": round(statistics.median(b for _, b in pairs), 4),
        "ratio": round(statistics.median(b / a for a, b in pairs), 3),
        **{
            f"{name}_ratio": round(particles.figures[name] / samples.figures[name], 3)
            for name in ("counted_flops", "temp_bytes")
            if samples.figures.get(name)
        },
        "same_first_token": round(float((first == first[:, :1]).mean()), 3),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
