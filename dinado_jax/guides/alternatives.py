"""The next tokens that a guided model would rather draw, at each place of given rows.

B rows, T tokens, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import by_length
from dinado_jax.data.prompts import Prompts
from dinado_jax.data.sequences import Sequences
from dinado_jax.decoding.policy import last_token_states
from dinado_jax.guides.protocol import Guide, NextValues
from dinado_jax.guides.tilt import PromptValue, Tilt, TiltFlags, apply_tilt
from dinado_jax.models.cache import allocate, scan_steps
from dinado_jax.models.output import logits
from dinado_jax.models.protocol import Model


class BestTokens(NamedTuple):
    """The `count` most probable next tokens of each prefix under q, the best first.

    Column i holds alternatives for the token after the prompt and i target tokens; columns after a
    row's last target have no meaning.
    """

    token: Array  # int32 [N, T-1, count]
    log_policy: Array  # float32 [N, T-1, count] nats under q, the tilt included
    log_base: Array  # float32 [N, T-1, count] nats under the base p
    value: Array  # float32 [N, T-1, count], R after the token


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _best(
    model: Model, guide: Guide, flags: TiltFlags, count: int, variables: Any, batch: Batch
) -> BestTokens:
    """[T-1, B, count] each, token by token as in decoding: R may depend on all tokens."""
    tokens, start = jnp.asarray(batch.tokens), jnp.asarray(batch.prompt_length)
    rows, T = jnp.arange(tokens.shape[0]), tokens.shape[1]
    base_params = variables["base"]
    params = guide.decode_params(variables["guide"])
    base = model.apply({"params": base_params}, tokens)
    prompts = Prompts(tokens, start, batch.condition)
    values, state = guide.prefill(params, base_params, base, prompts, 1, T - 1)
    of_prompt = PromptValue.of(values) if flags.target_rate else None

    def best(hidden: jax.Array, vocabulary: Any, values: NextValues) -> BestTokens:
        scores = logits(hidden, vocabulary, model.excluded_ids)
        tilted = scores + apply_tilt(flags, variables["tilt"], values, of_prompt)
        log_policy, token = jax.lax.top_k(jax.nn.log_softmax(tilted), count)
        log_base = jnp.take_along_axis(jax.nn.log_softmax(scores), token, 1)
        value = jnp.exp(jnp.take_along_axis(values.log_after, token, 1))
        return BestTokens(token, log_policy, log_base, value)

    def place(carry, index):
        newest, cache, state = carry
        token = tokens[rows, jnp.minimum(start + index, T - 1)]
        base = model.apply({"params": base_params}, token[:, None], cache)
        values, state = guide.step(params, base_params, base, token, state)
        return (best(base.hidden[:, 0], base.vocabulary, values), base.cache, state), newest

    first = best(last_token_states(base.hidden, start), base.vocabulary, values)
    carry = first, allocate(base.cache, start, 1, T - 1), state
    return scan_steps(place, carry, T - 1)[1]


def best_tokens(
    model: Model,
    guide: Guide,
    tilt: Tilt,
    base_params: Any,
    params: Any,
    rows: Sequences,
    count: int,
) -> BestTokens:
    """Finds the next tokens that q most probably draws, at every place of N rows.

    Args:
      model: the base.
      guide: that steers it.
      tilt: how strongly.
      base_params: the base's arrays.
      params: the guide's arrays.
      rows: of at most T tokens, with the condition of their prompts.
      count: of tokens, at most V.
    """
    variables = {"base": base_params, "guide": params, "tilt": tilt.numbers}
    (order, batch), *_ = by_length(rows, len(rows), model.context_length)
    found = jax.device_get(_best(model, guide, tilt.flags, count, variables, batch))
    back, places = np.argsort(order), rows.tokens.shape[1] - 1
    return jax.tree.map(lambda x: x.swapaxes(0, 1)[back, :places], found)
