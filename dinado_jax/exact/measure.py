"""Compares a control with the optimum over all sequences of a world.

S sequences of the world; B rows of T tokens.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from dinado_jax.automata.conjunction import Conjunction
from dinado_jax.controls.control import Control
from dinado_jax.controls.state import AUTOMATA
from dinado_jax.data.batch import Batch, rows_of
from dinado_jax.data.batching import take
from dinado_jax.evaluation.metrics import kl_floor
from dinado_jax.exact.world import Optimum, World
from dinado_jax.ops import bernoulli
from dinado_jax.ops.masks import target_mask

_ROWS = 4096  # sequences evaluated at once


@functools.partial(jax.jit, static_argnums=0)
def _along(
    control: Control, base_params: dict[str, Any], params: dict[str, Any], batch: Batch
) -> tuple[jax.Array, ...]:
    """log p and log q / p of each token, log V before it, log R after it, and its Bellman residual:
    [B, T-1] float32 each, nats.
    """
    step_inputs = control.step_inputs(base_params, params, batch)
    values = control.unroll(step_inputs, batch)
    residual = values.linked * bernoulli.kl(values.value_logit, values.before_logit)
    inside = target_mask(batch)
    of_tokens = (inside * step_inputs.scalars.log_base, inside * values.log_ratio)
    return *of_tokens, values.log_value, values.log_after, residual


def evaluate_sequences(
    world: World,
    control: Control,
    base_params: dict[str, Any],
    params: dict[str, Any],
    automata: Conjunction | None = None,
    chosen: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Evaluates a control on sequences of a world.

    Args:
      automata: of the prompt, for a control with state.
      chosen: int [N], their numbers; None for all S.

    Returns:
      Per token log p, log q / p, log V before it, log R after it, and the Bellman residual: float64
      [N, T-1] each, nats.
    """
    chosen = np.arange(len(world.rows)) if chosen is None else chosen
    parts, count, size = [], len(chosen), min(_ROWS, len(world.rows))
    for start in range(0, count, size):
        index = np.resize(chosen[start : start + size], size)  # one shape, compiled once
        batch = take(world.rows, index)
        if automata is not None:
            own = rows_of(automata, np.zeros(len(index), int))
            batch = dataclasses.replace(batch, condition={AUTOMATA: own})
        out = jax.device_get(_along(control, base_params, params, batch))
        parts.append([np.asarray(x, np.float64)[: count - start] for x in out])
    return [np.concatenate(column) for column in zip(*parts)]


def _inconsistency(world: World, p: np.ndarray, value: np.ndarray, after: np.ndarray) -> float:
    """max |sum_v p(v | prefix) R(prefix, v) - R(prefix)|, where R of the prompt is its V.

    p, value, after: [S, T-1], per token p, V before it and R after it.
    """
    worst = 0.0
    for t in range(world.length):
        rows = np.flatnonzero(world.inside[:, t])
        pair = world.prefix[rows, t].astype(np.int64) * world.vocabulary
        _, first = np.unique(pair + world.rows.tokens[rows, t + 1], return_index=True)
        one = rows[first]
        number = world.prefix[one, t]
        total = np.bincount(number, p[one, t] * after[one, t])
        before = value[one, t] if t == 0 else after[one, t - 1]
        worst = max(worst, float(np.abs(total[number] - before).max()))
    return worst


def measure(
    world: World,
    optimum: Optimum,
    control: Control,
    base_params: dict[str, Any],
    params: dict[str, Any],
    automata: Conjunction | None = None,
) -> dict[str, float]:
    """Compares a control with the optimum by enumeration; KL in nats per sequence.

    max_error is max |R - R*| over prefixes, of both R and V; consistency is max |sum_v p R - R|;
    bellman is the mean of KL(V_{i+1} || R_i) over the positions of samples of q.
    """
    log_base, ratios, log_value, log_after, residual = evaluate_sequences(
        world, control, base_params, params, automata
    )
    inside, p = world.inside, np.exp(optimum.log_p)
    log_ratio = ratios.sum(1)
    q = p * np.exp(log_ratio)
    good = optimum.q > 0
    satisfaction = float(min(1.0, (q * optimum.label).sum()))
    kl_base = float((q * log_ratio).sum())
    floor = kl_floor(satisfaction, optimum.rate)
    value, after = np.exp(log_value), np.exp(log_after)
    error = np.maximum(np.abs(value - optimum.value), np.abs(after - optimum.after))
    gap = _inconsistency(world, np.exp(log_base), value, after)
    return {
        "satisfaction": satisfaction,
        "total_variation": float(np.abs(q - optimum.q).sum() / 2),
        "kl_optimum": float((optimum.q[good] * np.log(optimum.q[good] / q[good])).sum()),
        "kl_to_base": kl_base,
        "kl_floor": floor,
        "efficiency": floor / kl_base if kl_base > 1e-9 else float("nan"),
        "max_error": float(error[inside].max()),
        "consistency": gap,
        "bellman": float((q * residual.sum(1)).sum() / max((q * (inside.sum(1) - 1)).sum(), 1e-9)),
    }
