"""Estimates what a run needs by compiling from shapes: no data, weights or arrays."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinado_jax.adapters.make import reserve_positions, sft_adapter
from dinado_jax.automata import progress
from dinado_jax.automata.conjunction import Conjunction, conjunction, stack
from dinado_jax.automata.tokens import containing_token
from dinado_jax.config import schema
from dinado_jax.controls.control import Control
from dinado_jax.controls.make import make_control
from dinado_jax.controls.state import AUTOMATA
from dinado_jax.controls.state_table import StateTable
from dinado_jax.data.batching import take
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.particles import ParticleSampler
from dinado_jax.decoding.refill import draw_queue, prefill_queue, start_rows
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.errors import InputError
from dinado_jax.guides.tilt import Tilt
from dinado_jax.language_model import Base, Controlled
from dinado_jax.models.architectures import configured_model
from dinado_jax.models.dropout import uniform
from dinado_jax.models.params import abstract_params
from dinado_jax.models.protocol import BaseModel
from dinado_jax.objectives.sft import likelihood, with_noise
from dinado_jax.objectives.table import phases
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.automata import with_automata
from dinado_jax.training.optimizer import control_optimizer, optimizer
from dinado_jax.training.step import (
    Batch,
    Terms,
    TrainState,
    init_state,
    make_step,
    split_micro_batches,
)


def _shape(*shape: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _shapes(batch: Batch, accumulate: int) -> Batch:
    """The shapes of a batch in micro-batches."""
    split = split_micro_batches(batch, accumulate)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), split)


def _example_rollouts(length: int) -> Rollouts:
    """Two prompts with a success and a failure each, of which only the shapes matter."""
    rows, zeros = np.arange(4), np.zeros(4, np.float32)
    return Rollouts(
        tokens=np.zeros((4, length), np.int32),
        prompt_length=np.ones(4, np.int32),
        length=np.full(4, length, np.int32),
        label=(rows % 2).astype(np.float32),
        log_base=zeros,
        log_proposal=zeros,
        log_prefix=np.zeros((4, length - 1), np.float32),
        prompt_id=(rows // 2).astype(np.int32),
        finished=np.ones(4, bool),
        round=np.zeros(4, np.int32),
    )


def _cost(function, *args) -> dict[str, float]:
    compiled = function.lower(*args).compile()
    memory = compiled.memory_analysis()
    return {
        "flops_at_least": float(compiled.cost_analysis().get("flops", 0.0)),
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
    }


def check_base(settings: schema.Config, model: BaseModel, tuned: bool = False) -> None:
    """Checks a configuration against the base's context length and parameters.

    Args:
      settings: of the run.
      model: of the base.
      tuned: whether that is the one which the sft stage has written.

    Raises:
      InputError: no room for new tokens, or an adapter does not fit the base.
    """
    if not tuned:
        model = _tuned(settings, model)
    params, room = abstract_params(model), reserve_positions(model, settings)
    abstract_control(make_control(settings, room), params)
    for name, section in (("rollout", settings.rollout), ("decode", settings.decode)):
        if section.max_new_tokens >= room.context_length:
            raise InputError(
                f"{name}.max_new_tokens = {section.max_new_tokens} leaves no room for a prompt in "
                f"the base's {room.context_length} positions: lower it"
                + (" or delta.positions" if room != model else "")
            )


def _tuned(settings: schema.Config, model: BaseModel) -> BaseModel:
    """The model that the sft stage makes. InputError for an adapter that does not fit."""
    if (adapted := sft_adapter(settings.sft, model)) is None:
        return model
    jax.eval_shape(adapted.adapter.init, jax.random.key(0), abstract_params(model))
    return adapted.model


def abstract_control(control: Control, base_params: Any) -> Any:
    """Returns the shapes of a control's parameters. InputError if they do not fit the base."""
    return jax.eval_shape(lambda: control.init(jax.random.key(0), base_params, 0.5))


