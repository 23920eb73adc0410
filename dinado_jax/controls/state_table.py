"""The table of the state: a guide that knows R by class of the oracle's state and by the number of
tokens left, and nothing else.

It needs no training beyond counting (`rollouts.automata.log_rates`), and no delta. Alone it knows
nothing of the text: it waits for words where the base has no place for them. As the guide of
particles (decoding/particles.py), which die there, it finds what satisfies the oracle.

B prompts, S samples of each, R = B S rows, V vocabulary, N most tokens of a text, Z classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dinado_jax.automata import progress
from dinado_jax.controls.state import AUTOMATA, LOW, Reading, StateReader
from dinado_jax.data.batch import Array
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.policy import last_token_states
from dinado_jax.guides.protocol import NextValues
from dinado_jax.models.output import Output, logits
from dinado_jax.models.protocol import Model
from dinado_jax.ops import bernoulli
from dinado_jax.ops.vocab import Classes


@dataclasses.dataclass(frozen=True)
class StateTable:
    """The guide. Its arrays are {"log_rates": [N + 1, Z] nats, log R by tokens left and class,
    "automata": of P prompts}; the condition of the prompts numbers their automata.
    """

    model: Model  # the base
    reader: StateReader

    @property
    def single_pass(self) -> bool:
        """See `Guide`."""
        return False

    def init(self, log_rates: Array) -> dict[str, Any]:
        """The arrays of the guide, without automata, from log R: float32 [N + 1, Z] nats."""
        return {"log_rates": jnp.asarray(log_rates)}

    def decode_params(self, params: dict[str, Any]) -> dict[str, Any]:
        """See `Guide`."""
        return params

    def prefill(
        self,
        params: dict[str, Any],
        base_params: Any,
        base: Output,
        prompts: Prompts,
        samples: int,
        steps: int,
    ) -> tuple[NextValues, Reading]:
        """See `Guide`."""
        number = jnp.asarray(prompts.condition[AUTOMATA])
        reading = Reading.begin(self.reader, params[AUTOMATA], number)
        last = last_token_states(base.hidden, prompts.lengths)
        values = self._values(params, last, base.vocabulary, reading)
        return values, jax.tree.map(lambda x: jnp.repeat(x, samples, 0), reading)

    def step(
        self,
        params: dict[str, Any],
        base_params: Any,
        base: Output,
        tokens: jax.Array,
        state: Reading,
    ) -> tuple[NextValues, Reading]:
        """See `Guide`."""
        reading = state.advanced(params[AUTOMATA], tokens)
        return self._values(params, base.hidden[:, 0], base.vocabulary, reading), reading

    def _values(
        self, params: dict[str, Any], hidden: jax.Array, vocabulary: jax.Array, reading: Reading
    ) -> NextValues:
        log_p_BV = jax.nn.log_softmax(logits(hidden, vocabulary, self.model.excluded_ids))
        log_rates = jnp.minimum(params["log_rates"], 0.0).at[:, progress.IMPOSSIBLE].set(LOW)
        scores = log_rates[jnp.maximum(reading.left - 1, 0)]
        log_after_BV = Classes(scores, reading.progress(params[AUTOMATA]).after).of_vocabulary
        log_value_B = jax.nn.logsumexp(log_p_BV + log_after_BV, axis=-1)
        return NextValues(
            log_value_B,
            log_after_BV,
            bernoulli.logit(log_value_B),
            bernoulli.logit(log_after_BV),
        )
