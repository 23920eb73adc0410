"""Decoding loops: sampling under a control, and rollouts judged by an oracle on the host."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.bench.compiled import base_model, compiled, device_peak
from dinado_jax.bench.measure import Program, Request, oracle
from dinado_jax.bench.train import control_of
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import Policy, Trunk
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.models.gpt2 import init_params
from dinado_jax.oracles.judge import judge

NEVER = -1  # as eos: every row runs to its full length


def policy_of(request: Request) -> tuple[Policy, dict]:
    """A fresh model's policy and variables: decoding costs what it costs with a trained one."""
    model = base_model(request)
    base = init_params(model.config, 0)
    if request.variant == "base":
        return Trunk(model), {"params": base}
    control = control_of(request, model)
    params = jax.jit(lambda: control.init(jax.random.key(1), base, 0.5))()
    compose = jax.jit(control.composed, donate_argnums=0)  # never two of the base at once
    return control.policy, compose(base, params)


def prompts_of(request: Request) -> np.ndarray:
    """Random tokens, int32 [rows / samples, prompt]."""
    shape = request.batch // request.samples, request.prompt
    return np.random.default_rng(0).integers(0, request.model["vocab_size"], shape, np.int32)


def sizes(request: Request, policy: Policy, variables: dict) -> dict[str, int]:
    """Bytes: that a step reads at least (all parameters, and the caches as full as they are
    halfway), of the logits, and of one layer's whole cache."""
    count = request.batch // request.samples
    tokens = jax.ShapeDtypeStruct((count, request.prompt), jnp.int32)
    ends = jax.ShapeDtypeStruct((count,), jnp.int32)
    halfway = request.samples, request.length // 2
    _, carry = jax.eval_shape(
        lambda *given: policy.prefill(*given, *halfway), variables, tokens, ends
    )
    width = request.model["n_embd"] * jnp.dtype(request.dtype).itemsize
    slots = count * request.prompt + request.batch * (request.length - 1)
    return {
        "step_bytes": sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves((variables, carry))
        ),
        "logits_bytes": 4 * request.batch * request.model["vocab_size"],
        "cache_layer_bytes": 2 * slots * width,
    }


def program(request: Request) -> Program:
    """decode: one call of the sampler. rollout: all of it, from lists of prompts to labels. XLA's
    figures are the decoding loop's, without the prefill."""
    policy, variables = policy_of(request)
    method = Method(top_k=request.top_k, top_p=request.top_p)
    sampler = Sampler(policy, method, NEVER, request.length, request.samples)
    prompts, key = prompts_of(request), jax.random.key(0)
    count = len(prompts)
    rest = prompts, np.full(count, request.prompt, np.int32), np.arange(count, dtype=np.int32), key
    prefill, first = compiled(Sampler.prefill, sampler, variables, *rest)
    loop, figures = compiled(Sampler.decode, sampler, variables, prefill(variables, *rest))
    figures["compile_s"] = round(figures["compile_s"] + first["compile_s"], 2)

    def decode():
        _, drawn = loop(variables, prefill(variables, *rest))
        return jax.block_until_ready(drawn).tokens

    def rollout():
        drawn = sample_prompts(sampler, variables, prompts.tolist(), key, request.batch)
        rows = np.repeat(prompts, request.samples, 0).tolist()
        return judge(oracle, rows, drawn.tokens.tolist()).labels

    run = decode if request.what == "decode" else rollout
    return Program(run, figures | sizes(request, policy, variables), device_peak)
