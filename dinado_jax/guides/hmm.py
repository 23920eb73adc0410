"""A guide whose R is exact under a hidden Markov model of the base: GeLaTo and Ctrl-G.

Where the mask of guides/constraint.py knows which next tokens leave the constraint possible, this
guide knows how likely each makes it:

    R(x, v) = sum_z A[z] e[v, z] D[q', z] / sum_z A[z] e[v, z]

with A the probabilities of the state that emits v, e the emission, q' the state of the prompt's
automaton after v, and D the messages of hmm/messages.py for the tokens that are left. A token after
which the constraint is impossible within them has R = 0, and so has a stop token unless the text
satisfies the constraint: every text does.

A is what the HMM knows of its state from the tokens before (its filter), or what the head of
hmm/head.py reads off the hidden state of the base, where the HMM has one: LTLA's form.

B prompts, S samples of each, R = B S rows, P constraints, Q states of all their automata, C classes
of tokens, G groups and X exceptions of hmm/groups.py, W columns of all groups, L tokens, H states
of the HMM, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata.tokens import TokenAutomaton
from dinado_jax.data.batch import Array
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.policy import last_token_states
from dinado_jax.errors import InputError
from dinado_jax.guides.protocol import NextValues
from dinado_jax.hmm.groups import columns, divide
from dinado_jax.hmm.head import log_state_probs
from dinado_jax.hmm.messages import messages
from dinado_jax.hmm.model import EXACT, Hmm, emit, move, read
from dinado_jax.models.output import Output, logits
from dinado_jax.ops import bernoulli
from dinado_jax.utils.arguments import require_number

KEY = "hmm"  # of the conditions that number the constraints
MOST_VALUES = 2**30  # of all messages: 4 GiB


class HmmArrays(NamedTuple):
    """The arrays of the guide. Of the automata all states are numbered together."""

    initial: Array  # float32 [H]
    transition: Array  # float32 [H, H]
    emission: tuple[Array, ...]  # float32 [columns of a group, H], of G groups
    place: Array  # int32 [V], the column of each token among the W
    classes: Array  # int32 [P, G]
    exceptions: Array  # int32 [P, X]
    exception_classes: Array  # int32 [P, X]
    class_of: Array  # uint8, or uint16 for many classes [P, V]
    table: Array  # int32 [Q, C], the state after a token of each class
    accepting: Array  # bool [Q]
    start: Array  # int32 [P]
    messages: Array  # float32 [L, Q, H], see `Messages`
    log_scale: Array  # float32 [L, Q] nats
    head: Any  # parameters, or None: the state is known by the filter


class HmmState(NamedTuple):
    """Where each row is."""

    prompt: jax.Array  # int32 [R], the number of its constraint
    automaton: jax.Array  # int32 [R], the state of its automaton
    next_state: jax.Array  # float32 [R, H], probabilities of the state of the HMM that emits next
    left: jax.Array  # int32 [R], tokens that may still be drawn


@dataclasses.dataclass(frozen=True)
class HmmGuide:
    """The guide; `guarantee` makes it with its arrays, and `condition[KEY]`, int32 [B], the number
    of each prompt's constraint.
    """

    key: ClassVar[str] = KEY
    max_new_tokens: int  # of a text; a decoding loop of more tokens ends every text within these
    stop_ids: tuple[int, ...]
    reads_prompt: bool  # the HMM reads the prompt first, otherwise the text alone
    # None: q is in proportion to p R. Else a geometric mean of p(v | x) and of the HMM's own
    # Pr(v | x and the constraint), whose weight this is: GeLaTo's form for tuned bases.
    weight: float | None = None

    @property
    def single_pass(self) -> bool:
        """See `Guide`."""
        return False

    def decode_params(self, params: HmmArrays) -> HmmArrays:
        """See `Guide`."""
        return params

    def prefill(
        self,
        params: HmmArrays,
        base_params: Any,
        base: Output,
        prompts: Prompts,
        samples: int,
        steps: int,
    ) -> tuple[NextValues, HmmState]:
        """See `Guide`."""
        prompt = jnp.asarray(prompts.condition[KEY])
        last = last_token_states(base.hidden, prompts.lengths)
        if params.head is None:
            before = self._filtered_prompts(params, prompts)
        else:
            before = jnp.exp(log_state_probs(params.head, last))
        left = jnp.full(len(prompt), self.max_new_tokens, jnp.int32)
        state = HmmState(prompt, jnp.asarray(params.start)[prompt], before, left)
        values = self._values(params, state, last, base.vocabulary)
        return values, jax.tree.map(lambda x: jnp.repeat(x, samples, 0), state)

    def step(
        self,
        params: HmmArrays,
        base_params: Any,
        base: Output,
        tokens: jax.Array,
        state: HmmState,
    ) -> tuple[NextValues, HmmState]:
        """See `Guide`."""
        own = jnp.asarray(params.class_of)[state.prompt, tokens].astype(jnp.int32)
        hidden = base.hidden[:, 0]
        if params.head is None:
            given, _ = emit(state.next_state, _emission(params, tokens))
            next_state = move(jnp.asarray(params.transition), given)
        else:
            next_state = jnp.exp(log_state_probs(params.head, hidden))
        automaton = jnp.asarray(params.table)[state.automaton, own]
        state = HmmState(state.prompt, automaton, next_state, state.left - 1)
        return self._values(params, state, hidden, base.vocabulary), state

    def _filtered_prompts(self, params: HmmArrays, prompts: Prompts) -> jax.Array:
        """The probabilities of the state before a text as the HMM itself knows them: [B, H]."""
        tokens, lengths = jnp.asarray(prompts.tokens), jnp.asarray(prompts.lengths)
        before = jnp.repeat(jnp.asarray(params.initial)[None], len(lengths), 0)
        if not self.reads_prompt:
            return before
        inside = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
        transition = jnp.asarray(params.transition)
        return read(before, transition, _emission(params, tokens), inside)[0]

    def _values(
        self, params: HmmArrays, state: HmmState, hidden: jax.Array, vocabulary: jax.Array
    ) -> NextValues:
        log_prob, log_after = _next_tokens(params, state)
        stop = jnp.asarray(self.stop_ids)
        at_end = jnp.where(jnp.asarray(params.accepting)[state.automaton], 0.0, -jnp.inf)
        log_after = jnp.where((state.left > 0)[:, None], log_after, -jnp.inf)
        log_after = log_after.at[:, stop].set(at_end[:, None])
        # A row past its end may be in any state, and its logits must stay finite.
        possible = (log_after > -jnp.inf).any(1, keepdims=True)
        log_after = jnp.where(possible, log_after, 0.0)
        log_value = jnp.minimum(jax.nn.logsumexp(log_prob + log_after, axis=1), 0.0)
        value_logit, after_logit = bernoulli.logit(log_value), bernoulli.logit(log_after)
        if self.weight is not None:
            log_base = jax.nn.log_softmax(logits(hidden, vocabulary))
            log_after = self.weight * (log_prob + log_after - log_base)
            log_after = jnp.where(jnp.isnan(log_after), -jnp.inf, log_after)
        return NextValues(log_value, log_after, value_logit, after_logit)


def _next_tokens(params: HmmArrays, state: HmmState) -> tuple[jax.Array, jax.Array]:
    """log Pr(v | x) under the HMM and log R(x, v), as if no token ended a text: [R, V] each."""
    rows, before = len(state.prompt), state.next_state
    messages, log_scale = jnp.asarray(params.messages), jnp.asarray(params.log_scale)
    table = jnp.asarray(params.table)
    after = jnp.clip(state.left - 1, 0, len(messages) - 1)[:, None]  # tokens left after the next

    groups = table[state.automaton[:, None], jnp.asarray(params.classes)[state.prompt]]  # [R, G]
    accept = messages[after, groups] * before[:, None]  # [R, G, H]
    scale = log_scale[after, groups]  # [R, G]
    log_probs, log_ratios = [], []
    for group, emission in enumerate(params.emission):
        # Both sums of R in one product: the probabilities are read once.
        both = jnp.concatenate([accept[:, group], before])
        sums = jnp.einsum("rh,vh->rv", both, jnp.asarray(emission), precision=EXACT)
        top, bottom = sums[:rows], sums[rows:]
        ratio = jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1.0), 0.0)
        log_probs.append(jnp.log(bottom))
        log_ratios.append(jnp.log(ratio) + scale[:, group, None])
    place = jnp.asarray(params.place)

    def of_tokens(of_groups: list[jax.Array]) -> jax.Array:
        return jnp.concatenate(of_groups, 1).at[:, place].get(mode="promise_in_bounds")

    # One by one: a compiler leaves out the first where nothing asks for V.
    log_prob, log_after = of_tokens(log_probs), of_tokens(log_ratios)

    exceptions = jnp.asarray(params.exceptions)[state.prompt]  # [R, X]
    to = table[state.automaton[:, None], jnp.asarray(params.exception_classes)[state.prompt]]
    own = _emission(params, exceptions) * before[:, None]  # [R, X, H]
    total = own.sum(-1)
    share = (own * messages[after, to]).sum(-1) / jnp.where(total > 0, total, 1.0)
    which = jnp.arange(rows)[:, None]
    log_after = log_after.at[which, exceptions].set(jnp.log(share) + log_scale[after, to])
    return log_prob, log_after


def _emission(params: HmmArrays, tokens: jax.Array) -> jax.Array:
    """The probability of each token in each state: [..] -> [.., H]."""
    column, begin = jnp.asarray(params.place)[tokens], 0
    found = jnp.zeros((*tokens.shape, params.initial.shape[0]), jnp.float32)
    for emission in params.emission:
        own = column - begin
        inside = (own >= 0) & (own < len(emission))
        found = jnp.where(inside[..., None], jnp.asarray(emission).at[own].get(mode="clip"), found)
        begin += len(emission)
    return found


def hmm_guide(
    hmm: Hmm,
    automata: Sequence[TokenAutomaton],
    stop_ids: Sequence[int],
    length: int,
    weight: float | None = None,
) -> tuple[HmmGuide, HmmArrays]:
    """Makes a guide of an HMM and the constraints of P prompts, with its arrays.

    Args:
      hmm: of the base; with a head, that predicts its state.
      automata: of P constraints over the base's tokens, one each: see `automata.joint.product`.
      stop_ids: of the base.
      length: L, the most new tokens of a text.
      weight: see `HmmGuide`; None for R.

    Raises:
      InputError: for more states than `MOST_VALUES` allows, and for a weight outside of (0, 1].
    """
    if weight is not None:
        require_number("weight", weight, "above 0 and at most 1", lambda x: 0 < x <= 1)
    sizes = np.array([len(each.table) for each in automata])
    values = int(sizes.sum()) * length * hmm.states
    if values > MOST_VALUES:
        raise InputError(
            f"{len(sizes)} constraints of {sizes.sum():,} states in all, {length} tokens and an "
            f"HMM of {hmm.states} states are {values:,} probabilities: at most {MOST_VALUES:,} "
            "fit; give fewer different prompts at once, shorter texts, or a smaller HMM"
        )
    groups = divide([each.class_of for each in automata], stop_ids)
    emission = np.asarray(hmm.emission)
    equal_rows = (emission == emission.min(0)).all(1)  # those that no sample has, all at the least
    kept, place = columns(groups, equal_rows)
    start = np.cumsum(sizes) - sizes
    classes = max(each.table.shape[1] for each in automata)
    tables = [
        np.pad(first + each.table, ((0, 0), (0, classes - each.table.shape[1])), mode="edge")
        for first, each in zip(start, automata)
    ]
    found = [messages(hmm, each, stop_ids, length) for each in automata]
    arrays = HmmArrays(
        initial=hmm.initial,
        transition=hmm.transition,
        emission=tuple(emission[tokens] for tokens in kept),
        place=place,
        classes=groups.classes,
        exceptions=groups.exceptions,
        exception_classes=groups.exception_classes,
        class_of=np.stack([each.class_of for each in automata]).astype(
            np.uint8 if classes <= 2**8 else np.uint16
        ),
        table=np.concatenate(tables).astype(np.int32),
        accepting=np.concatenate([each.accepting for each in automata]),
        start=start.astype(np.int32),
        messages=np.concatenate([each.relative for each in found], 1),
        log_scale=np.concatenate([each.log_scale for each in found], 1),
        head=hmm.head,
    )
    guide = HmmGuide(length, tuple(stop_ids), hmm.reads_prompt, weight)
    return guide, jax.device_put(arrays)
