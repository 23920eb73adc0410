"""The vocabulary reductions: equal to the naive formulas, without their memory."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import tiny, tiny_run

from dinado_jax.adapters.lora import lora
from dinado_jax.config.schema import Delta, Train
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.norm import MLP
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.objectives.draws import NormBatch
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.ops.vocab import (
    CHUNKS,
    Classes,
    VocabScalars,
    direction_scalars,
    token_log_probs,
)
from dinado_jax.training.step import init_state, make_step

policy_scalars = functools.partial(direction_scalars, "policy")
D, V = 8, 43
# Leading shapes and chunks: whole chunks, a ragged edge, fewer tokens than a chunk, single tokens.
CASES = [((6,), 3), ((7,), 3), ((2, 5), 4), ((2,), 5), ((3,), 1)]
MOST = 10  # tokens of a case: all have the first of the same ones


@pytest.fixture
def quickly(tmp_path_factory):
    """For numbers; what a program holds in memory is asked of optimised ones."""
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


def factors(shape, seed):
    """(hidden [*shape, D], matrix [V, D]) of logits with a spread of a few nats."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((V, D))
    hidden = rng.standard_normal((math.prod(shape), D)).reshape(*shape, D)
    return np.float32(hidden), np.float32(matrix)


def tokens_of(shape):
    tokens = np.random.default_rng(9).integers(0, V, math.prod(shape))
    return tokens.reshape(shape).astype(np.int32)


def padded(tree):
    """[*shape, ..] -> [MOST, ..], zeros after the tokens of the case."""

    def pad(x):
        x = np.reshape(x, (-1, D) if x.shape[-1] == D else -1)
        return np.pad(x, [(0, MOST - len(x))] + [(0, 0)] * (x.ndim - 1))

    return jax.tree.map(pad, tree)


def naive_log_probs(hidden, matrix):
    logits = hidden @ matrix.T
    return logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)


def pick(log_probs, tokens):
    module = np if isinstance(log_probs, np.ndarray) else jnp
    return module.take_along_axis(log_probs, module.asarray(tokens)[..., None], -1)[..., 0]


def naive_scalars(link, factors, base, tokens, log_probs=naive_log_probs):
    module = np if log_probs is float64_log_probs else jnp
    hidden, matrix = (module.asarray(x, module.float64 if module is np else None) for x in factors)
    log_p, logits = log_probs(*base), hidden @ matrix.T
    r = {
        "policy": lambda: log_probs(hidden, matrix) - log_p,
        "plain": lambda: logits,
        "sigmoid": lambda: -module.logaddexp(0, -logits),
    }[link]()
    joint = log_p + r
    log_q = joint - module.log(module.exp(joint).sum(-1, keepdims=True))
    peak, top = (log_q - log_p).max(-1), r.max(-1)
    return VocabScalars(
        log_policy=pick(log_q, tokens),
        log_base=pick(log_p, tokens),
        peak=peak,
        top=logits.max(-1) if link == "sigmoid" else top,
        below=pick(r, tokens) - top,
        gap=-module.expm1(-peak),
        logit=pick(logits if link == "sigmoid" else r, tokens),
        excluded=0 * peak,
    )


def float64_log_probs(hidden, matrix):
    logits = np.float64(hidden) @ np.float64(matrix).T
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, cotangents, *inputs):
    """function(*inputs), and the gradients of its product with the cotangents."""
    out, pull = jax.vjp(function, *inputs)
    return out, pull(cotangents)


@functools.partial(jax.jit, static_argnums=0)
def padded_gradients(link, cotangents, own, base, tokens):
    """Those of the naive formulas by `own`, of MOST tokens; without a link of log-probabilities."""

    def naive(own):
        if link is None:
            return pick(naive_log_probs(*own), tokens)
        return naive_scalars(link, own, base, tokens)

    return jax.vjp(naive, own)[1](cotangents)[0]


