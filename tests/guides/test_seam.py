"""A guide of one's own, with a condition per prompt, through every public seam.

The throw-away guide wants one token, another for each prompt: log R is 0 after a prefix that has
it, and log RARE after any other.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from support import world
from support.world import CONTINUATIONS, EOS, MODEL, N, V

from dinado_jax.data.batching import take
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_in_groups, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.guides.protocol import NextValues
from dinado_jax.language_model import Base, Controlled, compose
from dinado_jax.ops import bernoulli
from dinado_jax.rollouts.arrays import Rollouts, concatenate, select

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RARE = 0.05
PROMPTS = [list(prompt) for prompt in world.PROMPTS]
WANTED = np.array([4, 1, 2], np.int32)
CONDITION = {"keyword": {"token": WANTED}}
BASE = Base(MODEL, world.base_params(), None)


class State(NamedTuple):
    wanted: jax.Array  # int32 [R]
    seen: jax.Array  # bool [R]


@dataclasses.dataclass(frozen=True)
class Wants:
    single_pass = False

    def decode_params(self, params):
        return params

    def prefill(self, params, base_params, base, prompts, samples, steps):
        wanted = prompts.condition["keyword"]["token"]
        state = State(wanted, jnp.zeros(len(wanted), bool))
        rows = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), state)
        return self._values(params, state), rows

    def step(self, params, base_params, base, tokens, state):
        state = state._replace(seen=state.seen | (tokens == state.wanted))
        return self._values(params, state), state

    def _values(self, params, state):
        column = jnp.arange(V)[None]
        has = state.seen[:, None] | (column == state.wanted[:, None])
        log_r = jnp.where(has, 0.0, params["log_rare"])
        log_v = jnp.where(state.seen, 0.0, params["log_rare"])
        return NextValues(log_v, log_r, bernoulli.logit(log_v), bernoulli.logit(log_r))


MODEL_OF = Controlled(BASE, Wants(), {"log_rare": jnp.log(jnp.float32(RARE))})


def log_q(number: int, strength: float = 1.0, control=None) -> np.ndarray:
    """[rows, N, V] of every continuation, by the definition."""
    prompt = PROMPTS[number]
    tokens = np.array([[*prompt, *row] for row in CONTINUATIONS])
    logits = MODEL.apply({"params": BASE.params}, tokens).logits
    scores = world.log_softmax(np.float64(logits)[:, len(prompt) - 1 : -1])
    seen = np.cumsum(WANTED[number] == CONTINUATIONS, axis=1) > 0
    seen = np.pad(seen, ((0, 0), (1, 0)))[:, :N, None]
    has = seen | (np.arange(V) == WANTED[number])
    scores = scores + strength * np.where(has, 0.0, np.log(RARE))
    if control is not None:
        params = world.params(control)
        scores = scores + world.exact(world.control(control), BASE.params, params, prompt)[2]
    return world.log_softmax(scores)


def sampler(model, samples, mesh=None):
    return Sampler(model.policy, Method(), EOS, N, samples, mesh)


def rows_of(drawn, samples):
    """What `score` takes, with the condition of each row."""
    prompts = [prompt for prompt in PROMPTS for _ in range(samples)]
    new = [row[:n].tolist() for row, n in zip(drawn.tokens, drawn.length)]
    rows = sequences(prompts, new, EOS, world.WIDTH)
    condition = {"keyword": {"token": np.repeat(WANTED, samples)}}
    return dataclasses.replace(rows, condition=condition)


@pytest.fixture(scope="module")
def drawn():
    count = 800
    return count, sample_prompts(
        sampler(MODEL_OF, count),
        MODEL_OF.variables,
        PROMPTS,
        jax.random.key(5),
        3 * count,
        condition=CONDITION,
    )


def test_samples_follow_each_prompts_own_condition(drawn):
    count, samples = drawn
    for number in range(3):
        own = slice(number * count, (number + 1) * count)
        found = [
            tuple(row[:n]) for row, n in zip(samples.tokens[own].tolist(), samples.length[own])
        ]
        assert world.p_value(found, world.sequence_probs(log_q(number))) > 1e-3


def test_scores_are_those_of_the_samples(drawn):
    count, samples = drawn
    rows = rows_of(samples, count)
    scores = score(MODEL_OF.policy, MODEL_OF.variables, rows, 256).sum(1)
    np.testing.assert_allclose(scores, samples.log_probs.sum(1), atol=2e-5)
    other = dataclasses.replace(
        rows, condition={"keyword": {"token": np.zeros(3 * count, np.int32)}}
    )
    assert np.abs(score(MODEL_OF.policy, MODEL_OF.variables, other, 256).sum(1) - scores).max() > 1


def test_groups_and_devices_change_no_sample():
    wide = np.concatenate([WANTED, WANTED[::-1], WANTED[:2]])
    prompts = [*PROMPTS, *PROMPTS[::-1], *PROMPTS[:2]]
    given = MODEL_OF.variables, prompts, jax.random.key(1)
    condition = {"keyword": {"token": wide}}
    alone = sample_prompts(sampler(MODEL_OF, 4), *given, 32, condition=condition)
    grouped = sample_in_groups(sampler(MODEL_OF, 4), *given, 32, condition)
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    shared = sample_prompts(sampler(MODEL_OF, 4, mesh), *given, 32, condition=condition)
    for other in (grouped, shared):
        np.testing.assert_array_equal(alone.tokens, other.tokens)
        np.testing.assert_allclose(alone.log_probs, other.log_probs, atol=1e-5)


def test_beams_find_the_likeliest():
    search = Beam(MODEL_OF.policy, EOS, N, 8, 3, 0.0)
    found = beam_prompts(search, MODEL_OF.variables, PROMPTS, 24, CONDITION)
    for number in range(3):
        best = sorted(world.sequence_probs(log_q(number)).items(), key=lambda pair: -pair[1])[:3]
        lengths = found.length[number]
        tokens = [tuple(row[:n]) for row, n in zip(found.tokens[number].tolist(), lengths)]
        assert tokens == [outcome for outcome, _ in best]
        np.testing.assert_allclose(np.exp(found.log_probs[number]), [p for _, p in best], rtol=1e-4)


@pytest.mark.parametrize("control", ["merge", "projected-merge"])
def test_it_composes_with_a_trained_control(control):
    trained = Controlled(BASE, world.control(control), world.params(control))
    both = compose(trained, MODEL_OF.tilted(strength=2.0))
    tokens = np.array([[*PROMPTS[2], *row] for row in CONTINUATIONS[:50]])
    rows = sequences([PROMPTS[2]] * 50, CONTINUATIONS[:50].tolist(), EOS, world.WIDTH)
    rows = dataclasses.replace(rows, condition={"keyword": {"token": np.full(50, WANTED[2])}})
    found = score(both.policy, both.variables, rows, 64)[:, len(PROMPTS[2]) - 1 :]
    expected = np.take_along_axis(log_q(2, 2.0, control)[:50], tokens[:, -N:, None], 2)[..., 0]
    np.testing.assert_allclose(found[:, :N], expected, atol=1e-4)


def judged(drawn, count) -> Rollouts:
    rows = rows_of(drawn, count)
    number = len(rows)
    zeros = np.zeros(number, np.float32)
    return Rollouts(
        tokens=rows.tokens,
        prompt_length=rows.prompt_length,
        length=rows.length,
        condition=rows.condition,
        label=np.float32(np.arange(number) % 2),
        log_base=zeros,
        log_proposal=zeros,
        log_prefix=np.zeros((number, rows.tokens.shape[1] - 1), np.float32),
        prompt_id=np.repeat(np.arange(3), count).astype(np.int32),
        finished=np.ones(number, bool),
    )


def test_rollouts_keep_it_and_batches_carry_it(drawn, tmp_path):
    count, samples = drawn
    rollouts = judged(samples, count)
    rollouts.save(tmp_path / "rollouts.npz", "of this run")
    loaded = Rollouts.load(tmp_path / "rollouts.npz", "of this run")
    both = concatenate([select(loaded, np.arange(5)), select(loaded, np.array([2000]))], EOS)
    token = both.condition["keyword"]["token"]
    assert token.dtype == np.int32 and token.tolist() == [4] * 5 + [2]
    index = np.array([2 * count, 0, count, 3])
    batch = take(loaded, index)
    np.testing.assert_array_equal(batch.condition["keyword"]["token"], [2, 4, 1, 4])
    found = MODEL_OF.policy.log_probs(MODEL_OF.variables, batch)
    end = batch.prompt_length - 1
    first = np.take_along_axis(np.asarray(found), end[:, None], 1)[:, 0]
    np.testing.assert_allclose(first, samples.log_probs[index, 0], atol=1e-5)


@pytest.mark.parametrize("leaf", [np.zeros(3, np.int32), np.array(["a"] * 2400), np.float32(1)])
def test_a_condition_that_is_no_row_of_numbers_per_prompt_is_refused(drawn, tmp_path, leaf):
    from dinado_jax.errors import InputError

    count, samples = drawn
    rollouts = dataclasses.replace(judged(samples, count), condition={"token": leaf})
    rollouts.save(tmp_path / "rollouts.npz")
    with pytest.raises(InputError, match="condition/token"):
        Rollouts.load(tmp_path / "rollouts.npz")
