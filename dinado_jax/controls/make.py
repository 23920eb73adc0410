"""Builds the control that a configuration asks for."""

from collections.abc import Callable

from dinado_jax.adapters.lora import FULL, lora
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.config import schema
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.nado import Nado
from dinado_jax.controls.norm import MLP
from dinado_jax.controls.protocol import Direction
from dinado_jax.controls.soft import Soft
from dinado_jax.models.protocol import BaseModel


def _soft(control: schema.Control, adapter: Adapter, model: BaseModel) -> Direction:
    if control.trunk == "small":
        return Soft(model.trunk(control.layers), None)
    return Soft(model, FULL if control.trunk == "copy" else adapter)


# The values of control.direction.
DIRECTIONS: dict[str, Callable[[schema.Control, Adapter, BaseModel], Direction]] = {
    "nado": lambda control, adapter, model: Nado(model.head(control.layers)),
    "soft": _soft,
    "merge": lambda control, adapter, model: Merge(model, adapter),
}
# The values of control.kind: a direction with a norm per prefix, or `hard` with any direction.
KINDS = (*DIRECTIONS, "hard")


def make_control(settings: schema.Config, model: BaseModel) -> Control:
    """Builds the configured control for a base of this model."""
    control = settings.control
    hard = control.kind == "hard"
    make = DIRECTIONS[control.direction if hard else control.kind]
    direction = make(control, lora(settings.delta, model.delta_rules), model)
    return Control(model, direction, MLP(model.width), control.form if hard else "split")
