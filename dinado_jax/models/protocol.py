"""What the package asks of a language model. Nothing outside of models/ knows an architecture.

Models are static and hashable: calls with equal models and shapes compile once. Their arrays travel
beside them. A new architecture is a file with a class of this shape, a file with its checkpoint
format, and a line in architectures.py.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import jax

from dinado_jax.models.cache import Cache
from dinado_jax.models.output import Output
from dinado_jax.ops.vocab import Ranges


class Model(Protocol):
    """What decoding, scoring and controls ask of a language model."""

    @property
    def width(self) -> int:
        """D, of the last hidden states."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens of the longest row."""
        ...

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    @property
    def excluded_ids(self) -> Ranges:
        """Ranges [first, end) of ids that stand for no text: p leaves them out, whatever their
        logits are.
        """
        ...

    def apply(
        self, variables: dict[str, Any], tokens: jax.Array, cache: Cache | None = None
    ) -> Output:
        """Runs the model, causally, on right-padded rows.

        Indices are not checked on the device, where JAX clamps them: see `sequences.check_tokens`.

        Args:
          variables: {"params": p}, and {"delta": d} or what else an adapter adds; in training
            {"dropout": n}, see models/dropout.py.
          tokens: [B, T] int32 from a row's first on; with a cache [R, 1], one more of every row, or
            [B, T], the next ones of prompts that are read in chunks (see cache.py).
          cache: of the tokens before; None for none.

        Returns:
          States and vocabulary matrix. Without a cache given, its cache holds the T slots of this
          call as prompts, which is what a prefill wants; else it is the one given with the tokens
          appended.
        """
        ...

    def output_from_states(self, params: dict, states: jax.Array) -> Output:
        """The output of `apply({"params": params}, ..)` whose hidden states [B, T, D] are known,
        without its cache.
        """
        ...


class DeltaRules(NamedTuple):
    """Which parameters a delta changes where nothing else is asked for: regular expressions that
    match whole "/"-joined paths.
    """

    low_rank: tuple[str, ...]  # matrices
    full: tuple[str, ...]  # changed freely, whatever their rank; wins where both match


class BaseModel(Model, Protocol):
    """What a base offers besides: parameters to make, store and adapt, and new parts like it."""

    @property
    def model_type(self) -> str:
        """The architecture's key in `architectures.ARCHITECTURES`, as in a config.json."""
        ...

    @property
    def dtype(self) -> str:
        """Of activations."""
        ...

    @property
    def param_dtype(self) -> str:
        """Of parameters, in memory."""
        ...

    @property
    def num_layers(self) -> int:
        """Layers, which count from 0."""
        ...

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of one token's forward pass in products with parameters:
        attention's products of activations are left out.
        """
        ...

    @property
    def delta_rules(self) -> DeltaRules:
        """What "default" means in the settings `delta.low_rank` and `delta.full`."""
        ...

    @property
    def dropout_sites(self) -> dict[str, str]:
        """Where `apply` takes noise, by path: the embedding, and of each layer the probabilities of
        attention and what attention and MLP add to the residual stream. Of each the regular
        expression that matches whole paths of the parameters it is about, see training/fisher.py.
        """
        ...

    def init(self, key: jax.Array) -> dict:
        """Random parameters in `param_dtype`."""
        ...

    def decode_params(self, params: dict) -> dict:
        """The parameters as a decoding loop wants them: the same function, fewer bytes to read."""
        ...

    def upper_params(self, params: dict, first: int) -> dict:
        """The entries of `params` that layers from `first`, in [1, num_layers), on and what follows
        them read: not a tied output head, which is an embedding too.
        """
        ...

    def apply_upper(
        self,
        variables: dict[str, Any],
        first: int,
        states: jax.Array,
        cache: Cache | None = None,
    ) -> Output:
        """As `apply`, from the states that enter layer `first`: `Output.inputs[first]`.

        Args:
          variables: as `apply` takes them; of lower layers nothing is read.
          first: in [0, num_layers).
          states: [B, T, D]; with a cache [R, 1, D].
          cache: of the layers from `first` on, as this method returns it.
        """
        ...

    def trunk(self, layers: int) -> Self:
        """A new model of this kind and width with so many layers and float32 parameters."""
        ...

    def head(self, layers: int, outputs: int | None = None) -> "Head":
        """New layers of this kind, to run on this model's last hidden states.

        Args:
          layers: how many.
          outputs: rows of their vocabulary matrix; None for as many as this model's.
        """
        ...

    def replace(self, **changes: Any) -> Self:
        """This model with another dtype, param_dtype, excluded_ids or remat (True: gradients
        compute each block's activations again instead of keeping them); a `PrefixModel` with
        another prefix, first_position or reserved.
        """
        ...


@runtime_checkable
class PrefixModel(BaseModel, Protocol):
    """A base whose tokens can attend to more than their row: to a prefix, whose keys and values are
    parameters, and to a memory.
    """

    @property
    def prefix(self) -> int:
        """P, how many keys and values ahead of every row are parameters; 0 for none."""
        ...

    @property
    def first_position(self) -> int:
        """Of a row's first token: 0, or behind a prefix that has positions of its own."""
        ...

    @property
    def prefix_paths(self) -> tuple[str, ...]:
        """The paths of the keys and values of a prefix, each [P, F], by layer."""
        ...

    @property
    def kv_heads(self) -> int:
        """Heads of a layer's keys and values."""
        ...

    @property
    def prefix_width(self) -> int:
        """F, of a layer's keys and of its values."""
        ...

    def memory(self, layer: int, key: jax.Array, value: jax.Array) -> dict:
        """The collection "memory" of `variables`, with which every token of a row attends, at one
        layer, to one key and one value more, see `layers.with_memory`.

        Args:
          layer: in [0, num_layers).
          key, value: [B, kv_heads, prefix_width / kv_heads], of each row; a value of zero is the
            model without it.
        """
        ...

    @property
    def reserved(self) -> int:
        """Positions that `context_length` leaves out besides: room for an adapter's prefix."""
        ...

    def embed(self, params: dict, tokens: jax.Array) -> jax.Array:
        """The input embeddings [..., D] of tokens [...], without what positions add to them."""
        ...

    def embedded(self, params: dict, embeddings: jax.Array) -> jax.Array:
        """The states [B, T, D] that enter layer 0 for input embeddings [B, T, D] instead of tokens,
        from `first_position` on.
        """
        ...


class Head(Protocol):
    """Layers on the last hidden states of a base, with a vocabulary matrix of their own."""

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters with a vocabulary of zeros: so are all logits, then."""
        ...

    def decode_params(self, params: dict) -> dict:
        """As `BaseModel.decode_params`."""
        ...

    def apply(
        self, variables: dict[str, Any], states: jax.Array, cache: Cache | None = None
    ) -> Output:
        """As `Model.apply`, from the base's states [B, T, D] instead of tokens."""
        ...
