"""Builds the control that a configuration asks for."""

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


def make_control(settings: schema.Config, model: BaseModel) -> Control:
    """Builds the configured control for a base of this model."""
    control = settings.control
    kind = control.direction if control.kind == "hard" else control.kind
    direction = _direction(kind, control, lora(settings.delta), model)
    form = control.form if control.kind == "hard" else "split"
    return Control(model, direction, MLP(model.width), form)


def _direction(kind: str, control: schema.Control, adapter: Adapter, model: BaseModel) -> Direction:
    if kind == "merge":
        return Merge(model, adapter)
    if kind == "nado":
        return Nado(model.head(control.layers))
    return {
        "small": Soft(model.trunk(control.layers), None),
        "copy": Soft(model, FULL),
        "low_rank": Soft(model, adapter),
    }[control.trunk]
