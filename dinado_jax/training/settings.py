"""Settings of trainings that are no stage of a run: plain values, checked."""

import dataclasses

from dinado_jax.config.schema import Optim
from dinado_jax.utils.arguments import (
    require_integer_field,
    require_number_field,
    require_seed,
    up_to,
)


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained. InputError for a value out of range."""

    steps: int = 2000
    batch: int = 64  # rows of a step
    learning_rate: float = 1e-3  # peak; a cosine to a tenth of it
    warmup: int = 200  # steps of linear increase
    weight_decay: float = 0.01  # of matrices
    clip: float = 1.0  # global gradient norm; 0 is off
    save_every: int = 200  # steps
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("steps", 10**9), ("batch", 10**6), ("save_every", 10**9)):
            require_integer_field(self, name, *up_to(most))
        require_integer_field(self, "warmup", "0 or more", lambda x: x >= 0)
        for name in ("learning_rate", "weight_decay", "clip"):
            require_number_field(self, name, "0 or more", lambda x: x >= 0)
        require_seed(self.seed)

    @property
    def optim(self) -> Optim:
        """The settings of its optimizer."""
        names = ("steps", "batch", "learning_rate", "warmup", "weight_decay", "clip")
        return Optim(**{name: getattr(self, name) for name in names})
