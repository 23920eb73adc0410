"""Recurrence between the windows of a long text (Yoshida, Ettinger and Gimpel, arXiv 2008.07027).

A text is cut into windows of T tokens. The hidden states of a window are averaged and a small
network makes of them the *memory*: a key and a value for each head of one layer, to which every
token of the next window attends as to one more position. So a decoder reads texts of any length
with one window's worth of activations and cache.

The paper's abstract leaves sizes and details open. Chosen here: three layers of 200 units with
GELUs, on the mean divided by its root mean square (averages of residual streams differ by orders of
magnitude between models); keys and values come from the network itself, not from the layer's own
projections, which make something of a zero vector too; the memory does not compete in the softmax,
see `models.layers.with_memory`. The last layer is zero at first and the first window of a text has
a memory of zeros: both are exactly the plain windows.

Shapes: B rows, T tokens, D width of the model, F width of a layer's keys, M = 2 F of a memory.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.errors import InputError
from dinado_jax.models.output import Output
from dinado_jax.models.protocol import PrefixModel
from dinado_jax.utils.arguments import require_integer_field

Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """The recurrence of a base, static and hashable; its arrays travel beside it.

    Raises:
      InputError: for a layer that the base lacks, for layers between which no memory would pass
        from one window to the next but one, and for windows longer than the base's context.
    """

    model: PrefixModel  # the base's
    read: int  # whose incoming states are averaged, in (write, layers]; layers: the last states
    write: int  # whose tokens attend to the memory, in [0, layers)
    window: int  # T, tokens, of which a window shares one with the next
    hidden: int = 200

    def __post_init__(self) -> None:
        layers, context = self.model.num_layers, self.model.context_length
        require_integer_field(self, "hidden", "at least 1", lambda x: x >= 1)
        require_integer_field(self, "window", "at least 2", lambda x: x >= 2)
        for name in ("read", "write"):
            require_integer_field(self, name, "0 or more", lambda x: x >= 0)
        if self.write >= layers:
            raise InputError(
                f"write = {self.write}: the base has layers 0 to {layers - 1}, name one of them"
            )
        if not self.write < self.read <= layers:
            raise InputError(
                f"read = {self.read}: states that the memory has reached enter the layers "
                f"{self.write + 1} to {layers} (the last states), name one of them"
            )
        if self.window > context:
            raise InputError(
                f"window = {self.window}: the base has room for {context} tokens, give at most that"
            )

    def init(self, key: jax.Array) -> Params:
        """Random float32 parameters with a last layer of zeros: the memory is zero at first."""
        D, hidden, M = self.model.width, self.hidden, self.width
        first, second = jax.random.split(key)
        return {
            "in": jax.random.normal(first, (D, hidden), jnp.float32) * D**-0.5,
            "in_bias": jnp.zeros(hidden, jnp.float32),
            "middle": jax.random.normal(second, (hidden, hidden), jnp.float32) * hidden**-0.5,
            "middle_bias": jnp.zeros(hidden, jnp.float32),
            "out": jnp.zeros((hidden, M), jnp.float32),
            "out_bias": jnp.zeros(M, jnp.float32),
        }

    @property
    def width(self) -> int:
        """M, of a memory: of every head a key, then of every head a value."""
        return 2 * self.model.prefix_width

    def empty(self, rows: int) -> jax.Array:
        """The memory before the first window: zeros, float32 [B, M]."""
        return jnp.zeros((rows, self.width), jnp.float32)

    def variables(self, variables: dict, memory: jax.Array) -> dict:
        """The variables of the model for a window that reads a memory [B, M]."""
        heads = self.model.kv_heads
        key, value = jnp.split(memory.reshape(len(memory), 2 * heads, -1), 2, axis=1)
        return {**variables, "memory": self.model.memory(self.write, key, value)}

    def states(self, out: Output) -> jax.Array:
        """What is averaged, of the tokens of a call: [B, T, D]."""
        return out.hidden if self.read == self.model.num_layers else out.inputs[self.read]

    def memory(self, params: Params, mean: jax.Array) -> jax.Array:
        """The memory that a window leaves, float32 [B, M], of its mean state float32 [B, D]."""
        scale = jax.lax.rsqrt((mean * mean).mean(-1, keepdims=True) + 1e-6)
        inner = jax.nn.gelu((mean * scale) @ params["in"] + params["in_bias"][None])
        inner = jax.nn.gelu(inner @ params["middle"] + params["middle_bias"][None])
        return inner @ params["out"] + params["out_bias"][None]

    def after(
        self, params: Params, out: Output, lengths: jax.Array, memory: jax.Array
    ) -> jax.Array:
        """The memory after a window.

        Args:
          params: of the network.
          out: of the window, T tokens.
          lengths: int32 [B], tokens that count; a row without any is padding and keeps its memory.
          memory: float32 [B, M], that the window has read.
        """
        states = self.states(out).astype(jnp.float32)
        inside = jnp.arange(states.shape[1])[None] < lengths[:, None]
        total = jnp.where(inside[..., None], states, 0).sum(1)
        mean = total / jnp.maximum(lengths, 1)[:, None]
        return jnp.where(lengths[:, None] > 0, self.memory(params, mean), memory)
