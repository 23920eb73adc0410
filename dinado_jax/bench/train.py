"""A training step of the published objective, by the package's step, control and optimiser."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.bench.compiled import base_model, compiled, device_peak, random_params
from dinado_jax.bench.measure import Program, Request
from dinado_jax.config import schema
from dinado_jax.controls.control import Control
from dinado_jax.controls.make import make_control
from dinado_jax.models.protocol import BaseModel
from dinado_jax.objectives.published import Published, PublishedBatch
from dinado_jax.training.optimizer import control_optimizer
from dinado_jax.training.step import init_state, make_step, split_micro_batches


def control_of(request: Request, model: BaseModel) -> Control:
    """Returns the control of a request, with the defaults of a run otherwise."""
    settings = schema.Control(kind=request.variant, layers=request.layers)
    return make_control(schema.Config(control=settings), model)


def rows(request: Request) -> PublishedBatch:
    """Returns full rows of random tokens; every second one is a success.

    "ours" gets the base's hidden states, as training with `train.base_states` does; "trunk too"
    computes them in every step.
    """
    rng = np.random.default_rng(0)
    count, length = request.batch, request.length
    states = rng.standard_normal((count, length, request.model["hidden_size"]), np.float32)
    states = states.astype(jnp.dtype(request.dtype))
    return PublishedBatch(
        tokens=rng.integers(0, request.model["vocab_size"], (count, length)).astype(np.int32),
        prompt_length=np.full(count, request.prompt, np.int32),
        length=np.full(count, length, np.int32),
        label=(np.arange(count) % 2).astype(np.float32),
        suffix=np.ones((count, length - 1), np.float32),
        bellman=np.ones(count, np.float32),
        states=states if request.way == "ours" else None,
    )


def program(request: Request) -> Program:
    """Returns the program of one training step; every run trains on."""
    model, settings = base_model(request), schema.Train()
    control = control_of(request, model)
    transform = control_optimizer(settings)
    base = random_params(model)
    state = init_state(control.init(jax.random.key(1), base, 0.5), transform)
    batch = jax.tree.map(jnp.asarray, split_micro_batches(rows(request), 1))
    step = make_step(functools.partial(Published(settings).terms, control), transform)
    call, figures = compiled(step, state, base, batch)

    def run() -> dict[str, Any]:
        nonlocal state
        state, metrics = jax.block_until_ready(call(state, base, batch))
        return metrics

    trained = sum(leaf.size for leaf in jax.tree.leaves(state.trainable))
    return Program(run, figures | {"trainable_parameters": trained}, device_peak)
