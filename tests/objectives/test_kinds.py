"""Every loss on every kind of control: gradients, finiteness, and rest where R is right."""

import functools

import chex
import jax
import numpy as np
import pytest
from support import tiny, world

from dinado_jax.config.schema import Train
from dinado_jax.objectives.consistency import ConsistencyBatch
from dinado_jax.objectives.contrastive import ContrastBatch
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.objectives.draws import LabeledBatch, NormBatch
from dinado_jax.objectives.policy_iteration import NewestBatch, PolicyIterationBatch
from dinado_jax.objectives.ppo import PolicyBatch
from dinado_jax.objectives.published import PublishedBatch
from dinado_jax.objectives.ratio import RatioBatch
from dinado_jax.objectives.regression import TargetBatch
from dinado_jax.objectives.reinforce import RewardBatch
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.objectives.variance import GroupBatch
from dinado_jax.objectives.warmup import Warmup

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LAMBDA = 0.7
CASES = {  # objective, kind of control, train.detach
    **{f"published {kind}": ("published", kind, False) for kind in world.DISTINCT},
    "matching detached nado": ("matching", "nado", True),
    "matching detached soft": ("matching", "soft-low_rank", True),
    "matching soft": ("matching", "soft-small", False),
    "matching clamped": ("matching", "clamped-merge", False),
    "matching detached projected": ("matching", "projected-nado", True),
    "ratio merge": ("ratio", "merge", False),
    "ratio detached projected": ("ratio", "projected-soft", True),
    "regression detached soft": ("regression", "soft-small", True),
    "regression detached clamped": ("regression", "clamped-soft", True),
    "regression projected": ("regression", "projected-merge", False),
    "variance detached soft": ("variance", "soft-small", True),
    "variance projected": ("variance", "projected-merge", False),
    "reinforce detached soft": ("reinforce", "soft-small", True),
    "reinforce projected": ("reinforce", "projected-merge", False),
    "contrastive soft": ("contrastive", "soft-small", False),
    "contrastive detached nado": ("contrastive", "nado", True),
    "ppo detached soft": ("ppo", "soft-small", True),
    "ppo projected": ("ppo", "projected-merge", False),
    "consistency soft": ("consistency", "soft-small", False),
    "consistency clamped": ("consistency", "clamped-merge", False),
    "policy_iteration soft": ("policy_iteration", "soft-small", False),
    "policy_iteration merge": ("policy_iteration", "merge", False),
    "prefixes nado": ("prefixes", "nado", False),
    "prefixes projected": ("prefixes", "projected-merge", False),
    "warm-up projected": ("warmup", "projected-merge", False),
}
cases = pytest.mark.parametrize("case", CASES)
# A gradient that is stopped within a term is no slope: see the tests of the objective itself.
STOPPED = ("consistency", "policy_iteration", "reinforce")
SLOPES = [case for case, (name, *_) in CASES.items() if name not in STOPPED]
# Targets of many tokens, of one, an eos alone after the prompt, no target, and a row of one token.
TARGET = np.float32([-14, -3, -4, -1, -2, 0])
RATIO = np.float32([1, 0, 2, 0.5, 1, 0])
PROPOSAL = np.float32([-9, -5, -1, 0, np.inf, 0])  # nats; inf: a reference
STARTS, ENDS = [1, 2, 4, 3, 1, 1], [8, 6, 5, 3, 2, 1]
B, WIDTH = len(STARTS), 8
RARE = np.full(B, -20, np.float32)  # log R0 so low that values exceed 1 only far out


def objective(case):
    name, _, detach = CASES[case]
    return (OBJECTIVES | {"warmup": Warmup})[name](Train(detach=detach))


def detached(case):
    _, kind, detach = CASES[case]
    return detach and not world.control(kind).entangled


def rows(label, seed=0):
    tokens = np.random.default_rng(seed).integers(0, world.V, (B, WIDTH)).astype(np.int32)
    tokens[4, 1] = world.EOS
    return LabeledBatch(
        tokens=tokens,
        prompt_length=np.int32(STARTS),
        length=np.int32(ENDS),
        label=np.float32(label),
    )


