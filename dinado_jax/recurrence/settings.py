"""Settings of a recurrence's training: plain values, checked."""

import dataclasses

from dinado_jax.training import settings
from dinado_jax.utils.arguments import POSITIVE, require_integer_field


@dataclasses.dataclass(frozen=True)
class Training(settings.Training):
    """How a recurrence is trained. InputError for a value out of range."""

    steps: int = 1000
    batch: int = 8  # B, rows side by side, each a stream of documents
    warmup: int = 50
    weight_decay: float = 0.0
    windows: int = 4  # W of a step, through which gradients pass
    rank: int = 0  # of a LoRA of the base; 0: all its parameters are trained

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer_field(self, "windows", *POSITIVE)
        require_integer_field(self, "rank", "0 or more", lambda x: x >= 0)
