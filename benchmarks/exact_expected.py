"""Minimises the published objective's expected loss over a whole world, whatever the proposal.

    python benchmarks/exact_expected.py [--variants merge soft] [--seeds 20 21 ..] [--steps 15000]

The proposal is random with full support; there is no sampling and there are no importance weights:
R* is the only solution of terminal cross entropy and exact Bellman residuals under any proposal.
Prints a line of JSON per control and seed, with max |R - R*|; each takes about 2 minutes on a core.
"""

import argparse
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinado_jax.config.schema import Train
from dinado_jax.data.batching import take
from dinado_jax.exact.compare import WORLDS, setting
from dinado_jax.exact.measure import measure
from dinado_jax.objectives.published import Published, PublishedBatch


def run(variant: str, seed: int, steps: int) -> dict:
    world = dataclasses.replace(WORLDS["table"], seed=seed)
    case = setting("table", world, variant, seed)
    rows = take(world.rows, np.arange(len(world.rows)))
    batch = PublishedBatch(
        **vars(rows),
        label=case.optimum.label,
        suffix=np.ones(world.inside.shape, np.float32),
        bellman=np.ones(len(world.rows), np.float32),
    )
    proposal = np.random.default_rng((seed, 5)).dirichlet(np.ones(len(world.rows)))
    objective = Published(Train())

    def loss(params):
        def of_row(row):
            one = jax.tree.map(lambda leaf: leaf[None], row)
            terms = objective.terms(case.control, params, case.base_params, one)
            return sum(term.sum for term in terms.values())

        return (jnp.asarray(proposal) * jax.vmap(of_row)(batch)).sum()

    optimizer = optax.adam(optax.cosine_decay_schedule(0.3, steps), b2=0.99)

    @jax.jit
    def train(params):
        def step(state, _):
            params, opt_state = state
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
        return params, values[-1]

    fresh = case.control.init(jax.random.key(seed), case.base_params, 0.5)
    params, last = train(fresh)
    figures = measure(world, case.optimum, case.control, case.base_params, params)
    return {"variant": variant, "seed": seed, "steps": steps, "loss": float(last), **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    both = ["merge", "soft"]
    parser.add_argument("--variants", nargs="+", choices=both, default=both)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--steps", type=int, default=15_000)
    args = parser.parse_args()
    for variant in args.variants:
        for seed in args.seeds:
            print(json.dumps(run(variant, seed, args.steps)), flush=True)


if __name__ == "__main__":
    main()