def _zeros(tree):
    """Zeros of the tree's shapes; under `eval_shape` nothing is allocated."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def training(
    settings: schema.Config, control: Control, params: Any, length: int
) -> tuple[tuple[Terms, optax.GradientTransformation], TrainState, Batch]:
    """Returns the arguments of `make_step` in stage train, and the shapes of state and batch."""
    control_params = abstract_control(control, params)
    transform = control_optimizer(settings.train)
    evaluated = settings.train.held_out > 0
    state = jax.eval_shape(lambda: init_state(_zeros(control_params), transform, evaluated))
    _, objective = phases(settings.train)[-1]
    rollouts = _example_rollouts(length)
    batch_at = objective.batches(rollouts, np.ones(4), settings.seed)
    if control.state is not None:
        automata = _example_automata(control.model.vocab_size)
        batch_at = with_automata(batch_at, automata, np.zeros(len(rollouts), int))
    batch = batch_at(0)
    terms = functools.partial(objective.terms, control)
    return (terms, transform), state, _shapes(batch, settings.train.accumulate)


def _example_automata(vocab_size: int) -> Conjunction:
    """Those of one prompt that asks for five tokens."""
    has = [containing_token(v, vocab_size) for v in range(1, min(6, vocab_size))]
    return stack([conjunction(has, [0])])


def _sft_step(settings: schema.Sft, model: BaseModel, length: int) -> dict[str, float]:
    params = abstract_params(model)
    adapter, adapted = sft_adapter(settings, model) or (None, model)
    transform = optimizer(settings, settings.steps)

    def init(params):
        trainable = params if adapter is None else adapter.init(jax.random.key(0), params)
        return init_state(trainable, transform)

    rows, dropout = take(_example_rollouts(length), np.zeros(settings.batch, int)), None
    if settings.dropout != "none":  # guided: at the most that a site can have
        gaussian = settings.dropout == "gaussian"
        dropout = uniform(model.dropout_sites, settings.dropout_rate, gaussian)
        rows = with_noise(lambda _: rows, 0)(0)
    step = make_step(functools.partial(likelihood, adapted, adapter, dropout=dropout), transform)
    frozen = None if adapter is None else params
    return _cost(step, jax.eval_shape(init, params), frozen, _shapes(rows, settings.accumulate))


def _prompts(sampling: schema.Sampling, rows: int, length: int, state: bool) -> Prompts:
    """The shapes of the prompts of a call that decodes.

    Args:
      sampling: how.
      rows: of each prompt.
      length: tokens of a prompt with its new ones.
      state: whether a guide reads the automata of each prompt.
    """
    count, tokens = max(1, sampling.batch // rows), max(1, length - sampling.max_new_tokens)
    condition = {AUTOMATA: _shape(count)} if state else None
    return Prompts(_shape(count, tokens), _shape(count), condition)


def _with_automata(params: dict[str, Any], prompts: Prompts, vocab_size: int) -> dict[str, Any]:
    """The shapes of a guide's parameters, with the automata of the prompts if it reads them."""
    if prompts.condition is None:
        return params
    count, own = prompts.lengths.shape, _example_automata(vocab_size)
    automata = jax.tree.map(lambda x: _shape(*count, *x.shape[1:], dtype=x.dtype), own)
    return params | {AUTOMATA: automata}


