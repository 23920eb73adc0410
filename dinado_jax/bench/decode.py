"""Decoding loops: sampling under a control, rollouts judged by an oracle, beam search."""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.bench.compiled import base_model, compiled, device_peak, random_params
from dinado_jax.bench.measure import Program, Request, oracle
from dinado_jax.bench.train import control_of
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.decoding.beam import Beam
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy, Policy
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.oracles.judge import judge

NEVER = -1  # as id of the end of text: every row has its full length


def policy_of(request: Request) -> tuple[Policy, dict[str, Any]]:
    """Returns policy and variables of a random model, which decodes as fast as a trained one."""
    model = base_model(request)
    base = random_params(model)
    if request.variant == "base":
        return ModelPolicy(model), {"params": base}
    control = control_of(request, model)
    params = jax.jit(lambda: control.init(jax.random.key(1), base, 0.5))()
    compose = jax.jit(control.policy_variables, donate_argnums=0)  # one copy of the base
    return control.policy, compose(base, params)


def prompts_of(request: Request) -> np.ndarray:
    """Returns random tokens, int32 [rows / samples, prompt]."""
    shape = request.batch // request.samples, request.prompt
    return np.random.default_rng(0).integers(0, request.model["vocab_size"], shape, np.int32)


def sizes(request: Request, policy: Policy, variables: dict[str, Any]) -> dict[str, int]:
    """Returns the bytes read by a step, of its logits, and of the cache of one layer.

    A step reads at least all parameters, and the caches, which are taken as full as they are
    halfway through the loop.
    """
    count, rows = request.batch // request.samples, request.batch * request.beams
    prompts = Prompts(
        jax.ShapeDtypeStruct((count, request.prompt), jnp.int32),
        jax.ShapeDtypeStruct((count,), jnp.int32),
    )
    halfway = rows // count, request.length // 2
    _, carry = jax.eval_shape(
        lambda variables, prompts: policy.prefill(variables, prompts, *halfway), variables, prompts
    )
    width = request.model["n_embd"] * jnp.dtype(request.dtype).itemsize
    slots = count * request.prompt + rows * (request.length - 1)
    return {
        "step_bytes": sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves((variables, carry))
        ),
        "logits_bytes": 4 * rows * request.model["vocab_size"],
        "cache_layer_bytes": 2 * slots * width,
    }


def program(request: Request) -> Program:
    """Returns a program: one call of sampler or beam search, or rollouts from prompts to labels.

    XLA's figures are those of the decoding loop, without the prefill.
    """
    policy, variables = policy_of(request)
    prompts, key = prompts_of(request), jax.random.key(0)
    count = len(prompts)
    batch = Prompts(prompts, np.full(count, request.prompt, np.int32))
    method = Method(top_k=request.top_k, top_p=request.top_p)
    sampler = Sampler(policy, method, NEVER, request.length, request.samples)
    if request.what == "beam":
        loop, arguments = Beam(policy, NEVER, request.length, request.beams), (batch,)
    else:
        loop, arguments = sampler, (batch, np.arange(count, dtype=np.int32), key)
    kind = type(loop)
    prefill, first = compiled(kind.prefill, loop, variables, *arguments)
    steps, figures = compiled(kind.decode, loop, variables, prefill(variables, *arguments))
    figures["compile_s"] = round(figures["compile_s"] + first["compile_s"], 2)

    def decode() -> jax.Array:
        _, out = steps(variables, prefill(variables, *arguments))
        return jax.block_until_ready(out).tokens

    def rollout() -> np.ndarray:
        tokenized = TokenizedPrompts(prompts.tolist())
        drawn = sample_prompts(sampler, variables, tokenized, key, request.batch)
        rows = np.repeat(prompts, request.samples, 0).tolist()
        return judge(cast(Any, oracle), rows, drawn.tokens.tolist()).labels

    run = rollout if request.what == "rollout" else decode
    return Program(run, figures | sizes(request, policy, variables), device_peak)
