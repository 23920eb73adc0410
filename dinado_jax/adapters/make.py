"""Builds the adapters that a configuration asks for, and keeps room for their positions."""

from typing import NamedTuple

from dinado_jax.adapters.lora import LoRA, lora
from dinado_jax.adapters.prefix import Prefix, Prompt
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.config import schema
from dinado_jax.errors import InputError
from dinado_jax.models.protocol import BaseModel, PrefixModel


class Adapted(NamedTuple):
    """An adapter of a base, and the model of the base with it."""

    adapter: Adapter
    model: BaseModel


def control_adapter(settings: schema.Delta, model: BaseModel) -> Adapted:
    """The adapter of a control. InputError for a prefix that leaves no room for text."""
    if settings.kind == "lora":
        return Adapted(lora(settings, model.delta_rules), model)
    return _ahead(settings.kind, settings, model)


def sft_adapter(settings: schema.Sft, model: BaseModel) -> Adapted | None:
    """The adapter with which a base is fine-tuned, a LoRA of unit scale; None where the whole model
    is, or nothing. InputError as `control_adapter`.
    """
    if settings.adapter == "none" or not settings.steps + settings.pretrain_steps:
        return None
    if settings.adapter == "lora":
        rules, alpha = model.delta_rules, float(settings.rank)
        return Adapted(LoRA(settings.rank, alpha, rules.low_rank, rules.full, "sft"), model)
    return _ahead(settings.adapter, settings, model)


def reserve_positions(model: BaseModel, settings: schema.Config) -> BaseModel:
    """The base's model with the positions reserved by which the adapter of its control will shift
    rows, so that every row fits the control too.
    """
    shifts = has_positions(settings) and settings.delta.shift
    return model.replace(reserved=settings.delta.positions) if shifts else model


def has_positions(settings: schema.Config) -> bool:
    """Whether the control of a configuration has an adapter with positions."""
    return has_adapter(settings.control) and settings.delta.kind != "lora"


def has_adapter(control: schema.Control) -> bool:
    """Whether a control has an adapter of the base."""
    direction = control.direction_kind
    return direction == "merge" or (direction == "soft" and control.trunk == "low_rank")


def _ahead(kind: str, settings: schema.Delta | schema.Sft, model: BaseModel) -> Adapted:
    if not isinstance(model, PrefixModel):
        raise InputError(f"a {model.model_type} takes no {kind}, only a lora")
    adapter = {"prefix": Prefix, "prompt": Prompt}[kind](model, settings.positions, settings.shift)
    return Adapted(adapter, adapter.adapted)
