"""What models have in common whose sizes and precision are the fields of a config."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

from dinado_jax.models.params import cast_matrices
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

    @property
    def width(self) -> int:
        return getattr(self.config, self.size_names.width)

    @property
    def context_length(self) -> int:
        return getattr(self.config, self.size_names.context_length)

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

    def decode_params(self, params: dict) -> dict:
        return cast_matrices(params, self.dtype)

    def replace(self, **changes: Any) -> Self:
        return type(self)(dataclasses.replace(self.config, **changes))
