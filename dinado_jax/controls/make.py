"""Builds the control that a configuration asks for."""

from collections.abc import Callable

from dinado_jax.adapters.lora import FULL
from dinado_jax.adapters.make import control_adapter
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.config import schema
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.nado import Nado
from dinado_jax.controls.norm import MLP, Trunk
from dinado_jax.controls.protocol import Direction
from dinado_jax.controls.soft import Soft
from dinado_jax.controls.state import StateReader
from dinado_jax.errors import InputError
from dinado_jax.models.protocol import BaseModel


def _soft(settings: schema.Config, model: BaseModel) -> Direction:
    match settings.control.trunk:
        case "small":
            return Soft(model.trunk(settings.control.layers), None)
        case "copy":
            return Soft(model, FULL)
        case _:
            return Soft(*_delta(settings.delta, model))


def _delta(settings: schema.Delta, model: BaseModel) -> tuple[BaseModel, Adapter, int]:
    """The adapted model, its adapter, and the first layer that it may change."""
    layers = model.num_layers
    if settings.from_layer >= layers:
        raise InputError(
            f"delta.from_layer = {settings.from_layer}: the base has {layers} layers, choose 0 to "
            f"{layers - 1}"
        )
    from_layer = settings.from_layer if settings.kind == "lora" else 0
    adapted = control_adapter(settings, model)
    return adapted.model, adapted.adapter, from_layer


# The values of control.direction.
DIRECTIONS: dict[str, Callable[[schema.Config, BaseModel], Direction]] = {
    "nado": lambda settings, model: Nado(model.head(settings.control.layers)),
    "soft": _soft,
    "merge": lambda settings, model: Merge(*_delta(settings.delta, model)),
}
# The values of control.kind: a direction with a norm per prefix, or `hard` with any direction.
KINDS = (*DIRECTIONS, "hard")


def make_control(settings: schema.Config, model: BaseModel) -> Control:
    """Builds the configured control for a base of this model.

    Raises:
      InputError: for a delta that begins above the last layer.
    """
    control = settings.control
    hard = control.kind == "hard"
    direction = DIRECTIONS[control.direction if hard else control.kind](settings, model)
    form = control.form if hard else "split"
    state = StateReader(model.width, settings.rollout.max_new_tokens) if control.state else None
    norm = MLP(model.width)
    if control.norm == "trunk":
        norm = Trunk(model.head(control.norm_layers, outputs=1))
    return Control(model, direction, norm, form, state)
