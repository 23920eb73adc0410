"""Decoding under guides: q(v | x) proportional to p(v | x) prod_k f_k(R_k(x, v)).

Several guides compose as a product of experts, which is exact only for oracles independent under p.
For an exact combination, train the second control on the q of the first (`Controlled.as_base`).

B prompts, S samples of each, R = B S rows, T prompt tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from dinado_jax.data.batch import Batch
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.policy import NextLogits, Policy, last_token_states
from dinado_jax.guides.protocol import Guide, SinglePassGuide
from dinado_jax.guides.tilt import NEUTRAL, PromptValue, Tilt, TiltFlags, apply_tilt
from dinado_jax.models.cache import Cache, allocate, scan_steps
from dinado_jax.models.output import logits
from dinado_jax.models.protocol import Model


def guided_policy(
    model: Model, guides: Sequence[Guide], tilts: Sequence[Tilt], beside_base: bool = False
) -> Policy:
    """The distribution q of a base under guides, each with its tilt.

    A single untilted guide may need only one pass of the model; otherwise, and if `beside_base`,
    the base is decoded together with the guides. The variables come from `guided_variables` with
    the same guides, tilts and `beside_base`.
    """
    if not beside_base and (single := _single(guides, tilts)):
        return single.single_pass_policy
    return Guided(model, tuple(guides), tuple(tilt.flags for tilt in tilts))


def guided_variables(
    base_params: Any,
    guides: Sequence[Guide],
    params: Sequence[Any],
    tilts: Sequence[Tilt],
    beside_base: bool = False,
) -> dict[str, Any]:
    """The variables of `guided_policy`, from the parameters of the base and of each guide."""
    if not beside_base and (single := _single(guides, tilts)):
        return single.single_pass_variables(base_params, params[0])
    decoded = (guide.decode_params(own) for guide, own in zip(guides, params, strict=True))
    numbers = tuple(tilt.numbers for tilt in tilts)
    return {"base": base_params, "guides": tuple(decoded), "tilts": numbers}


def _single(guides: Sequence[Guide], tilts: Sequence[Tilt]) -> SinglePassGuide | None:
    """Returns the only guide if q is a single pass of the model."""
    if len(guides) == 1 and tilts[0] == NEUTRAL and guides[0].single_pass:
        return cast(SinglePassGuide, guides[0])
    return None


class GuidedState(NamedTuple):
    """The carry of a step."""

    cache: Cache  # the base's
    guides: tuple[Any, ...]  # the state of each guide
    starts: tuple[PromptValue | None, ...]  # per guide; None unless its tilt has a target rate


class _Part(NamedTuple):
    """One guide with its arrays."""

    guide: Guide
    params: Any
    flags: TiltFlags
    numbers: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Guided:
    """A `Policy` that decodes the base together with guides.

    Its variables are {"base": the base's parameters, "guides": the arrays of each guide, "tilts":
    the `Tilt.numbers` of each}.
    """

    model: Model
    guides: tuple[Guide, ...]
    tilts: tuple[TiltFlags, ...]

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def context_length(self) -> int:
        return self.model.context_length

    def prefill(
        self, variables: Any, prompts: Prompts, samples: int, steps: int
    ) -> tuple[NextLogits, GuidedState]:
        base = self.model.apply({"params": variables["base"]}, prompts.tokens)
        last = last_token_states(base.hidden, prompts.lengths)
        scores = log_base = logits(last, base.vocabulary, self.model.excluded_ids)
        states, starts = [], []
        for part in self._parts(variables):
            with jax.named_scope("guide"):
                values, state = part.guide.prefill(
                    part.params, variables["base"], base, prompts, samples, steps
                )
            start = PromptValue.of(values) if part.flags.target_rate else None
            scores += apply_tilt(part.flags, part.numbers, values, start)
            states.append(state)
            starts.append(_per_row(start, samples))
        cache = allocate(base.cache, prompts.lengths, samples, steps)
        state = GuidedState(cache, tuple(states), tuple(starts))
        return _per_row(NextLogits(scores, log_base), samples), state

    def step(
        self, variables: Any, carry: GuidedState, tokens: jax.Array
    ) -> tuple[NextLogits, GuidedState]:
        base = self.model.apply({"params": variables["base"]}, tokens[:, None], carry.cache)
        scores = log_base = logits(base.hidden[:, 0], base.vocabulary, self.model.excluded_ids)
        states = []
        for part, state, start in zip(
            self._parts(variables), carry.guides, carry.starts, strict=True
        ):
            with jax.named_scope("guide"):
                values, state = part.guide.step(part.params, variables["base"], base, tokens, state)
            scores += apply_tilt(part.flags, part.numbers, values, start)
            states.append(state)
        state = GuidedState(base.cache, tuple(states), carry.starts)
        return NextLogits(scores, log_base), state

    def log_probs(self, variables: Any, batch: Batch) -> jax.Array:
        """See `Policy.log_probs`. Token by token as in decoding: R may depend on all tokens."""
        tokens, start = jnp.asarray(batch.tokens), jnp.asarray(batch.prompt_length)
        T = tokens.shape[1]
        rows = jnp.arange(tokens.shape[0])

        # Step i reads token start + i of each row. With T = 6, rows of prompt length 2 and 4:
        #
        #     step        0   1   2   3   4
        #     reads at    2   3   4   5   5    columns 1 2 3 4 (4)
        #     reads at    4   5   5   5   5    columns 3 4 (4 4 4)

        def position(state, index):
            scores, carry = state
            at = jnp.minimum(start + index, T - 1)
            token = tokens[rows, at]
            log_prob = jax.nn.log_softmax(scores.policy)[rows, token]
            return self.step(variables, carry, token), (at - 1, log_prob)

        prompts = Prompts(tokens, start, batch.condition)
        state = self.prefill(variables, prompts, 1, T - 1)
        _, (columns, log_probs) = scan_steps(position, state, T - 1)
        # Past its end a row re-reads its last token (in parentheses): only the first read counts.
        order = jnp.arange(T - 1)[:, None]
        inside = order < T - start[None]
        out = jnp.zeros((tokens.shape[0], T - 1), jnp.float32)
        return out.at[jnp.broadcast_to(rows, columns.shape), columns].add(
            jnp.where(inside, log_probs, 0.0)
        )

    def _parts(self, variables: Any) -> list[_Part]:
        arrays = zip(self.guides, variables["guides"], self.tilts, variables["tilts"], strict=True)
        return [_Part(*each) for each in arrays]


def _per_row(tree: Any, samples: int) -> Any:
    """[B, ...] -> [R, ...] for every leaf."""
    return jax.tree.map(lambda x: jnp.repeat(x, samples, 0), tree)
