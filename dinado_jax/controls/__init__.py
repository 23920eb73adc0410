"""Controls: what gives R, one file a parameterisation."""

from dinado_jax.config import Config
from dinado_jax.controls.base import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.models.gpt2 import GPT2


def make_control(config: Config, model: GPT2) -> Control:
    """The control that `control.kind` names, for a base of this model."""
    kinds = {"merge": Merge}
    return kinds[config.control.kind](model, config.delta)
