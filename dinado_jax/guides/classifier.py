"""A classifier of prefixes as a guide: R(x, v) = p(label | x, v), as FUDGE decodes.

(Yang and Klein, NAACL 2021, arXiv 2104.05218.) Every next token costs a step of the classifier, so
it is asked about the base's most probable ones only; after others R is taken to stay what it is.

B prompts, S samples of each, R = B S rows, T prompt tokens, D width of the classifier's trunk, V
vocabulary of the base and of the classifier.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dinado_jax.classifiers.bag import bag_log_odds
from dinado_jax.classifiers.classifier import Classifier
from dinado_jax.classifiers.prefixes import Head
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.policy import last_token_states
from dinado_jax.errors import InputError
from dinado_jax.guides.protocol import NextValues
from dinado_jax.models.cache import Cache, allocate, open_for
from dinado_jax.models.codec import Codec
from dinado_jax.models.output import Output, logits
from dinado_jax.models.protocol import BaseModel

BEST = 200  # next tokens, as in FUDGE


class ClassifierState(NamedTuple):
    """What the classifier has read of each row."""

    cache: Cache  # of the trunk, with room for one token more than is read
    read: jax.Array  # int32 [R], tokens
    total: jax.Array  # float32 [R, D], the sum of the states that its mean is of
    count: jax.Array  # float32 [R], of these states
    weight: jax.Array  # float32 [R], the sum over the text's tokens that the bag is of
    square: jax.Array  # float32 [R], and that of their squares
    logit: jax.Array  # float32 [R], log-odds of the label


@dataclasses.dataclass(frozen=True)
class ClassifierGuide:
    """The guide; `classifier_guide` makes one with its arrays."""

    model: BaseModel  # the classifier's trunk
    context: int  # tokens per row that it reads
    begin: tuple[int, ...] | None  # what it reads in place of the prompt; None: the prompt
    best: int = BEST

    @property
    def single_pass(self) -> bool:
        """See `Guide`."""
        return False

    def decode_params(self, params: Any) -> Any:
        """See `Guide`."""
        return {**params, "trunk": self.model.decode_params(params["trunk"])}

    def prefill(
        self,
        params: Any,
        base_params: Any,
        base: Output,
        prompts: Prompts,
        samples: int,
        steps: int,
    ) -> tuple[NextValues, ClassifierState]:
        """See `Guide`."""
        tokens, lengths = self._before(prompts)
        # A column more: where each row has slots of its own, it is the room for the last token.
        tokens = jnp.pad(tokens, ((0, 0), (0, 1)))
        output = self.model.apply({"params": params["trunk"]}, tokens)
        last = last_token_states(output.hidden, lengths).astype(jnp.float32)
        count = jnp.ones(len(lengths), jnp.float32)
        nothing = jnp.zeros(len(lengths), jnp.float32)
        logit = _log_odds(params, last, last, nothing, nothing)

        def state(samples: int, steps: int) -> ClassifierState:
            cache = allocate(output.cache, lengths, samples, steps, segment=steps)
            before = lengths, last, count, nothing, nothing, logit
            return ClassifierState(cache, *(jnp.repeat(x, samples, 0) for x in before))

        scores = logits(last_token_states(base.hidden, prompts.lengths), base.vocabulary)
        return self._values(params, open_for(state(1, 1), 0), scores), state(samples, steps + 1)

    def step(
        self,
        params: Any,
        base_params: Any,
        base: Output,
        tokens: jax.Array,
        state: ClassifierState,
    ) -> tuple[NextValues, ClassifierState]:
        """See `Guide`."""
        state = self._read(params, tokens, state)
        return self._values(params, state, logits(base.hidden[:, 0], base.vocabulary)), state

    def _before(self, prompts: Prompts) -> tuple[jax.Array, jax.Array]:
        """What the classifier reads before the text: tokens [B, T] and their numbers [B]."""
        tokens, lengths = jnp.asarray(prompts.tokens), jnp.asarray(prompts.lengths)
        if self.begin is not None:
            begin = jnp.asarray(self.begin, jnp.int32)[None]
            return jnp.repeat(begin, len(lengths), 0), jnp.full_like(lengths, len(self.begin))
        width = min(tokens.shape[1], self.context // 2)
        cut = jnp.maximum(lengths - width, 0)  # of a long prompt its end is read
        columns = cut[:, None] + jnp.arange(width)[None]
        return jnp.take_along_axis(tokens, columns, 1), lengths - cut

    def _read(self, params: Any, tokens: jax.Array, state: ClassifierState) -> ClassifierState:
        """Reads one more token of every row; of those that are full nothing changes but the cache,
        which is not read again.
        """
        output = self.model.apply({"params": params["trunk"]}, tokens[:, None], state.cache)
        last, room = output.hidden[:, 0].astype(jnp.float32), state.read < self.context
        total, count, bag = state.total + last, state.count + 1, params["bag"]
        weight, square = state.weight + bag.weight[tokens], state.square + bag.square[tokens]
        logit = _log_odds(params, last, total / count[:, None], weight, square)
        return ClassifierState(
            output.cache,
            state.read + 1,
            jnp.where(room[:, None], total, state.total),
            jnp.where(room, count, state.count),
            jnp.where(room, weight, state.weight),
            jnp.where(room, square, state.square),
            jnp.where(room, logit, state.logit),
        )

    def _values(self, params: Any, state: ClassifierState, scores: jax.Array) -> NextValues:
        """The values of rows, and after the best next tokens by the base's logits [R, V]."""
        best = jax.lax.top_k(scores, min(self.best, scores.shape[1]))[1]
        after = jax.lax.map(lambda tokens: self._read(params, tokens, state).logit, best.T)
        rows = jnp.arange(len(best))[:, None]
        after_logit = jnp.repeat(state.logit[:, None], scores.shape[1], 1)
        after_logit = after_logit.at[rows, best].set(after.T)
        return NextValues(
            jax.nn.log_sigmoid(state.logit),
            jax.nn.log_sigmoid(after_logit),
            state.logit,
            after_logit,
        )


def _log_odds(
    params: Any, last: jax.Array, mean: jax.Array, weight: jax.Array, square: jax.Array
) -> jax.Array:
    correction = jnp.asarray(Head().apply({"params": params["head"]}, last, mean))
    return (correction + bag_log_odds(params["bag"], weight, square)) / params["temperature"]


def classifier_guide(
    classifier: Classifier, codec: Codec, best: int = BEST
) -> tuple[ClassifierGuide, dict[str, Any]]:
    """Makes a guide of a classifier, and its arrays: Controlled(base, *classifier_guide(..)).

    Args:
      classifier: with the tokens of the base.
      codec: of the base.
      best: next tokens that it is asked about.

    Raises:
      InputError: for a classifier with other tokens, and for one that reads prompts, which it was
        not trained to read in the base's template.
    """
    if classifier.codec.tokenizer.get_vocab() != codec.tokenizer.get_vocab():
        raise InputError(
            "the classifier reads other tokens than the base, which it is to guide: train it with "
            "`dinado oracle train DATA --out DIR --tokenizer BASE`, or --base BASE"
        )
    if classifier.reads_prompt and codec.template is not None:
        raise InputError(
            "the classifier reads prompts, and was trained without the base's prompt template: "
            "load the base without one"
        )
    begin = None if classifier.reads_prompt else tuple(classifier.codec.prompts([""])[0])
    guide = ClassifierGuide(classifier.model, classifier.context, begin, best)
    return guide, {**classifier.params, "temperature": jnp.float32(classifier.temperature)}
