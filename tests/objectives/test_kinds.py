"""Every loss on every kind of control: gradients, finiteness, and rest where R is right."""

import functools

import chex
import jax
import numpy as np
import pytest
from support import tiny, world

from dinado_jax.objectives.control import (
    Disentangled,
    Published,
    Warmup,
    direction,
    divergence,
    regression,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LAMBDA = 0.7
CASES = {
    **{f"published {kind}": (Published, kind, ()) for kind in world.DISTINCT},
    "likelihood detached nado": (Disentangled, "nado", (direction, True)),
    "likelihood detached soft": (Disentangled, "soft-low_rank", (direction, True)),
    "likelihood soft": (Disentangled, "soft-small", (direction, False)),
    "likelihood clamped": (Disentangled, "clamped-merge", (direction, False)),
    "likelihood detached projected": (Disentangled, "projected-nado", (direction, True)),
    "ratio merge": (Disentangled, "merge", (divergence, False)),
    "ratio detached projected": (Disentangled, "projected-soft", (divergence, True)),
    "regression detached soft": (Disentangled, "soft-small", (regression, True)),
    "regression detached clamped": (Disentangled, "clamped-soft", (regression, True)),
    "regression projected": (Disentangled, "projected-merge", (regression, False)),
    "labels nado": (Disentangled, "nado", (None, False)),
    "labels projected": (Disentangled, "projected-merge", (None, False)),
    "warm-up projected": (Warmup, "projected-merge", ()),
}
cases = pytest.mark.parametrize("case", CASES)
# Targets of many tokens, of one, an eos alone after the prompt, no target, and a row of one token.
TARGET = np.float32([-14, -3, -4, -1, -2, 0])
STARTS, ENDS = [1, 2, 4, 3, 1, 1], [8, 6, 5, 3, 2, 1]
B, WIDTH = len(STARTS), 8


def objective(case):
    which, kind, given = CASES[case]
    if which is Warmup:
        return Warmup(world.control(kind))
    return which(world.control(kind), LAMBDA, *given)


def rows(label, seed=0):
    tokens = np.random.default_rng(seed).integers(0, world.V, (B, WIDTH)).astype(np.int32)
    tokens[4, 1] = world.EOS
    out = {"tokens": tokens, "prompt_length": np.int32(STARTS), "length": np.int32(ENDS)}
    suffix = np.random.default_rng(1).gamma(2, 1, (B, WIDTH - 1)).astype(np.float32)
    return out | {"label": np.float32(label), "suffix": suffix}


def batch(case, label):
    part = rows(label)
    if CASES[case][0] is not Disentangled:
        return part
    rate = np.float32([0.2, 0.01, 0.9, 0.5, 0, 1])
    norm = {**part, "shift": np.full(B, 1.5, np.float32), "rate": rate}
    proposal = np.float32([-9, -5, -1, 0, np.inf, 0])
    share = np.float32([1, 0, 2, 0.5, 1, 0])
    part = rows(np.maximum(label, 0.2), seed=2)
    return {
        "norm": norm,
        "direction": {**part, "share": share, "log_proposal": proposal, "target": TARGET},
    }


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(objective, params, frozen, batch):
    """Of the loss, and the loss with what `detach` holds still taken from `frozen`."""

    def loss(params):
        terms = objective.terms(params, world.base_params(), batch)
        parts = {name: term.coefficient * term.sum for name, term in terms.items()}
        return sum(parts.values()), parts

    gradient, moving = jax.grad(loss, has_aux=True)(params)
    if getattr(objective, "detach", False) and not objective.control.entangled:
        _, still = loss({**params, "direction": frozen["direction"]})
        moving = {**still, **{k: v for k, v in moving.items() if k == "direction"}}
    return sum(moving.values()), gradient


@cases
def test_gradients_against_finite_differences(case):
    """Along random directions through all parameters at once."""
    of, params = objective(case), world.params(CASES[case][1], 0.2)
    given = batch(case, [1, 0, 0.5, 1, 1, 0])
    _, gradient = value_and_gradient(of, params, params, given)
    leaves, structure = jax.tree.flatten(params)
    slopes = [np.float64(leaf) for leaf in jax.tree.leaves(gradient)]
    norm = np.sqrt(sum((slope**2).sum() for slope in slopes))
    assert norm > 0.1
    rng = np.random.default_rng(0)
    for _ in range(4):
        noise = [rng.standard_normal(leaf.shape) * norm / 10 for leaf in leaves]
        # Half along the gradient, so that the slope is far above rounding.
        tangent = [x + slope for x, slope in zip(noise, slopes)]
        length = np.sqrt(sum((x**2).sum() for x in tangent))
        tangent = [min(0.01, 0.1 / norm) * x / length for x in tangent]

        def at(sign, tangent=tangent):
            moved = [np.float32(x + sign * dx) for x, dx in zip(leaves, tangent)]
            value, _ = value_and_gradient(of, jax.tree.unflatten(structure, moved), params, given)
            return float(value)

        slope = sum((x * dx).sum() for x, dx in zip(slopes, tangent))
        assert (at(1) - at(-1)) / 2 == pytest.approx(slope, rel=0.03, abs=2e-5)


def hard_params(kind):
    """Sure and wrong, far out, and both."""
    plain, far = world.params(kind, 0.2), world.params(kind, 30.0)
    yield world.fresh(kind)
    yield {**plain, "direction": far["direction"]}
    if "norm" in plain:
        for bias in (-30.0, 30.0):
            for params in (plain, far):
                norm = {**plain["norm"], "out_bias": np.float32(bias)}
                yield {"direction": params["direction"], "norm": norm}


@cases
def test_nothing_is_ever_nan_or_infinite(case):
    kind = CASES[case][1]
    for params in hard_params(kind):
        for label in (np.zeros(B), np.ones(B)):
            out = value_and_gradient(objective(case), params, params, batch(case, label))
            chex.assert_tree_all_finite(out)


@pytest.mark.parametrize("kind", world.DISTINCT)
def test_published_is_at_rest_where_r_is_right(kind):
    """An oracle that says one number to every text: R* is that number everywhere, q* = p."""
    rate = 0.5 if kind == "nado" else tiny.SUCCESS_RATE
    case, params = f"published {kind}", world.fresh(kind)
    # The row without a target has no R to be right.
    given = rows(np.full(B, rate))
    given["length"] = np.maximum(given["length"], given["prompt_length"] + 1)
    _, gradient = value_and_gradient(objective(case), params, params, given)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, np.zeros_like(leaf), atol=2e-5)
    _, other = value_and_gradient(
        objective(case), params, params, {**given, "label": 0 * given["label"]}
    )
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(other)) > 0.05
