"""What a run would need, compiled from shapes alone: no data, no weights, no arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from dinado_jax import weights
from dinado_jax.config import Config
from dinado_jax.controls.merge import Merge
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.models.gpt2 import GPT2, GPT2Config, init_params
from dinado_jax.objectives.control import OBJECTIVES
from dinado_jax.objectives.sft import likelihood
from dinado_jax.optim import optimizer
from dinado_jax.train import make_step, start


def _shape(*shape: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _rows(accumulate: int, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    lead = (accumulate, rows // accumulate)
    return {
        "tokens": _shape(*lead, length),
        "prompt_length": _shape(*lead),
        "length": _shape(*lead),
        "label": _shape(*lead, dtype=jnp.float32),
        "shift": _shape(*lead, dtype=jnp.float32),
    }


def _cost(function, *args) -> dict[str, float]:
    compiled = function.lower(*args).compile()
    memory = compiled.memory_analysis()
    return {
        "flops": float(compiled.cost_analysis().get("flops", 0.0)),
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
    }


def model_config(config: Config) -> GPT2Config:
    """The sizes of the base: of its config.json, or of a new model."""
    base = config.base
    if base.path:
        return GPT2Config.from_hf(weights.read_config(weights.locate(base.path)))
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    return GPT2Config(**{name: getattr(base, name) for name in sizes})


def dry_run(config: Config) -> dict[str, Any]:
    """Parameters, FLOPs and bytes of one sft step, one training step and one decoding call."""
    import dataclasses

    gpt2 = dataclasses.replace(
        model_config(config), dtype=config.base.dtype, param_dtype=config.base.param_dtype
    )
    model = GPT2(gpt2)
    params = jax.eval_shape(lambda: init_params(gpt2, 0))
    control = Merge(model, config.delta)
    control_params = jax.eval_shape(lambda: control.init(jax.random.key(0), params, 0.5))

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    length = min(config.sft.max_length, gpt2.n_positions)
    decode = config.rollout
    out = {"parameters": count(params), "trained_values": count(control_params)}
    transform = optimizer(config.sft, config.sft.steps)
    state = jax.eval_shape(lambda: start(params_like(params), transform))

    def sft_terms(trainable, _, batch):
        return likelihood(model, trainable, batch)

    rows = _rows(config.sft.accumulate, config.sft.batch, length)
    out["sft_step"] = _cost(make_step(sft_terms, transform), state, None, rows)
    transform = optimizer(config.train, config.train.steps)
    state = jax.eval_shape(lambda: start(params_like(control_params), transform))
    accumulate, batch = config.train.accumulate, config.train.batch
    if config.train.objective == "matching":
        rows = {part: _rows(accumulate, batch // 2, length) for part in ("direction", "norm")}
    else:
        rows = _rows(accumulate, batch, length)
    objective = OBJECTIVES[config.train.objective](control, config.train.bellman)
    out["train_step"] = _cost(make_step(objective.terms, transform), state, params, rows)
    per_call = max(1, decode.batch // decode.samples)
    prompt = max(1, length - decode.max_new_tokens)
    sampler = Sampler(
        control.policy,
        Method(decode.temperature, decode.top_k, decode.top_p),
        0,
        decode.max_new_tokens,
        decode.samples,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    call = jax.jit(lambda variables, *rest: sampler(variables, *rest))
    arrays = (_shape(per_call, prompt), _shape(per_call), _shape(per_call))
    out["decode_call"] = _cost(call, {"params": params}, *arrays, key)
    return out


def params_like(tree):
    """Zeros of the tree's shapes; under `eval_shape` nothing is allocated."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)
