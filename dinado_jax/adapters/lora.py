"""LoRA: low-rank changes of a base's matrices (Hu et al., arXiv 2106.09685), and unconstrained ones
of other parameters.

The parameters, a delta, are {path: change} over the base's "/"-joined parameter paths, such as
"h_0/attn/c_attn/kernel":

    {"a": [in, rank], "b": [rank, out]}     a low-rank change, alpha / rank * a @ b, of a kernel,
                                            stored as (out, in), or a table (in, out)
    {"full": [the parameter's shape]}       an unconstrained one, for LayerNorms, biases, position
                                            tables, or all parameters if the whole model is tuned

`b` and `full` start at zero, so a fresh delta is exactly the identity.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from dinado_jax.config import schema
from dinado_jax.errors import InputError, quote
from dinado_jax.models.params import by_path, in_out, is_kernel, nested
from dinado_jax.models.protocol import DeltaRules

Delta = dict[str, dict[str, jax.Array]]
Shapes = Mapping[str, tuple[int, ...]]  # by path
DEFAULT = "default"  # the rule that stands for those of the architecture


@dataclasses.dataclass(frozen=True)
class LoRA:
    """An `Adapter`, documented there.

    Rules are regular expressions that match whole paths; `full` wins where both match.
    """

    rank: int  # >= 1
    alpha: float
    low_rank: tuple[str, ...]  # rules for matrices
    full: tuple[str, ...] = ()  # rules for parameters of any shape, changed without constraint
    section: str = "delta"  # of the configuration, for messages

    @property
    def scale(self) -> float:
        """Multiplies the product of the factors."""
        return self.alpha / self.rank

    def init(self, key: jax.Array, base_params: dict) -> Delta:
        """Initialises a zero delta as usual for LoRA: `b` = 0, `a` uniform within 1 / sqrt(in).

        Raises:
          InputError: a rule is not a regular expression or matches nothing, a low-rank rule matches
            a vector, the rank exceeds that of a matrix, or no parameter is matched.
        """
        shapes = _shapes(base_params)
        factored, free = self._paths(shapes)
        delta = {path: {"full": jnp.zeros(shapes[path], jnp.float32)} for path in free}
        for index, path in enumerate(factored):
            if path in delta:
                continue
            inputs, outputs = in_out(path, shapes[path])
            bound = inputs**-0.5
            # The key depends on the index among all matched paths, those of `full` included.
            a_key = jax.random.fold_in(key, index)
            a = jax.random.uniform(a_key, (inputs, self.rank), jnp.float32, -bound, bound)
            delta[path] = {"a": a, "b": jnp.zeros((self.rank, outputs), jnp.float32)}
        return delta

    def variables(self, base_params: dict, params: Delta) -> dict:
        # The scale is folded into b, so that layers need not know it.
        delta = {
            path: change if "full" in change else {"a": change["a"], "b": change["b"] * self.scale}
            for path, change in params.items()
        }
        return {"params": base_params, "delta": nested(delta)}

    def merge(self, base_params: dict, params: Delta) -> dict:
        """Adds the delta to the base's parameters in float32 and casts back."""
        _check_fit(params, _shapes(base_params))
        flat = by_path(base_params)
        for path, change in params.items():
            if "full" in change:
                addend = change["full"]
            else:
                addend = self.scale * (change["a"] @ change["b"])
                addend = addend.T if is_kernel(path) else addend
            flat[path] = (flat[path].astype(jnp.float32) + addend).astype(flat[path].dtype)
        return nested(flat)

    def _paths(self, shapes: Shapes) -> tuple[list[str], list[str]]:
        """Returns the paths that each kind of rule matches. InputError as in `init`."""
        free = _matching(shapes, self.full, "delta.full")
        factored = _matching(shapes, self.low_rank, "delta.low_rank")
        for path in sorted(set(factored) - set(free)):
            if len(shapes[path]) != 2:
                raise InputError(
                    f"delta.low_rank names {path!r} of shape {shapes[path]}: vectors have no rank, "
                    "name it in delta.full"
                )
            if self.rank > min(shapes[path]):
                raise InputError(
                    f"{self.section}.rank = {self.rank} is more than {path!r} of shape "
                    f"{shapes[path]} can have: choose at most {min(shapes[path])}"
                )
        if not free and not factored:
            raise InputError(
                "the delta is empty: give delta.low_rank or delta.full at least one rule"
            )
        return factored, free


FULL = LoRA(rank=1, alpha=1.0, low_rank=(), full=(".*",))
"""Changes every parameter without constraint: a full copy of the base."""


def lora(settings: schema.Delta, defaults: DeltaRules) -> LoRA:
    """The adapter of a configuration, whose rule "default" stands for the `defaults`."""

    def rules(given: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(rule for each in given for rule in (default if each == DEFAULT else (each,)))

    low_rank = rules(settings.low_rank, defaults.low_rank)
    return LoRA(settings.rank, settings.alpha, low_rank, rules(settings.full, defaults.full))


def _shapes(params: dict) -> Shapes:
    return {path: leaf.shape for path, leaf in by_path(params).items()}


def _matching(paths: Shapes, rules: Sequence[str], what: str) -> list[str]:
    """Returns the paths that match a rule, in the order of rules; `what` is for messages."""
    chosen = []
    for rule in rules:
        try:
            found = [path for path in paths if re.fullmatch(rule, path)]
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(
                f"{what} rule {quote(rule)} is not a regular expression ({error}): correct it"
            ) from None
        if not found:
            raise InputError(
                f"{what} rule {quote(rule)} matches no parameter: paths look like "
                f"{next(iter(paths))!r}"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def _check_fit(delta: Delta, shapes: Shapes) -> None:
    """InputError unless every path and shape of the delta fits the parameters."""
    for path, change in delta.items():
        if path not in shapes:
            raise InputError(f"delta names {path!r}, which the base lacks: it fits another base")
        if "full" in change:
            found, expected = change["full"].shape, shapes[path]
        else:
            found = (change["a"].shape[0], change["b"].shape[1])
            expected = in_out(path, shapes[path])
        if found != expected:
            raise InputError(
                f"delta of {path!r} has shape {found}, the base {expected}: it fits another base"
            )