def batch(case, label):
    name, part = CASES[case][0], rows(label)
    if name == "warmup":
        return part
    suffix = np.random.default_rng(1).gamma(2, 1, (B, WIDTH - 1)).astype(np.float32)
    given = {**vars(part), "suffix": suffix, "bellman": np.full(B, LAMBDA, np.float32)}
    if name == "published":
        return PublishedBatch(**given)
    rate, shift = np.float32([0.2, 0.01, 0.9, 0.5, 0, 1]), np.full(B, 1.5, np.float32)
    norm = NormBatch(**given, rate=rate, shift=shift)
    if name == "prefixes":
        return norm
    if name == "consistency":
        return ConsistencyBatch(
            **vars(part),
            target=TARGET,
            log_rate=RARE,
            optimal_ratio=RATIO,
            log_proposal=PROPOSAL,
            bellman=given["bellman"],
        )
    if name == "policy_iteration":
        newest = NewestBatch(
            **vars(part),
            log_label=np.log(np.maximum(part.label, np.float32(1e-3))),
            log_weight=np.random.default_rng(4).normal(-3, 3, (B, WIDTH - 1)).astype(np.float32),
            of_base=np.float32([0, 1] * 3),
            bellman=given["bellman"],
        )
    part = rows(np.maximum(label, 0.2), seed=2)
    if name in ("regression", "policy_iteration"):
        part = TargetBatch(
            **vars(part),
            target=TARGET,
            log_rate=RARE,
            optimal_ratio=RATIO,
            log_proposal=PROPOSAL,
        )
    if name == "policy_iteration":
        return PolicyIterationBatch(rows=part, newest=newest)
    if name == "reinforce":
        given = {field: value for field, value in vars(part).items() if field != "label"}
        part = RewardBatch(
            **given, level=TARGET + 3, log_proposal=np.float32([-9, -5, -1, 0, 1, 0])
        )
    if name == "variance":  # two groups, the first four rows and the last four
        part = jax.tree.map(lambda x: x[[0, 1, 2, 3, 2, 3, 4, 5]], part)
        part = GroupBatch(**vars(part), target=TARGET[[0, 1, 2, 3, 2, 3, 4, 5]])
    if name in ("contrastive", "ppo"):
        given = {field: value for field, value in vars(part).items() if field != "label"}
        log_ratio = np.random.default_rng(3).normal(0, 1, (B, WIDTH - 1)).astype(np.float32)
    if name == "contrastive":  # one group
        part = ContrastBatch(**given, log_weight=log_ratio)
        part = jax.tree.map(lambda x: x[[0, 1, 2, 3, 2, 3, 4, 5]], part)
    if name == "ppo":
        part = PolicyBatch(**given, log_ratio=log_ratio, advantage=TARGET + 3)
    if name == "ratio":
        given = {field: value for field, value in vars(part).items() if field != "label"}
        part = RatioBatch(
            **given,
            optimal_ratio=RATIO,
            log_proposal=PROPOSAL,
        )
    return TwoPartBatch(direction=part, norm=norm)


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradient(objective, control, params, batch):
    """Of the loss: {term: value}, and the gradient of their sum."""

    def loss(params):
        terms = objective.terms(control, params, world.base_params(), batch)
        parts = {name: term.coefficient * term.sum for name, term in terms.items()}
        return sum(parts.values()), parts

    gradient, parts = jax.grad(loss, has_aux=True)(params)
    return parts, gradient


def loss_of(case):
    return functools.partial(value_and_gradient, objective(case), world.control(CASES[case][1]))


@pytest.mark.parametrize("case", SLOPES)
def test_gradients_against_finite_differences(case):
    """Along random directions through all parameters at once."""
    of, params = loss_of(case), world.params(CASES[case][1], 0.2)
    given = batch(case, [1, 0, 0.5, 1, 1, 0])
    _, gradient = of(params, given)
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
            moved = jax.tree.unflatten(structure, moved)
            parts, _ = of(moved, given)
            if detached(case):  # the norm's terms see the direction as a constant
                still, _ = of({**moved, "direction": params["direction"]}, given)
                parts = {**still, "direction": parts["direction"]}
            return float(sum(parts.values()))

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
    for params in hard_params(CASES[case][1]):
        for label in (np.zeros(B), np.ones(B)):
            chex.assert_tree_all_finite(loss_of(case)(params, batch(case, label)))


@pytest.mark.parametrize("kind", world.DISTINCT)
def test_published_is_at_rest_where_r_is_right(kind):
    """An oracle that gives every text the same number: R* is that number everywhere, q* = p."""
    rate = 0.5 if kind == "nado" else tiny.SUCCESS_RATE
    case, params = f"published {kind}", world.fresh(kind)
    given = batch(case, np.full(B, rate))
    # The row without a target has no R to be right.
    given = given.replace(length=np.maximum(given.length, given.prompt_length + 1))
    _, gradient = loss_of(case)(params, given)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, np.zeros_like(leaf), atol=2e-5)
    _, other = loss_of(case)(params, given.replace(label=0 * given.label))
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(other)) > 0.05
