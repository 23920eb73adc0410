"""The distribution of one model whose logits have scores by the state of the oracle added."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dinado_jax.automata import progress
from dinado_jax.controls.state import AUTOMATA, Reading, StateReader
from dinado_jax.data.batch import Batch
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.policy import NextLogits, last_token_states
from dinado_jax.models.cache import Cache, allocate
from dinado_jax.models.output import logits
from dinado_jax.models.protocol import Model
from dinado_jax.ops.vocab import token_log_probs


class StatePolicyCarry(NamedTuple):
    """The carry of a step."""

    cache: Cache
    reading: Reading


@dataclasses.dataclass(frozen=True)
class StatePolicy:
    """A `Policy`: one model whose logits have the scores of classes added.

    Its variables are {"model": those of the model, "state": of the reader, "automata": of the
    prompts}; the condition of the prompts numbers their automata.
    """

    model: Model
    reader: StateReader

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def context_length(self) -> int:
        return self.model.context_length

    def prefill(
        self, variables: Any, prompts: Prompts, samples: int, steps: int
    ) -> tuple[NextLogits, StatePolicyCarry]:
        out = self.model.apply(variables["model"], prompts.tokens)
        last = last_token_states(out.hidden, prompts.lengths)
        number = jnp.asarray(prompts.condition[AUTOMATA])
        reading = Reading.begin(self.reader, variables[AUTOMATA], number)
        scores = self._scores(variables, last, out.vocabulary, reading)
        scores, reading = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), (scores, reading))
        cache = allocate(out.cache, prompts.lengths, samples, steps)
        return NextLogits(scores), StatePolicyCarry(cache, reading)

    def step(
        self, variables: Any, carry: StatePolicyCarry, tokens: jax.Array
    ) -> tuple[NextLogits, StatePolicyCarry]:
        out = self.model.apply(variables["model"], tokens[:, None], carry.cache)
        reading = carry.reading.advanced(variables[AUTOMATA], tokens)
        scores = self._scores(variables, out.hidden[:, 0], out.vocabulary, reading)
        return NextLogits(scores), StatePolicyCarry(out.cache, reading)

    def log_probs(self, variables: Any, batch: Batch) -> jax.Array:
        own = progress.rows_of_prompts(variables[AUTOMATA], batch.condition[AUTOMATA])
        rows = dataclasses.replace(batch, condition={AUTOMATA: own})
        out = self.model.apply(variables["model"], batch.tokens)
        at = self.reader.along(rows)
        hidden, classes = self.reader.apply(variables["state"], out.hidden[:, :-1], at)
        return token_log_probs(
            hidden,
            out.vocabulary,
            batch.tokens[:, 1:],
            excluded_ids=self.model.excluded_ids,
            classes=classes,
        )

    def _scores(
        self, variables: Any, hidden: jax.Array, vocabulary: jax.Array, reading: Reading
    ) -> jax.Array:
        """Logits of the next token, float32 [R, V]."""
        at = reading.progress(variables[AUTOMATA])
        hidden, classes = self.reader.apply(variables["state"], hidden, at)
        return logits(hidden, vocabulary, self.model.excluded_ids) + classes.of_vocabulary
