"""Bias and variance of the gradients of DPG and GDC++, published and as this package has them.

    python benchmarks/gradient_noise.py [--worlds table neural] [--rows 64] [--repeats 400]

From `--rows` samples y of q, in the worlds of `dinado exact` with a merge control, the gradient of
KL(q* || q) is estimated as the mean of a(y) grad log q(y):

    DPG        a = q* / q                arXiv 2206.00761 and 2112.00791, with Z = R0 known
    GDC++      a = q* / q - 1            the same with the baseline
    matching   a = q* / q normalised     by its mean over the rows: no Z is needed
    ratio      a = that - 1

by the losses of `objectives/matching.py` and `objectives/ratio.py`. Prints a line of Markdown per
estimate: its variance (trace of the covariance), and the distance of the mean over all repeats from
the gradient by enumeration in standard errors, about 1 without bias.

Tables are taken half way, R*^(1/2) in place of R*, and at q*; the neural control after its warm-up
by likelihood, and at the end of training.
"""

import argparse
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.data.batching import take
from dinado_jax.exact.compare import ROLLOUTS, TRAIN, WORLDS, setting
from dinado_jax.exact.learn import Setting, learn
from dinado_jax.exact.measure import evaluate_sequences
from dinado_jax.objectives.draws import LabeledBatch
from dinado_jax.objectives.matching import Likelihood
from dinado_jax.objectives.ratio import Divergence, RatioBatch

_CHUNK = 4096  # sequences of the enumerated gradient


def points(kind: str, case: Setting) -> Iterator[tuple[str, Any]]:
    """Yields names and parameters of the controls to look at."""
    if kind == "table":
        world, fresh = case.world, case.control.init(jax.random.key(0), case.base_params, 0.5)
        for name, power in (("half way", 0.5), ("q*", 1.0)):
            log_r = np.zeros((world.vocabulary, world.prefixes))
            after = np.log(np.maximum(case.optimum.after, np.exp(-12.0)))
            tokens = world.rows.tokens[:, 1:]
            log_r[tokens[world.inside], world.prefix[world.inside]] = power * after[world.inside]
            yield name, {**fresh, "direction": jnp.float32(log_r)}
        return
    train = TRAIN[kind]
    first = dataclasses.replace(train, steps=train.warmup_direction, rounds=1)
    for name, settings in (("after the warm-up", first), ("trained", train)):
        yield name, learn(case, settings, ROLLOUTS[kind], "success_rate", 0)[0]


def gradient_of(case: Setting) -> tuple[Any, Any]:
    """Returns the functions (params, rows [B], a [B]) -> gradient [P] of matching and of ratio."""

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(loss, params, batch):
        def total(direction):
            moved = {**params, "direction": direction}
            return loss.term(case.control, moved, case.base_params, batch).sum

        leaves = jax.tree.leaves(jax.grad(total)(params["direction"]))
        return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])

    def likelihood(params, index, ratio, log_q):
        rows = vars(take(case.world.rows, index))
        return gradient(Likelihood(), params, LabeledBatch(**rows, label=np.float32(ratio)))

    def divergence(params, index, ratio, log_q):
        rows = vars(take(case.world.rows, index))
        given = {"optimal_ratio": np.float32(ratio), "log_proposal": np.float32(log_q)}
        return gradient(Divergence(), params, RatioBatch(**rows, **given))

    return likelihood, divergence


def measure(case: Setting, params: Any, rows: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Returns variance of each estimate, and its bias in standard errors."""
    log_ratio = evaluate_sequences(case.world, case.control, case.base_params, params)[1].sum(1)
    log_q = case.optimum.log_p + log_ratio
    q, best = np.exp(log_q), case.optimum.q
    likelihood, divergence = gradient_of(case)
    exact, good = 0.0, np.flatnonzero(best > 0)
    for start in range(0, len(good), _CHUNK):
        index = np.resize(good[start : start + _CHUNK], _CHUNK)
        label = np.where(np.arange(_CHUNK) < len(good) - start, best[index], 0.0)
        exact = exact + np.float64(likelihood(params, index, label, None))
    rng, found = np.random.default_rng(0), {}
    for _ in range(repeats):
        index = rng.choice(len(q), rows, p=q / q.sum())
        a = best[index] / q[index]
        normalised = a / a.mean() if a.any() else a
        for name, loss, ratio in (
            ("DPG", likelihood, a),
            ("GDC++", divergence, a),
            ("matching", likelihood, normalised),
            ("ratio", divergence, normalised),
        ):
            estimate = np.float64(loss(params, index, ratio, log_q[index])) / rows
            found.setdefault(name, []).append(estimate)
    out = {}
    for name, estimates in found.items():
        variance = np.var(estimates, axis=0, ddof=1).sum()
        off = np.linalg.norm(np.mean(estimates, axis=0) - exact)
        out[name] = variance, off / np.sqrt(variance / repeats)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--worlds", nargs="+", choices=["table", "neural"], default=["table", "neural"]
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=400)
    args = parser.parse_args()
    print("| world | q | KL(q*, q) | estimate | variance | bias / standard error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in args.worlds:
        case = setting(kind, WORLDS[kind], "merge", 0)
        for point, params in points(kind, case):
            log_ratio = evaluate_sequences(case.world, case.control, case.base_params, params)[1]
            good, best = case.optimum.q > 0, case.optimum.q
            log_q = case.optimum.log_p + log_ratio.sum(1)
            kl = (best[good] * (np.log(best[good]) - log_q[good])).sum()
            for name, (variance, bias) in measure(case, params, args.rows, args.repeats).items():
                cells = f"{kl:.3f} | {name} | {variance:.3g} | {bias:.2f}"
                print(f"| {kind} | {point} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