def _sample_calls(
    model: Controlled, settings: schema.Rollout, length: int
) -> dict[str, dict[str, float]]:
    """The calls that draw samples of a control, as in each round of training.

    Args:
      model: the control and its base, with shapes in place of arrays.
      settings: how.
      length: tokens of a prompt with its new ones.
    """
    control = model.control
    assert isinstance(control, Control)
    prompts = _prompts(settings, settings.samples, length, control.state is not None)
    own = _with_automata(model.params, prompts, control.model.vocab_size)
    variables = jax.eval_shape(control.policy_variables, model.base.params, own)
    sampler = Sampler(
        control.policy,
        Method(settings.temperature, settings.top_k, settings.top_p),
        (0,),
        settings.max_new_tokens,
        settings.samples,
    )
    number = _shape(*prompts.lengths.shape)
    arrays = prompts, number, number, _key()
    queue = jax.eval_shape(functools.partial(prefill_queue, sampler), variables, *arrays)
    busy = jax.eval_shape(functools.partial(start_rows, sampler), queue)
    return {
        "prefill_call": _cost(prefill_queue, sampler, variables, *arrays),
        "decode_call": _cost(draw_queue, sampler, variables, busy, queue, _shape(dtype=jnp.bool_)),
    }


def _particle_calls(
    model: Controlled, sampling: schema.Sampling, particles: int, length: int, state: bool
) -> dict[str, dict[str, float]]:
    """The calls that draw particles of each prompt under a guide that reads the state or does not;
    the other arguments as for `_sample_calls`.
    """
    prompts = _prompts(sampling, particles, length, state)

    def variables(base_params: Any, own: Any) -> dict[str, Any]:
        base = dataclasses.replace(model.base, params=base_params)
        return dataclasses.replace(model, base=base, params=own).for_particles().variables

    own = _with_automata(model.params, prompts, model.base.model.vocab_size)
    shapes = jax.eval_shape(variables, model.base.params, own)
    policy = model.for_particles().policy
    sampler = ParticleSampler(policy, (0,), sampling.max_new_tokens, particles)
    arrays = prompts, _shape(*prompts.lengths.shape), _key()
    begun = jax.eval_shape(functools.partial(ParticleSampler.prefill, sampler), shapes, *arrays)
    return {
        "prefill_call": _cost(ParticleSampler.prefill, sampler, shapes, *arrays),
        "decode_call": _cost(ParticleSampler.decode, sampler, shapes, begun),
    }


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def dry_run(settings: schema.Config) -> dict[str, Any]:
    """Parameters, FLOPs and bytes of one sft step, unless the run has none, of one training step,
    and of one call that decodes, also of one that draws particles, where the run does.

    All on one device, whatever `parallel` says. Bytes are XLA's own and exact. Its count of FLOPs
    takes the body of a loop once, hence flops_at_least; forward_flops_per_token counts the matrix
    products of one pass by hand. With control.state every prompt has five automata of two states.
    Particles are those of the control alone, without decode.guarantee and decode.hmm.
    """
    start = configured_model(settings.base)
    check_base(settings, start)
    model = reserve_positions(_tuned(settings, start), settings)
    params = abstract_params(model)
    control = make_control(settings, model)
    control_params = abstract_control(control, params)

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    length = min(settings.sft.max_length, model.context_length)
    rollout, decode, particles = settings.rollout, settings.decode, settings.train.particles
    out: dict[str, Any] = {
        "parameters": count(params),
        "trainable_parameters": count(control_params),
        "forward_flops_per_token": model.flops_per_token,
    }
    if settings.sft.steps + settings.sft.pretrain_steps:
        out["sft_step"] = _sft_step(settings.sft, start, length)
    step, state, rows = training(settings, control, params, max(length, 1 + rollout.max_new_tokens))
    out["train_step"] = _cost(make_step(*step), state, params, rows)
    base = Base(model, params, Path())
    controlled = Controlled(base, control, control_params, Tilt.of(decode))
    out |= _sample_calls(controlled, rollout, length)
    if particles and control.state is not None:
        table = StateTable(model, control.state)
        shape = control.state.max_new_tokens + 1, progress.COUNT
        rates = jax.eval_shape(table.init, _shape(*shape, dtype=jnp.float32))
        guided = Controlled(base, table, rates)
        out["train_particles"] = _particle_calls(guided, rollout, particles, length, state=True)
    if decode.particles:
        out["decode_particles"] = _particle_calls(
            controlled, decode, decode.particles, length, state=control.state is not None
        )
    return out