def expected_gradients(link, cotangents, own, base, tokens):
    """One program per link for all cases: tokens without a cotangent have no gradient."""
    given = ((padded(hidden), matrix) for hidden, matrix in (own, base))
    hidden, matrix = padded_gradients(link, padded(cotangents), *given, padded(tokens))
    return hidden[: tokens.size].reshape(own[0].shape), matrix


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(("shape", "chunk"), CASES)
def test_token_log_probs(shape, chunk):
    hidden, matrix = factors(shape, 0)
    tokens, cotangent = tokens_of(shape), factors(shape, 2)[0][..., 0]

    def fused(hidden, matrix):
        return token_log_probs(hidden, matrix, tokens, chunk)

    out, gradients = value_and_gradients(fused, cotangent, hidden, matrix)
    chex.assert_shape(out, shape)
    assert out.dtype == jnp.float32
    exact = pick(float64_log_probs(hidden, matrix), tokens)
    np.testing.assert_allclose(out, exact, rtol=0, atol=3e-6)
    expected = expected_gradients(None, cotangent, (hidden, matrix), (hidden, matrix), tokens)
    chex.assert_trees_all_close(gradients, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("link", ["policy", "plain", "sigmoid"])
@pytest.mark.parametrize("chunk", [3, 16])
def test_scores_of_classes_are_added_to_the_logits(link, chunk):
    """As further columns of the factors, one for every token and class: one-hot rows of a matrix
    that is the same for all tokens here."""
    shape, Z = (7,), 4
    (hidden, matrix), base, tokens = factors(shape, 0), factors(shape, 1), tokens_of(shape)
    of_token = (np.arange(V) % Z).astype(np.uint8)
    scores = np.random.default_rng(5).standard_normal((*shape, Z)).astype(np.float32)
    one_hot = np.eye(Z, dtype=np.float32)[of_token]
    cotangents = VocabScalars(*(factors(shape, seed)[0][..., 0] for seed in range(2, 10)))

    def total(scalars):
        return sum((weight * each).sum() for weight, each in zip(cotangents, scalars))

    def classed(hidden, scores):
        classes = Classes(scores, jnp.broadcast_to(jnp.asarray(of_token)[None], (*shape, V)))
        return direction_scalars(link, (hidden, matrix), base, tokens, chunk, classes=classes)

    def wide(hidden, scores):
        own = jnp.concatenate([hidden, scores], 1), np.concatenate([matrix, one_hot], 1)
        return direction_scalars(link, own, base, tokens, chunk)

    probability = np.exp(float64_log_probs(*base))
    wanted = wide(hidden, scores)._replace(excluded=probability[:, of_token == 0].sum(-1))
    chex.assert_trees_all_close(classed(hidden, scores), wanted, atol=1e-5)
    found, wanted = (
        jax.grad(lambda *x, f=f: total(f(*x)), (0, 1))(hidden, scores) for f in (classed, wide)
    )
    chex.assert_trees_all_close(found, wanted, atol=1e-4)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("link", ["policy", "plain", "sigmoid"])
@pytest.mark.parametrize(("shape", "chunk"), CASES)
def test_direction_scalars(link, shape, chunk):
    own, base, tokens = factors(shape, 0), factors(shape, 1), tokens_of(shape)
    cotangents = VocabScalars(*(factors(shape, seed)[0][..., 0] for seed in range(2, 10)))

    def fused(own, base):
        return direction_scalars(link, own, base, tokens, chunk)

    out, gradients = value_and_gradients(fused, cotangents, own, base)
    exact = naive_scalars(link, own, base, tokens, float64_log_probs)
    for name, value in out._asdict().items():
        chex.assert_shape(value, shape)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, getattr(exact, name), rtol=0, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(out.log_ratio, exact.log_policy - exact.log_base, rtol=0, atol=1e-5)
    assert np.all(np.asarray(out.peak) > 0)
    expected = expected_gradients(link, cotangents, own, base, tokens)
    chex.assert_trees_all_close(gradients[0], expected, rtol=0, atol=2e-5)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients[1])), "the base is frozen"


@pytest.mark.parametrize("trained, products", [((0,), 3), ((0, 1), 5)])
def test_the_backward_pass_of_a_frozen_matrix_has_no_product_over_the_vocabulary(trained, products):
    """Two for the logits and one for E; a trained matrix needs its own logits again and its sum."""
    (hidden, matrix), base, tokens = factors((9,), 0), factors((9,), 1), tokens_of((9,))

    def loss(hidden, matrix):
        scalars = policy_scalars((hidden, matrix), base, tokens, 4)
        return scalars.log_ratio.sum() + scalars.peak.sum()

    text = jax.jit(jax.grad(loss, trained)).lower(hidden, matrix).compile().as_text()
    assert len(re.findall(r"= \S+ dot\(", text)) == products


@pytest.mark.parametrize("jit", [False, True])
def test_equal_factors_give_exact_zeros(jit):
    """Through two separate inputs, so that nothing is shared but the values."""
    policy, base = factors((11,), 0), factors((11,), 0)
    function = jax.jit(policy_scalars, static_argnums=3) if jit else policy_scalars
    out = function(policy, base, tokens_of((11,)), 4)
    np.testing.assert_array_equal(out.log_ratio, np.zeros(11))
    np.testing.assert_array_equal(out.peak, np.zeros(11))


