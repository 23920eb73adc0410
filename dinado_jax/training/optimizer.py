"""AdamW and its learning-rate schedule from a stage's settings."""

import jax
import optax

from dinado_jax.config.schema import Optim


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
    """AdamW with an optional clip of the global gradient norm; vectors have no weight decay.

    Args:
      config: of the sft or train stage.
      steps: total number, for the schedule.
    """
    adamw = optax.adamw(
        schedule(config, steps),
        b1=0.9,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    )
    if not config.clip:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw)
