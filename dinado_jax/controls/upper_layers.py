"""The base with an adapter on its upper layers alone: what lies below them has been run already."""

from typing import Any

import jax

from dinado_jax.adapters.protocol import Adapter
from dinado_jax.errors import InputError
from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output
from dinado_jax.models.protocol import BaseModel


def init_adapter(
    model: BaseModel, adapter: Adapter, first: int, key: jax.Array, base_params: Any
) -> Any:
    """Initialises an adapter of the parameters in and after layer `first`, for 0 of all.

    Raises:
      InputError: where the adapter does not fit them.
    """
    if first == 0:
        return adapter.init(key, base_params)
    try:
        return adapter.init(key, model.upper_params(base_params, first))
    except InputError as error:
        left_out = "leaves out embeddings and the layers below"
        raise InputError(f"{error}; delta.from_layer = {first} {left_out}") from None


def apply_adapted(
    model: BaseModel,
    first: int,
    variables: dict[str, Any],
    base: Output | None,
    tokens: jax.Array,
    cache: Cache | None,
) -> Output:
    """Runs the adapted model, from layer `first` on where the base has been run.

    Args:
      model: the base's, or that behind the adapter's prefix.
      first: the lowest layer that the adapter changes, 0 if it changes embeddings.
      variables: the base's with the adapter.
      base: its output on the tokens; None to run all layers.
      tokens: int32 [B, T]; with a cache [R, 1].
      cache: as `Output.cache` of the last call was.
    """
    if base is None or first == 0:
        return model.apply(variables, tokens, cache)
    return model.apply_upper(variables, first, base.inputs[first], cache)
