"""Low-rank deltas of base parameters, as pytrees of their own (Hu et al., arXiv 2106.09685).

A delta is {path: change} over slash-joined parameter paths such as "h_0/attn/c_attn/kernel":
{"a": [in, rank], "b": [rank, out]} for a low-rank change, {"full": the parameter's shape} for a
free one (LayerNorms, biases, position tables, or everything when a whole model is tuned). `b` and
`full` start at zero, so a fresh delta is exactly the identity. `scale` = alpha / rank multiplies
a @ b.
"""

import re
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from dinado_jax.errors import InputError, quote

Delta = dict[str, dict[str, jax.Array]]


def _matching(paths: Iterable[str], rules: Sequence[str], what: str) -> list[str]:
    chosen = []
    for rule in rules:
        try:
            found = [path for path in paths if re.fullmatch(rule, path)]
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(
                f"{what} rule {quote(rule)} is no regular expression ({error}): correct it"
            ) from None
        if not found:
            raise InputError(
                f"{what} rule {quote(rule)} matches no parameter: paths look like "
                f"{next(iter(paths))!r}"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def check_rules(
    shapes: dict[str, tuple[int, ...]], rank: int, low_rank: Sequence[str], full: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The paths that rules of either kind match; the second wins where both do.

    InputError for a rule that is no regular expression or matches nothing, for vectors among the
    former, for a rank above what a matrix can have, and for no path at all.
    """
    free = _matching(shapes, full, "delta.full")
    factored = _matching(shapes, low_rank, "delta.low_rank")
    for path in sorted(set(factored) - set(free)):
        if len(shapes[path]) != 2:
            raise InputError(
                f"delta.low_rank names {path!r} of shape {shapes[path]}: vectors have no rank, "
                "name it in delta.full"
            )
        if rank > min(shapes[path]):
            raise InputError(
                f"delta.rank = {rank} is more than {path!r} of shape {shapes[path]} can have: "
                f"choose at most {min(shapes[path])}"
            )
    if not free and not factored:
        raise InputError("the delta is empty: give delta.low_rank or delta.full at least one rule")
    return factored, free


def init(
    key: jax.Array, params: dict, rank: int, low_rank: Sequence[str], full: Sequence[str] = ()
) -> Delta:
    """A zero delta for the parameters whose whole path matches one of the regular expressions.

    Args:
      key: typed PRNG key, for `a` (uniform within 1/sqrt(in), as LoRA is usually initialised).
      params: base parameters, nested; arrays or ShapeDtypeStructs.
      rank: rank of the low-rank changes, >= 1.
      low_rank: rules for two-dimensional parameters.
      full: rules for parameters that change freely; they win where both match.

    Returns float32 factors. InputError as `check_rules`.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}
    factored, free = check_rules(shapes, rank, low_rank, full)
    delta = {path: {"full": jnp.zeros(shapes[path], jnp.float32)} for path in free}
    for index, path in enumerate(factored):
        if path in delta:
            continue
        rows, columns = shapes[path]
        bound = rows**-0.5
        a = jax.random.uniform(
            jax.random.fold_in(key, index), (rows, rank), jnp.float32, -bound, bound
        )
        delta[path] = {"a": a, "b": jnp.zeros((rank, columns), jnp.float32)}
    return delta


def check(delta: Delta, params: dict) -> None:
    """InputError unless every path and shape of the delta fits the parameters."""
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}
    for path, change in delta.items():
        if path not in shapes:
            raise InputError(f"delta names {path!r}, which the base lacks: it fits another base")
        if "full" in change:
            found = change["full"].shape
        else:
            found = (change["a"].shape[0], change["b"].shape[1])
        if found != shapes[path]:
            raise InputError(
                f"delta of {path!r} has shape {found}, the base {shapes[path]}: "
                "it fits another base"
            )


def variables(delta: Delta, scale: float) -> dict:
    """The nested "delta" collection for `GPT2.apply`, with the scale folded into the small b."""
    return unflatten_dict(
        {
            tuple(path.split("/")): change
            if "full" in change
            else {"a": change["a"], "b": change["b"] * scale}
            for path, change in delta.items()
        }
    )


def merge(params: dict, delta: Delta, scale: float) -> dict:
    """Base parameters with the delta added in float32 and cast back: same function, one tree."""
    check(delta, params)
    flat = flatten_dict(params, sep="/")
    for path, change in delta.items():
        addend = change["full"] if "full" in change else scale * (change["a"] @ change["b"])
        flat[path] = (flat[path].astype(jnp.float32) + addend).astype(flat[path].dtype)
    return unflatten_dict(flat, sep="/")
