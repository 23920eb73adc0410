"""What models have in common whose sizes and precision are the fields of a config."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import jax

from dinado_jax.models.params import cast_matrices, nested
from dinado_jax.ops.vocab import Ranges


class SizeNames(NamedTuple):
    """The fields of an architecture's config that hold these sizes."""

    width: str
    context_length: str
    num_layers: str


@dataclasses.dataclass(frozen=True)
class ConfiguredModel:
    """The part of a `BaseModel`, documented there, that is the same for every architecture."""

    config: Any
    size_names: ClassVar[SizeNames]
    attention_path: ClassVar[str]  # of a layer's attention in the parameters, {} for its number

    @property
    def width(self) -> int:
        return getattr(self.config, self.size_names.width)

    @property
    def context_length(self) -> int:
        taken = self.config.first_position + self.config.reserved
        return getattr(self.config, self.size_names.context_length) - taken

    @property
    def prefix(self) -> int:
        return self.config.prefix

    @property
    def first_position(self) -> int:
        return self.config.first_position

    @property
    def reserved(self) -> int:
        return self.config.reserved

    @property
    def prefix_paths(self) -> tuple[str, ...]:
        layers = (self.attention_path.format(layer) for layer in range(self.num_layers))
        return tuple(f"{layer}/prefix/{part}" for layer in layers for part in ("keys", "values"))

    @property
    def num_layers(self) -> int:
        return getattr(self.config, self.size_names.num_layers)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def excluded_ids(self) -> Ranges:
        return self.config.excluded_ids

    @property
    def dtype(self) -> str:
        return self.config.dtype

    @property
    def param_dtype(self) -> str:
        return self.config.param_dtype

    def memory(self, layer: int, key: jax.Array, value: jax.Array) -> dict:
        path = self.attention_path.format(layer)
        return nested({f"{path}/key": key, f"{path}/value": value})

    def decode_params(self, params: dict) -> dict:
        return cast_matrices(params, self.dtype)

    def replace(self, **changes: Any) -> Self:
        return type(self)(dataclasses.replace(self.config, **changes))
