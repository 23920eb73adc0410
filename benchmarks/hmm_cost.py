"""What an HMM costs: an epoch of EM, and what the guide adds to a decoding step.

    python benchmarks/hmm_cost.py em [--states 1024] [--sequences 100000] [--length 32]
    python benchmarks/hmm_cost.py guide [--size gpt2] [--rows 32] [--states 128] [--keywords 3]
        [--unseen 0]

`em` times some batches of random tokens and extrapolates. `guide` samples a base of the shape of a
well-known model with the guide and without, in turns; each row has a prompt of its own that asks
for other keywords, spelled by tokens of random words. `--unseen` tokens of the HMM are as rare as
those that no sample has. Each prints a line of JSON; process seconds are those of all cores
together, which other work on the machine hardly changes.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np
from state_cost import PROMPT, keyword_automata

from dinado_jax.automata.joint import product
from dinado_jax.bench.compiled import compiled, random_params
from dinado_jax.bench.decode import NEVER
from dinado_jax.bench.sizes import SIZES
from dinado_jax.config.schema import Parallel
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.guides.guided import guided_policy, guided_variables
from dinado_jax.guides.hmm import KEY, hmm_guide
from dinado_jax.guides.tilt import NEUTRAL
from dinado_jax.hmm import em
from dinado_jax.hmm.model import Hmm, Rows, random_hmm
from dinado_jax.models.architectures import parse_model


def timed(call) -> tuple[float, float]:
    """Seconds of a call, and process seconds."""
    began, used = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - began, time.process_time() - used


def of_em(args: argparse.Namespace) -> dict:
    plan, hmm = make_plan(Parallel()), random_hmm(args.states, args.vocabulary, 0)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, args.vocabulary, (args.batch, args.length)).astype(np.int32)
    rows = Rows(tokens, np.full(args.batch, args.length, np.int32))
    step, frozen = em.make_step(plan), plan.shard(hmm)
    ((_, batch),) = em.batches(rows, args.batch, plan)
    counts = plan.shard(jax.tree.map(np.zeros_like, hmm))

    def call():
        nonlocal counts
        counts, _ = step(counts, frozen, batch)
        return counts

    call()
    wall, process = (min(each) for each in zip(*(timed(call) for _ in range(args.repeats))))
    batches = args.sequences / args.batch
    return {"epoch_s": round(wall * batches), "epoch_process_s": round(process * batches)}


def without_samples(hmm: Hmm, count: int) -> Hmm:
    """As if no sample had the last `count` tokens: they are the least likely in every state."""
    emission = np.array(hmm.emission)
    emission[len(emission) - count :] = emission.min(0)
    return hmm.replace(emission=emission / emission.sum(0))


def sampling(args: argparse.Namespace, guided: bool):
    """A call that draws all tokens, and XLA's FLOPs of a step."""
    model = parse_model(SIZES[args.size], args.size)
    base, number, condition = random_params(model), np.arange(args.rows, dtype=np.int32), None
    policy, variables = ModelPolicy(model), {"params": base}
    if guided:
        hmm = without_samples(random_hmm(args.states, model.vocab_size, 0), args.unseen)
        own = keyword_automata(model.vocab_size, args.rows, args.keywords)
        guide, arrays = hmm_guide(hmm, [product(each) for each in own], [0], args.length)
        policy = guided_policy(model, [guide], [NEUTRAL])
        variables = guided_variables(base, [guide], [arrays], [NEUTRAL])
        condition = {KEY: number}
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (args.rows, PROMPT), np.int32)
    prompts = Prompts(tokens, np.full(args.rows, PROMPT, np.int32), condition)
    sampler = Sampler(policy, Method(), NEVER, args.length)
    arguments = variables, prompts, number, jax.random.key(0)
    prefill, _ = compiled(Sampler.prefill, sampler, *arguments)
    first = jax.block_until_ready(prefill(*arguments))
    loop, figures = compiled(Sampler.decode, sampler, variables, first)

    def seconds() -> tuple[float, float]:
        state = jax.block_until_ready(prefill(*arguments))
        return timed(lambda: loop(variables, state))

    return seconds, figures["counted_flops"]


def of_guide(args: argparse.Namespace) -> dict:
    calls = [sampling(args, guided) for guided in (False, True)]
    for seconds, _ in calls:
        seconds()
    pairs = [[seconds() for seconds, _ in calls] for _ in range(args.repeats)]
    wall, process = (
        statistics.median(other[which] / one[which] for one, other in pairs) for which in (0, 1)
    )
    return {
        "step_s": round(min(one[0] for one, _ in pairs) / args.length, 4),
        "ratio": round(wall, 3),
        "process_ratio": round(process, 3),
        "flops_ratio": round(calls[1][1] / calls[0][1], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    of = kinds.add_parser("em")
    of.add_argument("--states", type=int, default=1024)
    of.add_argument("--sequences", type=int, default=100_000)
    of.add_argument("--length", type=int, default=32)
    of.add_argument("--vocabulary", type=int, default=50_257)
    of.add_argument("--batch", type=int, default=256)
    of = kinds.add_parser("guide")
    of.add_argument("--size", choices=SIZES, default="gpt2")
    of.add_argument("--rows", type=int, default=32)
    of.add_argument("--length", type=int, default=16)
    of.add_argument("--states", type=int, default=128)
    of.add_argument("--keywords", type=int, default=3)
    of.add_argument("--unseen", type=int, default=0)
    for each in kinds.choices.values():
        each.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    found = of_em(args) if args.what == "em" else of_guide(args)
    print(json.dumps({**vars(args), **found, "device": jax.devices()[0].device_kind}))


if __name__ == "__main__":
    main()
