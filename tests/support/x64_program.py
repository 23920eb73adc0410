"""Computes with JAX's default precision, or with JAX_ENABLE_X64=1: samples, beams, scores, training
steps, and the control of a table. Prints one JSON line."""

import functools
import json

import jax
import numpy as np
import optax

from dinado_jax.config.schema import Train
from dinado_jax.data.batching import take
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.exact.table import table_control
from dinado_jax.exact.world import World
from dinado_jax.language_model import Base, Controlled
from dinado_jax.models.params import init_params
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.objectives.draws import NormBatch
from dinado_jax.objectives.regression import TargetBatch
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.training.step import init_state, make_step, split_micro_batches
from support import world

PROMPTS = [list(prompt) for prompt in world.PROMPTS]
out, dtypes = {}, set()


def noted(tree):
    """The tree's arrays as float lists; every dtype is kept."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dtypes.update(str(leaf.dtype) for leaf in leaves)
    return [round(float(leaf.astype(np.float64).sum()), 3) for leaf in leaves]


base = Base(world.MODEL, world.base_params(), None)
noted(init_params(world.MODEL, 2**32 - 1))
control, params = world.control("projected-merge"), world.params("projected-merge")
tilted = Controlled(base, control, params).tilted(reject=0.01, target_rate=0.9)
method, key = Method(np.float64(0.9), np.int64(4), np.float64(0.95)), jax.random.key(2**32 - 1)
for name, model in (("base", base), ("control", tilted)):
    sampler = Sampler(model.policy, method, (world.EOS,), world.N, 4)
    drawn = sample_prompts(sampler, model.variables, TokenizedPrompts(PROMPTS), key, 12)
    rows = sequences(np.repeat(np.array(PROMPTS, object), 4).tolist(), drawn.tokens.tolist(), 0, 8)
    out[name] = drawn.tokens.tolist()
    out[f"{name} sums"] = noted((drawn, score(model.policy, model.variables, rows, 12)))
beam = Beam(base.policy, (world.EOS,), world.N, 3, 2, 1.0, 2)
found = beam_prompts(beam, base.variables, TokenizedPrompts(PROMPTS), 9)
out["beams"], out["beams sums"] = found.tokens.tolist(), noted(found)
given, ones = vars(world.batch(PROMPTS[0])), np.ones(125, np.float32)
halves = TwoPartBatch(
    direction=TargetBatch(
        **given,
        label=ones,
        target=ones,
        log_rate=ones,
        optimal_ratio=ones,
        log_proposal=ones,
    ),
    norm=NormBatch(
        **given,
        label=ones,
        shift=0 * ones,
        suffix=np.ones((125, world.WIDTH - 1), np.float32),
        rate=ones,
        bellman=ones,
    ),
)
terms, transform = (
    functools.partial(OBJECTIVES["regression"](Train()).terms, control),
    optax.adamw(1e-3),
)
state = init_state(jax.tree.map(np.asarray, params), transform)
state, metrics = make_step(terms, transform)(state, base.params, split_micro_batches(halves, 1))
out["step"] = noted((metrics, state))
small = World(vocabulary=3, length=2)
every = take(small.rows, np.arange(len(small.rows)))
tables = {"table": jax.numpy.asarray(small.tables())}
for kind in ("nado", "merge"):
    control = table_control(small, kind, "split")
    params = control.init(jax.random.key(0), tables, 0.3)
    out[f"table {kind}"] = noted((params, control.values(tables, params, every)))
print(json.dumps({**out, "dtypes": sorted(dtypes), "wide": jax.config.jax_enable_x64}))
