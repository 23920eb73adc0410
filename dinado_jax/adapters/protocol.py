"""What trains in the place of a base's parameters: few numbers beside a frozen base.

A new adapter is a file with a class of this shape and a line in controls/make.py.
"""

from typing import Any, Protocol

import jax


class Adapter(Protocol):
    """A change of a base's parameters, with parameters of its own. Static, hashable and pure."""

    def init(self, key: jax.Array, base_params: dict) -> Any:
        """Parameters, a pytree of float32 arrays, with which the base computes what it did before.

        Under `jax.eval_shape` this checks the adapter against the base's shapes alone.

        Args:
          key: typed PRNG key.
          base_params: nested; arrays or `jax.ShapeDtypeStruct`s.

        Raises:
          InputError: where the adapter does not fit these parameters.
        """
        ...

    def variables(self, base_params: dict, params: Any) -> dict[str, Any]:
        """The variables of `Model.apply` that run the base with its change, applied on the fly.

        Differentiable in `params`. The change should stay in float32 up to the activations: adding
        it to base parameters of lower precision would round a small one away.
        """
        ...

    def merge(self, base_params: dict, params: Any) -> dict | None:
        """The base's parameters with the change written into them, in their dtypes: the same
        function, and no more arrays. None for a change that no parameters of the base express.

        Raises:
          InputError: where the change fits another base.
        """
        ...
