"""The interface of adapters: parameter-efficient updates of a frozen base, such as LoRA.

A new adapter is a file with a class of this shape and a line in controls/make.py.
"""

from typing import Any, Protocol

import jax


class Adapter(Protocol):
    """A trainable change of a base's parameters. Static, hashable and pure."""

    def init(self, key: jax.Array, base_params: dict) -> Any:
        """Initialises float32 parameters with which the base computes the same as without them,
        or as behind a few tokens.

        Under `jax.eval_shape` this checks the adapter against the base's shapes alone.

        Args:
          key: typed PRNG key.
          base_params: nested; arrays or `jax.ShapeDtypeStruct`s.

        Raises:
          InputError: if the adapter does not fit these parameters.
        """
        ...

    def variables(self, base_params: dict, params: Any) -> dict[str, Any]:
        """Returns the variables of `Model.apply` with which the change is applied on the fly.

        Differentiable in `params`. The change should stay in float32 up to the activations: adding
        it to base parameters of lower precision would round a small one away.
        """
        ...

    def merge(self, base_params: dict, params: Any) -> dict | None:
        """Merges the change into the base's parameters, in their dtypes.

        None for a change that cannot be expressed by parameters of the base.

        Raises:
          InputError: if the change belongs to another base.
        """
        ...
