"""Settings of new models, of denoisers and of decoding: plain values, checked."""

import dataclasses

from dinado_jax.errors import InputError, quote
from dinado_jax.utils.arguments import (
    POSITIVE,
    require_integer_field,
    require_number_field,
    up_to,
)

ORDERS = ("confidence", "random")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a new masked language model; its MLPs are four times as wide. InputError for a value out
    of range.
    """

    layers: int = 4
    width: int = 256
    heads: int = 4
    positions: int = 64  # the most tokens of a row, two of which begin and end it
    vocabulary: int = 8192  # at most

    def __post_init__(self) -> None:
        for name, most in (
            ("layers", 1000), ("width", 100_000), ("heads", 100_000), ("vocabulary", 10_000_000),
        ):  # fmt: skip
            require_integer_field(self, name, *up_to(most))
        within = "3 to 1,000,000", lambda x: 3 <= x <= 1_000_000
        require_integer_field(self, "positions", *within)
        if self.width % self.heads:
            raise InputError(
                f"width = {self.width} is not divisible by heads = {self.heads}: choose a multiple"
            )


@dataclasses.dataclass(frozen=True)
class Parts:
    """What of a masked language model makes a denoiser. InputError for a value out of range."""

    max_length: int | None = None  # tokens of the longest text; None: as many as have positions
    encoder_layers: int | None = None  # the first ones; None: all
    decoder_layers: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                require_integer_field(self, field.name, *POSITIVE)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How texts are written, static. InputError for a value out of range."""

    steps: int = 8  # N
    temperature: float = 0.3  # of all steps but the last; 0 is greedy
    share: float = 1.0  # of a text's positions that the steps between draw again
    order: str = "confidence"  # which: those whose tokens are least likely, or random ones
    lengths: int = 3  # the likeliest ones of each prompt
    samples: int = 1  # texts of each length

    def __post_init__(self) -> None:
        for name in ("steps", "lengths", "samples"):
            require_integer_field(self, name, *up_to(10_000))
        require_number_field(self, "temperature", "0 (greedy) or more", lambda x: x >= 0)
        require_number_field(self, "share", "in (0, 1]", lambda x: 0 < x <= 1)
        if self.order not in ORDERS:
            raise InputError(f"order = {quote(self.order)}: give one of {', '.join(ORDERS)}")

    @property
    def candidates(self) -> int:
        """K, texts of each prompt."""
        return self.lengths * self.samples

    @property
    def idle(self) -> dict[str, str]:
        """The settings that play no part beside the others, by name, and why."""
        idle = {}
        if self.steps == 1:
            idle |= dict.fromkeys(("temperature", "share", "order"), "in one step, which is greedy")
        elif self.steps == 2:
            idle |= dict.fromkeys(("share", "order"), "in two steps, which draw all positions")
        elif self.share == 1:
            idle["order"] = "where every step draws all positions, share = 1"
        return idle
