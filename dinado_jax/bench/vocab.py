"""The scalars of a control and their gradient, fused (ops/vocab.py) and naive.

N tokens, D width, V vocabulary.
"""

import jax
import jax.numpy as jnp

from dinado_jax.bench.compiled import base_model, pure
from dinado_jax.bench.measure import Program, Request
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.nado import Nado
from dinado_jax.controls.soft import Soft
from dinado_jax.ops import vocab

LINKS = {"merge": Merge.link, "soft": Soft.link, "nado": Nado.link}


Factors = tuple[jax.Array, jax.Array]  # hidden states [N, D] and a vocabulary matrix [V, D]


def naive_scalars(
    link: str, factors: Factors, base: Factors, tokens: jax.Array
) -> vocab.VocabScalars:
    """Computes `vocab.direction_scalars` of `tokens` [N] from all logits [N, V] at once."""
    logits, base_logits = (
        jnp.einsum("ND,VD->NV", *pair, preferred_element_type=jnp.float32)
        for pair in (factors, base)
    )
    log_p = jax.nn.log_softmax(base_logits)
    r = vocab.direction(link, logits, log_p)
    log_q = log_p + r if link == "policy" else jax.nn.log_softmax(log_p + r)
    log_ratio = log_q - log_p

    def drawn(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, tokens[:, None], 1)[:, 0]

    top, peak = r.max(-1), log_ratio.max(-1)
    return vocab.VocabScalars(
        log_policy=drawn(log_q),
        log_base=drawn(log_p),
        peak=peak,
        top=logits.max(-1) if link == "sigmoid" else top,
        below=drawn(r) - top,
        gap=-jnp.expm1(-peak),
        logit=drawn(logits if link == "sigmoid" else r),
        excluded=jnp.zeros_like(peak),
    )


WAYS = {"fused": vocab.direction_scalars, "naive": naive_scalars}


def program(request: Request) -> Program:
    """Returns the program of value and gradient, also of the matrix if it is `trained`."""
    model, tokens = base_model(request), request.batch * request.length
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = 2 * [(tokens, model.width), (model.vocab_size, model.width)]
    hidden, matrix, base_hidden, base_matrix = (
        jax.random.normal(key, shape, model.dtype) / (1 if shape[0] == tokens else 16)
        for key, shape in zip(keys, shapes)
    )
    drawn = jax.random.randint(keys[4], (tokens,), 0, model.vocab_size)

    def loss(hidden: jax.Array, matrix: jax.Array, base: Factors, drawn: jax.Array) -> jax.Array:
        out = WAYS[request.way](LINKS[request.variant], (hidden, matrix), base, drawn)
        return (out.log_ratio + out.peak).sum()

    gradient = jax.value_and_grad(loss, (0, 1) if request.trained else 0)
    return pure(gradient, hidden, matrix, (base_hidden, base_matrix), drawn)