def test_the_peak_of_nearly_equal_factors_is_negative_by_rounding_at_most():
    policy, base = factors((64,), 0), factors((64,), 0)
    shaken = policy[0] * (1 + 1e-7 * factors((64,), 5)[0])
    out = policy_scalars((shaken, policy[1]), base, tokens_of((64,)))
    assert (out.peak >= -1e-6).all() and (out.peak < 1e-4).all()


def test_bfloat16_factors_are_reduced_in_float32():
    policy, base = factors((9,), 0), factors((9,), 1)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (policy, base))
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    out = policy_scalars(*rounded, tokens_of((9,)), 4)
    chex.assert_trees_all_equal_dtypes(out, VocabScalars(*8 * [jnp.zeros(9)]))
    chex.assert_trees_all_close(
        out, naive_scalars("policy", *exact, tokens_of((9,))), rtol=0, atol=1e-5
    )


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("link", ["policy", "plain", "sigmoid"])
def test_bfloat16_gradients_where_the_token_is_all_but_certain(link):
    """W_x - E is small there: it must not be lost in the rounding of probabilities."""
    own, base = factors((32,), 0), factors((32,), 1)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (own, base))
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    tokens = jnp.argmax(exact[0][0] @ exact[0][1].T, axis=-1)

    def gradient(scalars, own, base):
        def loss(hidden, matrix, base):
            out = scalars(link, (4 * hidden, matrix), base, tokens)
            return (out.log_policy + out.peak).sum()

        return np.float32(jax.jit(jax.grad(loss))(*own, base))

    found = gradient(direction_scalars, *rounded)
    wanted = gradient(naive_scalars, *exact)
    error = np.linalg.norm(found - wanted, axis=-1)
    # Next to certainty the whole gradient is no more than float32's rounding in `wanted`.
    assert (error < 0.01 * np.linalg.norm(wanted, axis=-1) + 1e-5).all()


def test_no_tokens_at_all():
    """A batch cut to a single token predicts nothing."""
    policy, tokens = factors((2, 0), 0), jnp.zeros((2, 0), jnp.int32)
    chex.assert_shape(jax.tree.leaves(policy_scalars(policy, policy, tokens)), (2, 0))
    gradient = jax.grad(lambda policy: policy_scalars(policy, policy, tokens).peak.sum())(policy)
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, policy))


# The compiled training step

LARGE_V, ROWS, T = 4000, 256, 33
TOKENS = ROWS * (T - 1)
FULL = 4 * TOKENS * LARGE_V  # bytes of one float32 array of every token's logits
TILE = 4 * CHUNKS["cpu"] * LARGE_V  # and of one chunk's


@pytest.fixture(scope="module", params=["matching", "published"])
def compiled_step(request):
    """make_step compiled, but never run, for a batch far larger than a chunk."""
    config = GPT2Config(vocab_size=LARGE_V, n_positions=T, n_embd=16, n_layer=1, n_head=1)
    model = GPT2(config)
    merge = Merge(model, lora(Delta(rank=2, full=(r"wte/embedding",)), model.delta_rules))
    control = Control(model, merge, MLP(config.n_embd))
    optimizer = optax.adam(1e-3)
    base = jax.eval_shape(lambda: init_params(model, 0))
    state = jax.eval_shape(
        lambda key, base: init_state(control.init(key, base, tiny.SUCCESS_RATE), optimizer),
        jax.random.key(0),
        base,
    )

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((1, ROWS, *shape), dtype)

    ids, each = functools.partial(array, dtype=jnp.int32), array()
    batch = NormBatch(
        tokens=ids(T),
        prompt_length=ids(),
        length=ids(),
        label=each,
        shift=each,
        suffix=array(T - 1),
        rate=each,
        bellman=each,
    )
    if request.param == "matching":
        batch = TwoPartBatch(direction=batch, norm=batch)
    terms = functools.partial(OBJECTIVES[request.param](Train()).terms, control)
    return make_step(terms, optimizer).lower(state, base, batch).compile()


def test_the_step_needs_memory_for_a_few_chunks_only(compiled_step):
    parameters = 4 * LARGE_V * 16
    activations = 4 * TOKENS * 16
    attention = 4 * ROWS * T * T
    bound = 5 * TILE + 10 * parameters + 40 * activations + 8 * attention
    assert bound < 0.75 * FULL
    assert compiled_step.memory_analysis().temp_size_in_bytes < bound


def test_the_step_holds_no_array_of_all_logits(compiled_step):
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", compiled_step.as_text())
    sizes = {math.prod(map(int, shape.split(","))) for shape in shapes}
    assert CHUNKS["cpu"] * LARGE_V in sizes  # the pattern finds what is there
    assert max(sizes) < TOKENS * LARGE_V / 4
