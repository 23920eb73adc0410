"""Controls: what gives R. One file for each direction; base.py joins it with norm and form."""

import dataclasses

from dinado_jax import config
from dinado_jax.controls.base import Control, Direction
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.nado import Nado
from dinado_jax.controls.norm import MLP
from dinado_jax.controls.soft import Soft
from dinado_jax.models.gpt2 import GPT2, Head

_FREE = config.Delta(low_rank=(), full=(".*",))


def make_control(settings: config.Config, model: GPT2) -> Control:
    """The control that the configuration asks for, for a base of this model."""
    control = settings.control
    kind = control.direction if control.kind == "hard" else control.kind
    direction = _direction(kind, control, settings.delta, model)
    form = control.form if control.kind == "hard" else "split"
    return Control(model, direction, MLP(model.config.n_embd), form)


def _direction(kind: str, control: config.Control, delta: config.Delta, model: GPT2) -> Direction:
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
