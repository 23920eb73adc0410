"""Log-probabilities of given sequences: one parallel pass instead of a decoding loop."""

import functools

import jax
import numpy as np

from dinado_jax.data import take
from dinado_jax.models.gpt2 import GPT2
from dinado_jax.objectives.sft import target_mask
from dinado_jax.ops.vocab import token_log_probs
from dinado_jax.text import Sequences


@functools.partial(jax.jit, static_argnums=0)
def _target_log_probs(model: GPT2, variables, batch):
    out = model.apply(variables, batch["tokens"])
    log_probs = token_log_probs(out.hidden[:, :-1], out.vocabulary, batch["tokens"][:, 1:])
    return log_probs * target_mask(batch)


def sequence_log_probs(model: GPT2, variables, rows: Sequences, batch: int) -> np.ndarray:
    """log-probability of each row's target given its prompt: float32 [N], nats, eos included."""
    total = np.zeros(len(rows), np.float32)
    order = np.argsort(rows.length, kind="stable")
    for start in range(0, len(rows), batch):
        part = order[start : start + batch]
        per_token = _target_log_probs(model, variables, take(rows, np.resize(part, batch)))
        total[part] = np.asarray(per_token)[: len(part)].sum(1)
    return total
