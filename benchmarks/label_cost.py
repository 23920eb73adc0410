"""Labels by the oracle on the host beside labels by its automata on the device.

    python benchmarks/label_cost.py RUN [--repeats 5] [--batch 256]

RUN is a run whose oracle has automata, with finished rollouts. Prints a line of JSON: texts, the
seconds (medians) to decode them to text, to ask the oracle, and for the automata to read their
tokens, with the automata compiled before; and how many labels of each kind differ.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata import progress
from dinado_jax.automata.compiled import conjunctions
from dinado_jax.automata.conjunction import Conjunction, stack
from dinado_jax.data.batch import rows_of
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.artifacts import trained_base, training_prompts
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import run_config


@jax.jit
def accepted(rows: Conjunction, tokens: jax.Array, counts: jax.Array) -> jax.Array:
    """Whether all automata of each row accept the first `counts` [B] of its tokens [B, T]."""

    def read(states: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        token, inside = step
        following = progress.next_states(rows, states, token)
        return jnp.where(inside[:, None], following, states), None

    inside = jnp.arange(tokens.shape[1])[:, None] < counts
    states, _ = jax.lax.scan(read, progress.start_states(rows), (tokens.T, inside))
    row, automata = jnp.arange(len(states))[:, None], jnp.arange(states.shape[1])[None]
    return jnp.asarray(rows.accepting)[row, automata, states].all(1)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="its folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    context = Context.of(run_config(args.run), args.run)
    if context.automata_of is None:
        raise SystemExit("the oracle of this run has no automata")
    base = trained_base(context, context.plan.shard)
    drawn = Rollouts.load(args.run / "rollout" / "rollouts.npz", vocab_size=base.model.vocab_size)
    of_id = training_prompts(context, 0, int(drawn.prompt_id.max()) + 1)
    prompts = [of_id[number] for number in drawn.prompt_id]
    begin, end = drawn.prompt_length, drawn.length - drawn.finished
    new = [row[a:b] for row, a, b in zip(drawn.tokens, begin, end, strict=True)]

    distinct, number = np.unique(prompts, return_inverse=True)
    automata = map(context.automata_of, distinct.tolist())
    known = stack(conjunctions(automata, base.codec, base.model.vocab_size))
    width = max(map(len, new))
    tokens = np.stack([np.pad(row, (0, width - len(row))) for row in new])

    def on_device() -> np.ndarray:
        found = []
        for start in range(0, len(tokens), args.batch):
            rows = np.resize(np.arange(start, min(start + args.batch, len(tokens))), args.batch)
            own = rows_of(known, number[rows])
            found.append(np.asarray(accepted(own, tokens[rows], (end - begin)[rows])))
        return np.concatenate(found)[: len(tokens)]

    texts = base.codec.decode(new)
    ask, labels = context.oracle.function, on_device()
    of_oracle = np.asarray(ask(prompts, texts)) > 0.5
    record = {
        "texts": len(texts),
        "decode_s": seconds(lambda: base.codec.decode(new), args.repeats),
        "oracle_s": seconds(lambda: ask(prompts, texts), args.repeats),
        "automata_s": seconds(on_device, args.repeats),
        "only_the_oracle": int((of_oracle & ~labels).sum()),
        "only_the_automata": int((labels & ~of_oracle).sum()),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
