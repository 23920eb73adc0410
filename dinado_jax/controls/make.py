"""Builds the control that a configuration asks for."""

import dataclasses

from dinado_jax.config import schema
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.nado import Nado
from dinado_jax.controls.norm import MLP
from dinado_jax.controls.protocol import Direction
from dinado_jax.controls.soft import Soft
from dinado_jax.models.gpt2 import GPT2, Head

DIRECTIONS = ("nado", "soft", "merge")  # by the name of control.direction
KINDS = (*DIRECTIONS, "hard")  # by the name of control.kind
_FREE = schema.Delta(low_rank=(), full=(".*",))


def make_control(settings: schema.Config, model: GPT2) -> Control:
    """The control that the configuration asks for, for a base of this model."""
    control = settings.control
    kind = control.direction if control.kind == "hard" else control.kind
    direction = _direction(kind, control, settings.delta, model)
    form = control.form if control.kind == "hard" else "split"
    return Control(model, direction, MLP(model.config.n_embd), form)


def _direction(kind: str, control: schema.Control, delta: schema.Delta, model: GPT2) -> Direction:
    if kind == "merge":
        return Merge(model, delta)
    small = dataclasses.replace(
        model.config, n_layer=control.layers, n_inner=None, param_dtype="float32"
    )
    if kind == "nado":
        return Nado(Head(small))
    return {
        "small": Soft(GPT2(small), None),
        "copy": Soft(model, _FREE),
        "low_rank": Soft(model, delta),
    }[control.trunk]
