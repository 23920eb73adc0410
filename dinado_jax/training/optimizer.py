"""AdamW, its learning-rate schedule and the average of its iterates, from a stage's settings."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dinado_jax.config.schema import Optim, Train

_WIDTH = 192  # of the widest states with which the learning rate of the norm was chosen


def schedule(config: Optim, steps: int) -> optax.Schedule:
    """Learning rate by step: linear over `warmup` steps, then constant or a cosine to a tenth.

    The warm-up is at most half of all steps.
    """
    warmup = min(config.warmup, steps // 2)
    if config.decay == "constant":
        return optax.linear_schedule(
            config.learning_rate / (warmup + 1), config.learning_rate, warmup
        )
    return optax.warmup_cosine_decay_schedule(
        config.learning_rate / (warmup + 1),
        config.learning_rate,
        warmup,
        max(steps, warmup + 1),
        config.learning_rate / 10,
    )


def optimizer(config: Optim, steps: int) -> optax.GradientTransformation:
    """AdamW with an optional clip of the global gradient norm. Vectors have no weight decay, nor
    has the table of rates that a control with state begins with. What reads the state of the oracle
    in a control has its own learning rate.

    Args:
      config: of the sft or train stage.
      steps: total number, for the schedule.
    """
    adamw = optax.adamw(
        schedule(config, steps),
        b1=0.9,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_decays,
    )
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    parts.append(_with_norm_of_width(adamw))
    if isinstance(config, Train) and config.state_learning_rate != config.learning_rate:
        parts.append(optax.masked(optax.scale(_state_factor(config)), _of_state))
    return optax.chain(*parts)


def _decays(params: Any) -> Any:
    """Marks the matrices whose weights decay to 0."""

    def of_leaf(path: Any, leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and path[-1:] != (jax.tree_util.DictKey("table_left"),)

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def _state_factor(config: Train) -> float:
    """How much further the parameters that read the oracle's state move than the others."""
    return config.state_learning_rate / config.learning_rate if config.learning_rate else 1.0


def _of_state(params: Any) -> Any:
    """Marks the parts of a control that read the oracle's state: what the direction makes of it,
    and the norm.
    """
    return {name: "state" in params and name != "direction" for name in params}


def _with_norm_of_width(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same, but the norm beside a state moves less the wider the states are that it reads.

    A step of Adam moves an output in proportion to the number of its inputs (Yang et al., arXiv
    2203.03466).
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(updates, state, params)
        if isinstance(updates, dict) and {"state", "norm"} <= updates.keys():
            share = min(1.0, _WIDTH / _width(updates["norm"]))
            updates = {**updates, "norm": jax.tree.map(lambda leaf: share * leaf, updates["norm"])}
        return updates, state

    return optax.GradientTransformation(inner.init, update)


def _width(norm: Any) -> int:
    """The width of the states that a norm reads."""
    return min(leaf.shape[0] for leaf in jax.tree.leaves(norm) if leaf.ndim > 1)


def control_optimizer(config: Train) -> optax.GradientTransformation:
    """The optimiser of a control, with the average of its iterates.

    Its time constant is at most a fifth of a round, after which e^-5 is left of earlier rounds.
    """
    steps = max(1, min(config.average, config.steps // config.rounds // 5))
    return averaged(optimizer(config, config.steps), steps)


class AveragedState(NamedTuple):
    """The state of `averaged`."""

    inner: optax.OptState
    count: jax.Array  # int32 [], updates so far
    mean: Any  # of the parameters after each update; before the first, the parameters


def averaged(inner: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Keeps a moving average of the parameters: the mean of all iterates so far while they are
    fewer than `steps`, an exponential average with that time constant afterwards.

    Updates are those of `inner`. (Polyak and Juditsky, 1992: the average of iterates has less of
    the noise of their gradients.)

    Args:
      inner: a transformation that returns the whole update of the parameters.
      steps: at least 1, which keeps the newest parameters.
    """

    def init(params: Any) -> AveragedState:
        # A copy: the state is donated with the parameters, and no buffer may be donated twice.
        mean = jax.tree.map(jnp.copy, params)
        return AveragedState(inner.init(params), jnp.zeros((), jnp.int32), mean)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AveragedState]:
        updates, inner_state = inner.update(updates, state.inner, params)
        share = 1 / jnp.minimum(state.count + 1, steps).astype(jnp.float32)
        newest = optax.apply_updates(params, updates)
        # Not m + share (p - m), which rounds where the share is 1.
        mean = jax.tree.map(
            lambda m, p: ((1 - share) * m + share * p).astype(m.dtype), state.mean, newest
        )
        return updates, AveragedState(inner_state, state.count + 1, mean)

    return optax.GradientTransformation(init, update)
