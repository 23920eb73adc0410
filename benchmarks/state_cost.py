"""What reading the state of an oracle adds to a decoding step.

    python benchmarks/state_cost.py [--size gpt2] [--rows 32] [--length 16] [--keywords 5]

Samples under random merge controls with state and without, in turns, at the shape of a well-known
model: each row has a prompt of its own that asks for other keywords, spelled by tokens of random
words. Prints a line of JSON: seconds of a step (medians), the ratio (median of pairs), and XLA's
FLOPs of a step.
"""

import argparse
import json
import random
import statistics
import time

import jax
import numpy as np

from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.sentence_end import SENTENCE_END
from dinado_jax.automata.tokens import TokenAutomaton, Vocabulary, token_automaton
from dinado_jax.bench.compiled import compiled, random_params
from dinado_jax.bench.decode import NEVER
from dinado_jax.bench.sizes import SIZES
from dinado_jax.config import schema
from dinado_jax.controls.make import make_control
from dinado_jax.controls.state import AUTOMATA
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.models.architectures import parse_model
from dinado_jax.tasks.keyword.automaton import words_automaton

PROMPT = 8  # tokens


def random_vocabulary(size: int) -> tuple[list[str], Vocabulary]:
    """Random words, and tokens that are these after a space; the last token is a full stop."""
    draw = random.Random(0)
    words = ["".join(draw.choices("aeioustrlnmdk", k=draw.randint(3, 8))) for _ in range(size - 1)]
    return words, Vocabulary.of([*(" " + word for word in words), "."])


def keyword_automata(vocab_size: int, rows: int, keywords: int) -> list[list[TokenAutomaton]]:
    """Those of each row: its own keywords, five forms of each."""
    words, vocabulary = random_vocabulary(vocab_size)
    draw, own = random.Random(1), []
    for _ in range(rows):
        forms = [
            frozenset((word + ending,) for ending in ("", "s", "ed", "ing", "er"))
            for word in draw.sample(words, keywords)
        ]
        own.append([token_automaton(words_automaton(each), vocabulary) for each in forms])
    return own


def sampling(size: str, rows: int, length: int, keywords: int):
    """A call that draws all tokens, and XLA's FLOPs of a step."""
    model = parse_model(SIZES[size], size)
    settings = schema.Control(kind="merge", state=keywords > 0)
    config = schema.Config(control=settings, rollout=schema.Rollout(max_new_tokens=length))
    control = make_control(config, model)
    base = random_params(model)
    params = control.init(jax.random.key(1), base, 0.5)
    number = np.arange(rows, dtype=np.int32)
    condition = None
    if keywords:
        ends = token_automaton(SENTENCE_END, random_vocabulary(model.vocab_size)[1])
        own = keyword_automata(model.vocab_size, rows, keywords)
        params[AUTOMATA] = jax.device_put(stack([conjunction(each, [0], ends) for each in own]))
        condition = {AUTOMATA: number}
    variables = jax.jit(control.policy_variables, donate_argnums=0)(base, params)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (rows, PROMPT), np.int32)
    prompts = Prompts(tokens, np.full(rows, PROMPT, np.int32), condition)
    sampler = Sampler(control.policy, Method(), NEVER, length)
    arguments = variables, prompts, number, jax.random.key(0)
    prefill, _ = compiled(Sampler.prefill, sampler, *arguments)
    first = jax.block_until_ready(prefill(*arguments))
    loop, figures = compiled(Sampler.decode, sampler, variables, first)

    def seconds() -> float:
        state = jax.block_until_ready(prefill(*arguments))
        started = time.perf_counter()
        jax.block_until_ready(loop(variables, state))
        return (time.perf_counter() - started) / length

    return seconds, figures["counted_flops"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--keywords", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    calls = [sampling(args.size, args.rows, args.length, count) for count in (0, args.keywords)]
    for seconds, _ in calls:
        seconds()
    pairs = [[seconds() for seconds, _ in calls] for _ in range(args.repeats)]
    without, with_state = (statistics.median(each) for each in zip(*pairs))
    record = {
        **vars(args),
        "step_s": round(without, 4),
        "step_with_state_s": round(with_state, 4),
        "ratio": round(statistics.median(b / a for a, b in pairs), 3),
        "flops_ratio": round(calls[1][1] / calls[0][1], 4),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
