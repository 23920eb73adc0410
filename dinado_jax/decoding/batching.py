"""Any number of prompts in batches of fixed shape, and their results in the prompts' order."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from dinado_jax.data.batching import bucket
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.data.sequences import check_tokens
from dinado_jax.decoding.policy import Policy
from dinado_jax.errors import InputError
from dinado_jax.utils.arguments import POSITIVE, require_integer

Results = TypeVar("Results", bound=tuple)


class DecodingLoop(Protocol):
    """What batches depend on: a `Sampler` or a `Beam`."""

    @property
    def policy(self) -> Policy: ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The first pads prompts."""
        ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def mesh(self) -> Mesh | None:
        """Devices that share the prompts of a batch."""
        ...


class PromptBatch(NamedTuple):
    """B of the prompts, of which only the first n count: the rest repeat them, so that every batch
    has the same shape and nothing is compiled again.
    """

    index: np.ndarray  # int64 [n], the numbers of the prompts
    filled: np.ndarray  # int64 [B], the same, repeated
    prompts: Prompts  # [B]


def prompt_batches(
    loop: DecodingLoop, prompts: TokenizedPrompts, batch: int, rows_per_prompt: int
) -> Iterator[PromptBatch]:
    """Groups prompts of similar length into batches.

    Args:
      loop: that will decode them.
      prompts: in any order.
      batch: rows decoded at once, at most; at least one prompt for each device.
      rows_per_prompt: samples or beams.

    Raises:
      InputError: for a batch below 1, and for prompts that do not fit vocabulary or context.
    """
    batch = require_integer("batch", batch, *POSITIVE)
    devices = loop.mesh.size if loop.mesh else 1
    count = max(1, batch // rows_per_prompt // devices) * devices
    check_prompts(loop.policy, prompts, loop.max_new_tokens)
    limit = loop.policy.context_length - loop.max_new_tokens
    widths = np.array([bucket(len(prompt), limit) for prompt in prompts.tokens])
    for width in np.unique(widths):
        members = np.flatnonzero(widths == width)
        for start in range(0, len(members), count):
            index = members[start : start + count]
            filled = np.resize(index, count)
            yield PromptBatch(index, filled, prompts.batch(filled, loop.stop_ids[0], int(width)))


def check_prompts(policy: Policy, prompts: TokenizedPrompts, max_new_tokens: int) -> None:
    """Checks that every prompt fits vocabulary and context, with room for the new tokens.

    Raises:
      InputError: naming the first prompt that does not; if there are none; or if an array of the
        condition does not have one row per prompt.
    """
    if not len(prompts):
        raise InputError("there are no prompts: give at least one")
    for leaf in jax.tree.leaves(prompts.condition):
        if np.shape(leaf)[:1] != (len(prompts),):
            raise InputError(
                f"a condition of shape {np.shape(leaf)} for {len(prompts)} prompts: its arrays "
                "need one row per prompt"
            )
    check_tokens(prompts.tokens, policy.vocab_size, "prompt")
    for index, prompt in enumerate(prompts.tokens):
        name = prompts.name(index)
        if not prompt:
            raise InputError(f"{name} is empty: begin it with the end-of-text token")
        over = len(prompt) + max_new_tokens - policy.context_length
        if over > 0:
            raise InputError(
                f"{name} has {len(prompt)} tokens and max_new_tokens is {max_new_tokens}, {over} "
                f"more than the context of {policy.context_length} holds: shorten one of them"
            )


def check_finite(prompts: TokenizedPrompts, index: np.ndarray, log_probs: np.ndarray) -> None:
    """Checks that a token could be drawn after every prompt.

    Args:
      prompts: of all batches.
      index: int [n], which of them each row continues.
      log_probs: float [n, ...], of what was drawn; nan where nothing can be.

    Raises:
      InputError: naming the first prompt with a nan.
    """
    bad = np.isnan(log_probs.reshape(len(index), -1)).any(1)
    if bad.any():
        raise InputError(
            f"{prompts.name(index[bad].min())}: no token can be drawn after it: guides forbid all "
            "of them, where particles or beams may find another way, or the model's logits are nan "
            "or infinite; check its weights, or load it with dtype float32"
        )


def restore_order(index: Sequence[np.ndarray], parts: Sequence[Results]) -> Results:
    """Joins tuples of arrays, each of some of the rows, in the order of the row numbers."""
    order = np.argsort(np.concatenate(index))
    return jax.tree.map(lambda *column: np.concatenate(column)[order], *parts)
