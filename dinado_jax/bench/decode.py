"""Decoding loops: sampling under a control, rollouts judged by an oracle, beam search."""

import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.bench.compiled import base_model, compiled, device_peak, random_params
from dinado_jax.bench.measure import Program, Request, oracle
from dinado_jax.bench.train import control_of
from dinado_jax.data.batch import Batch
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.decoding.batching import restore_order
from dinado_jax.decoding.beam import Beam
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import Carry, ModelPolicy, NextLogits, Policy
from dinado_jax.decoding.refill import draw_queue, iter_refilled, prefill_queue, start_rows
from dinado_jax.decoding.sampler import Sampler, Samples, sample_prompts
from dinado_jax.models.params import abstract_params
from dinado_jax.oracles.judge import judge

NEVER = (-1,)  # as stop tokens: every row has its full length
_END = 0  # the end of text of rows that end at random


@dataclasses.dataclass(frozen=True)
class Ending:
    """A policy with a constant chance of `_END`: a random model hardly ever ends a text."""

    policy: Policy
    chance: float  # in (0, 1)

    @property
    def vocab_size(self) -> int:
        return self.policy.vocab_size

    @property
    def context_length(self) -> int:
        return self.policy.context_length

    def prefill(
        self, variables: Any, prompts: Prompts, samples: int, steps: int
    ) -> tuple[NextLogits, Carry]:
        logits, carry = self.policy.prefill(variables, prompts, samples, steps)
        return self._with_ends(logits), carry

    def step(self, variables: Any, carry: Carry, tokens: jax.Array) -> tuple[NextLogits, Carry]:
        logits, carry = self.policy.step(variables, carry, tokens)
        return self._with_ends(logits), carry

    def log_probs(self, variables: Any, batch: Batch) -> jax.Array:
        return self.policy.log_probs(variables, batch)  # of texts without their end

    def _with_ends(self, logits: NextLogits) -> NextLogits:
        others = jax.nn.logsumexp(logits.policy.at[:, _END].set(-jnp.inf), axis=-1)
        ends = others + math.log(self.chance / (1 - self.chance))
        return logits._replace(policy=logits.policy.at[:, _END].set(ends))


def policy_of(request: Request) -> tuple[Policy, dict[str, Any]]:
    """Returns policy and variables of a random model, which decodes as fast as a trained one."""
    model = base_model(request)
    base = random_params(model)
    if request.variant == "base":
        return ModelPolicy(model), {"params": base}
    control = control_of(request, model)
    params = control.init(jax.random.key(1), base, 0.5)
    compose = jax.jit(control.policy_variables, donate_argnums=0)  # one copy of the base
    return control.policy, compose(base, params)


def prompts_of(request: Request) -> np.ndarray:
    """Returns random tokens, int32 [queues rows / samples, prompt]."""
    shape = request.queues * request.batch // request.samples, request.prompt
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
    slots = count * request.prompt + rows * (request.length - 1)
    model = base_model(request)
    shapes = jax.eval_shape(
        lambda params, tokens: model.apply({"params": params}, tokens).cache,
        abstract_params(model),
        prompts.tokens,
    )
    layer = shapes.prompt[0].k
    width = layer.size // layer.shape[1] // count * layer.dtype.itemsize  # of all heads
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
    count = request.batch // request.samples
    batch = Prompts(prompts[:count], np.full(count, request.prompt, np.int32))
    method = Method(top_k=request.top_k, top_p=request.top_p)
    sampler = Sampler(policy, method, NEVER, request.length, request.samples)
    if request.what == "rollout":
        return _rollouts(request, sampler, variables, prompts)
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

    return Program(decode, figures | sizes(request, policy, variables), device_peak)


def _rollouts(
    request: Request, sampler: Sampler, variables: dict[str, Any], prompts: np.ndarray
) -> Program:
    """Returns rollouts from prompts to labels; its run adds `tokens` and, refilled, `occupancy` to
    the figures.
    """
    tokenized, key = TokenizedPrompts(prompts.tolist()), jax.random.key(0)
    policy, count = sampler.policy, request.batch // request.samples
    if request.ends:
        policy = Ending(policy, request.ends)
        sampler = dataclasses.replace(sampler, policy=policy, stop_ids=(_END,))
    part = tokenized.batch(np.arange(count), _END, request.prompt)
    ids = np.arange(count, dtype=np.int32)
    prefill, first = compiled(prefill_queue, sampler, variables, part, ids, ids, key)
    queue = prefill(variables, part, ids, ids, key)
    rows = start_rows(sampler, queue)
    _, figures = compiled(draw_queue, sampler, variables, rows, queue, np.bool_(True))
    figures["compile_s"] = round(figures["compile_s"] + first["compile_s"], 2)
    figures |= sizes(request, policy, variables)

    def rollout() -> np.ndarray:
        if request.way == "batches":
            drawn = sample_prompts(sampler, variables, tokenized, key, request.batch)
        else:
            drawn, occupancy = _refilled(sampler, variables, tokenized, key, request.batch)
            figures["occupancy"] = occupancy
        figures["tokens"] = int(drawn.length.sum())
        asked = np.repeat(prompts, request.samples, 0).tolist()
        return judge(cast(Any, oracle), asked, drawn.tokens.tolist()).labels

    return Program(rollout, figures, device_peak)


def _refilled(
    sampler: Sampler, variables: Any, prompts: TokenizedPrompts, key: jax.Array, batch: int
) -> tuple[Samples, float]:
    """All samples in the order of the prompts, and the share of row-steps that drew a token."""
    index, parts, row_steps = zip(*iter_refilled(sampler, variables, prompts, key, batch))
    run, used = (sum(counts) for counts in zip(*row_steps))
    return restore_order(index, parts), used / max(1, run)
