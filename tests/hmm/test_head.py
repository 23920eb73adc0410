"""The head of an HMM, of a base that is itself an HMM: it predicts what the filter knows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.hmm import sample

from dinado_jax.automata.joint import product
from dinado_jax.automata.tokens import containing_token
from dinado_jax.config.schema import Parallel
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import Sequences
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.guides.hmm import KEY, hmm_guide
from dinado_jax.hmm.head import init_head
from dinado_jax.hmm.model import Hmm, emit, move
from dinado_jax.models.output import Output
from dinado_jax.stages.distil_head import next_token_loss, train_head
from dinado_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("compiled_quickly")
H, V, L, D, STOP = 3, 6, 5, 16, 5
EMISSION = np.array(  # of each token in each state
    [[0.5, 0.1, 0.1], [0.4, 0.4, 0.1], [0.02, 0.4, 0.1], [0.02, 0.02, 0.4], [0.04, 0.04, 0.2],
     [0.02, 0.04, 0.1]], np.float32
)  # fmt: skip
TRANSITION = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]], np.float32)
HMM = Hmm(np.array([0.4, 0.3, 0.3], np.float32), TRANSITION, EMISSION)


@dataclasses.dataclass(frozen=True)
class HmmBase:
    """A base whose next token is that of the HMM after a prompt of one token, and whose hidden
    states are mixtures of its log-probabilities.
    """

    width: int = D
    context_length: int = 8
    vocab_size: int = V
    excluded_ids: tuple = ()

    def apply(self, variables, tokens, cache=None):
        hmm = variables["params"]["hmm"]

        def step(state, token):
            given, _ = emit(state, hmm.emission[token])
            state = move(hmm.transition, given)
            return state, state

        start = jnp.repeat(hmm.initial[None], len(tokens), 0)
        _, states = jax.lax.scan(step, start, tokens.T[1:])
        states = jnp.concatenate([start[None], states]).swapaxes(0, 1)
        log_probs = jnp.log(states @ hmm.emission.T)
        return Output(log_probs @ variables["params"]["mixture"], jnp.zeros((V, D)), None)


MODEL = HmmBase()
MIXTURE = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)
PARAMS = jax.device_put({"hmm": HMM, "mixture": MIXTURE})


def rows_of(count, seed):
    drawn = sample(HMM, count, L, STOP, seed)
    tokens = np.pad(drawn.tokens, ((0, 0), (1, 0)))
    return Sequences(tokens, np.ones(count, np.int32), drawn.length + 1)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder, plan = tmp_path_factory.mktemp("head"), make_plan(Parallel(devices=1))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        log, rows = folder / "head.jsonl", rows_of(6000, 0)
        return train_head(MODEL, PARAMS, HMM, rows, 0, checkpoints, log, plan)


def values(hmm, texts):
    """log R before and after the tokens of texts [N, L]: [L, N, V]."""
    automaton = product([containing_token(2, V), containing_token(3, V)])
    guide, arrays = hmm_guide(hmm, [automaton], [STOP], L)
    prompts = TokenizedPrompts([[0]] * len(texts), {KEY: np.zeros(len(texts), np.int32)})
    hidden = MODEL.apply({"params": PARAMS}, np.pad(texts, ((0, 0), (1, 0)))).hidden
    base = Output(hidden, jnp.zeros((V, D)), None)
    batch, step = prompts.batch(np.arange(len(texts)), 0, L + 1), jax.jit(guide.step)
    prefill = jax.jit(guide.prefill, static_argnums=(4, 5))
    found, state = prefill(arrays, None, base, batch, 1, L - 1)
    every = [found.log_after]
    for t in range(1, L):
        base = Output(hidden[:, t : t + 1], base.vocabulary, None)
        found, state = step(arrays, None, base, texts[:, t - 1], state)
        every.append(found.log_after)
    return np.stack(every)


def test_the_guide_of_a_trained_head_comes_close_to_the_exact_one(head):
    """And forbids exactly what that one forbids."""
    texts = np.random.default_rng(1).integers(0, V - 1, (60, L)).astype(np.int32)
    untrained = init_head(D, H, 0)
    exact, found, before = (
        values(HMM.replace(head=each), texts) for each in (None, head, untrained)
    )
    possible = exact > -np.inf
    np.testing.assert_array_equal(found > -np.inf, possible)

    undecided = possible & (exact < np.log(0.99))

    def error(other):
        return np.abs(other[undecided] - exact[undecided]).mean()

    assert error(found) < 0.02 < 0.05 < error(before)


def test_the_next_tokens_are_as_likely_as_under_the_filter(head):
    rows = rows_of(500, 7)
    best, untrained = (
        next_token_loss(MODEL, PARAMS, HMM.replace(head=each), rows, 64)
        for each in (head, init_head(D, H, 0))
    )
    log_probs = jax.nn.log_softmax(
        jnp.asarray(MODEL.apply({"params": PARAMS}, rows.tokens).hidden) @ np.linalg.pinv(MIXTURE)
    )
    of_text = np.arange(L)[None] < rows.length[:, None] - 1
    chosen = np.take_along_axis(np.asarray(log_probs)[:, :-1], rows.tokens[:, 1:, None], 2)[..., 0]
    exact = -chosen[of_text].mean()
    assert abs(best - exact) < 0.02 < untrained - exact
