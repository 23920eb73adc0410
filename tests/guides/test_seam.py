"""A guide of one's own, with a condition per prompt, through every public seam.

The throw-away guide wants one token, another for each prompt: log R is 0 after a prefix that has
it, and log RARE after any other.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import world
from support.world import CONTINUATIONS, EOS, MODEL, N, V

import dinado_jax
from dinado_jax.config.schema import Parallel, Sampling, Train
from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.batching import restore_order
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.refill import iter_refilled
from dinado_jax.decoding.sampler import Sampler, sample_in_groups, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.errors import InputError
from dinado_jax.guides.protocol import NextValues
from dinado_jax.language_model import Base, Controlled, compose
from dinado_jax.objectives.terms import Term
from dinado_jax.objectives.warmup import Warmup
from dinado_jax.ops import bernoulli
from dinado_jax.ops.masks import target_mask
from dinado_jax.rollouts.arrays import Rollouts, concatenate, select
from dinado_jax.rollouts.collect import Collector
from dinado_jax.training.step import init_state, make_step, split_micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RARE = 0.05
PROMPTS = [list(prompt) for prompt in world.PROMPTS]
TEXTS = [" ".join(map(str, prompt[1:])) for prompt in PROMPTS]
WANTED = np.array([4, 1, 2], np.int32)


class Digits(NamedTuple):
    """A codec: the text of token 3 is "3"."""

    eos_id: int = EOS
    stop_ids: tuple[int, ...] = (EOS,)
    template: None = None

    def prompts(self, texts):
        return [[EOS, *map(int, text.split())] for text in texts]

    def targets(self, texts):
        return [[*map(int, text.split()), EOS] for text in texts]

    def decode(self, ids):
        return [" ".join(str(token) for token in row if token != EOS) for row in ids]


class State(NamedTuple):
    wanted: jax.Array  # int32 [R]
    seen: jax.Array  # bool [R]


@dataclasses.dataclass(frozen=True)
class Wants:
    """The whole of the guide."""

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


BASE = Base(MODEL, world.base_params(), None, Digits())
GUIDED = Controlled(BASE, Wants(), {"log_rare": jnp.log(jnp.float32(RARE))})


def condition(wanted=WANTED):
    return {"keyword": {"token": np.asarray(wanted, np.int32)}}


GIVEN = TokenizedPrompts(PROMPTS, condition())
ASKED = PromptSet(TEXTS, condition=condition())


def log_p(number: int) -> np.ndarray:
    """[rows, N, V] of every continuation."""
    prompt = PROMPTS[number]
    tokens = np.array([[*prompt, *row] for row in CONTINUATIONS])
    logits = MODEL.apply({"params": BASE.params}, tokens).logits
    return world.log_softmax(np.float64(logits)[:, len(prompt) - 1 : -1])


def log_q(number: int, strength: float = 1.0, control=None) -> np.ndarray:
    """The same under the guide, by the definition."""
    seen = np.cumsum(WANTED[number] == CONTINUATIONS, axis=1) > 0
    seen = np.pad(seen, ((0, 0), (1, 0)))[:, :N, None]
    has = seen | (np.arange(V) == WANTED[number])
    scores = log_p(number) + strength * np.where(has, 0.0, np.log(RARE))
    if control is not None:
        exact = world.exact(
            world.control(control), BASE.params, world.params(control), PROMPTS[number]
        )
        scores = scores + exact[2]
    return world.log_softmax(scores)


def along(table: np.ndarray, tokens: list[int]) -> np.ndarray:
    """The entries of a table [rows, N, V] that belong to the tokens of one continuation."""
    row = np.flatnonzero((CONTINUATIONS[:, : len(tokens)] == tokens).all(1))[0]
    return table[row, np.arange(len(tokens)), tokens]


def mesh():
    return Mesh(np.array(jax.devices()), ("rows",))


def sampler(model, samples, mesh=None):
    return Sampler(model.policy, Method(), (EOS,), N, samples, mesh, scores=True)


def rows_of(drawn, prompts: TokenizedPrompts, samples: int):
    """What `score` reads, with the condition of each row."""
    each = prompts.select(np.repeat(np.arange(len(prompts)), samples))
    new = [row[:n].tolist() for row, n in zip(drawn.tokens, drawn.length)]
    rows = sequences(each.tokens, new, EOS, world.WIDTH)
    return dataclasses.replace(rows, condition=each.condition)


COUNT = 800


@pytest.fixture(scope="module")
def drawn():
    """COUNT samples of each prompt."""
    key = jax.random.key(5)
    return sample_prompts(sampler(GUIDED, COUNT), GUIDED.variables, GIVEN, key, 3 * COUNT)


def test_samples_follow_the_condition_of_their_own_prompt(drawn):
    for number in range(3):
        own = slice(number * COUNT, (number + 1) * COUNT)
        found = [tuple(row[:n]) for row, n in zip(drawn.tokens[own].tolist(), drawn.length[own])]
        assert world.p_value(found, world.sequence_probs(log_q(number))) > 1e-3


def test_samples_carry_their_log_probabilities_under_guide_and_base(drawn):
    for row in range(0, 3 * COUNT, 100):
        tokens = drawn.tokens[row, : drawn.length[row]].tolist()
        for found, table in ((drawn.log_policy, log_q), (drawn.log_base, log_p)):
            expected = along(table(row // COUNT), tokens)
            np.testing.assert_allclose(found[row, : len(tokens)], expected, atol=2e-5)
            assert (found[row, len(tokens) :] == 0).all()


def test_scores_are_those_of_the_samples(drawn):
    rows = rows_of(drawn, GIVEN, COUNT)
    scores = score(GUIDED.policy, GUIDED.variables, rows, 256).sum(1)
    np.testing.assert_allclose(scores, drawn.log_probs.sum(1), atol=2e-5)
    other = dataclasses.replace(rows, condition=condition(np.zeros(3 * COUNT)))
    assert np.abs(score(GUIDED.policy, GUIDED.variables, other, 256).sum(1) - scores).max() > 1


def test_groups_and_devices_change_nothing():
    """Samples, scores and beams of eight prompts, on one device and on eight."""
    again = np.array([0, 1, 2, 2, 1, 0, 0, 1])
    prompts = GIVEN.select(again)
    prompts = dataclasses.replace(prompts, ids=np.arange(8))
    given = GUIDED.variables, prompts, jax.random.key(1), 32
    alone = sample_prompts(sampler(GUIDED, 4), *given)
    grouped = sample_in_groups(sampler(GUIDED, 4), *given)
    shared = sample_prompts(sampler(GUIDED, 4, mesh()), *given)
    for other in (grouped, shared):
        np.testing.assert_array_equal(alone.tokens, other.tokens)
        np.testing.assert_allclose(alone.log_probs, other.log_probs, atol=1e-5)
    many = dataclasses.replace(GIVEN.select(np.tile(again, 3)), ids=np.arange(24))
    given = GUIDED.variables, many, jax.random.key(1), 32
    alone_again = sample_prompts(sampler(GUIDED, 4), *given)
    for devices in (None, mesh()):
        index, parts, _ = zip(*iter_refilled(sampler(GUIDED, 4, devices), *given))
        refilled = restore_order(index, parts)
        np.testing.assert_array_equal(alone_again.tokens, refilled.tokens)
        np.testing.assert_allclose(alone_again.log_probs, refilled.log_probs, atol=1e-5)
    rows = rows_of(alone, prompts, 4)
    beams = []
    for devices in (None, mesh()):
        scores = score(GUIDED.policy, GUIDED.variables, rows, 16, devices)
        np.testing.assert_allclose(scores.sum(1), alone.log_policy.sum(1), atol=2e-5)
        search = Beam(GUIDED.policy, (EOS,), N, 4, 2, mesh=devices, scores=True)
        beams.append(beam_prompts(search, GUIDED.variables, prompts, 32))
    for found, other in zip(*beams):
        np.testing.assert_allclose(found, other, atol=1e-5)
        np.testing.assert_allclose(found, found[[0, 1, 2, 2, 1, 0, 0, 1]], atol=1e-5)


def test_beams_find_the_likeliest_with_the_guides_own_r():
    """Also where a beam's state moves to another row, with what it has seen."""
    search = Beam(GUIDED.policy, (EOS,), N, 8, 3, 0.0, scores=True)
    found = beam_prompts(search, GUIDED.variables, GIVEN, 24)
    for number in range(3):
        probs, wanted = world.sequence_probs(log_p(number)), WANTED[number]
        joint = {row: p * (1.0 if wanted in row else RARE) for row, p in probs.items()}
        first = world.log_softmax(log_p(number))[0, 0] + np.where(
            np.arange(V) == wanted, 0.0, np.log(RARE)
        )
        best = sorted(joint.items(), key=lambda pair: -pair[1])[:3]
        lengths = found.length[number]
        tokens = [row[:n] for row, n in zip(found.tokens[number].tolist(), lengths)]
        assert [tuple(row) for row in tokens] == [outcome for outcome, _ in best]
        ranked = [p / np.exp(first).sum() for _, p in best]
        np.testing.assert_allclose(np.exp(found.log_probs[number]), ranked, rtol=1e-4)
        for place, row in enumerate(tokens):
            for scores, table in ((found.log_policy, log_q), (found.log_base, log_p)):
                own = scores[number, place]
                np.testing.assert_allclose(own[: len(row)], along(table(number), row), atol=2e-5)
                assert (own[len(row) :] == 0).all()


@pytest.mark.parametrize("control", ["merge", "projected-merge"])
def test_it_composes_with_a_trained_control(control):
    trained = Controlled(BASE, world.control(control), world.params(control))
    both = compose(trained, GUIDED.tilted(strength=2.0))
    some = CONTINUATIONS[:50]
    rows = sequences([PROMPTS[2]] * 50, some.tolist(), EOS, world.WIDTH)
    rows = dataclasses.replace(rows, condition=condition([WANTED[2]] * 50))
    found = score(both.policy, both.variables, rows, 64)[:, len(PROMPTS[2]) - 1 :]
    table = log_q(2, 2.0, control)
    expected = np.take_along_axis(table[:50], some[..., None], 2)[..., 0]
    np.testing.assert_allclose(found[:, :N], expected, atol=1e-4)


def test_text_is_generated_and_searched_under_it():
    """Each prompt's completions are scored by its own condition."""
    made = dinado_jax.generate(GUIDED, ASKED, max_new_tokens=N, samples=8, seed=3)
    made += dinado_jax.beam_search(GUIDED, ASKED, max_new_tokens=N, beams=4, hypotheses=2)
    assert len(made) == 3 * 8 + 3 * 2
    for one in made:
        number = TEXTS.index(one.prompt)
        tokens = one.tokens.tolist()
        np.testing.assert_allclose(one.log_probs, along(log_q(number), tokens), atol=2e-5)
        np.testing.assert_allclose(one.log_probs_base, along(log_p(number), tokens), atol=2e-5)
    with pytest.raises(InputError, match=r"condition of shape \(2,\) for 3 prompts"):
        dinado_jax.generate(GUIDED, PromptSet(TEXTS, condition=condition([4, 1])))


def has_its_token(prompts, texts):
    """The oracle: whether the text has the token its prompt wants."""
    wanted = dict(zip(TEXTS, map(str, WANTED)))
    return [wanted[prompt] in text.split() for prompt, text in zip(prompts, texts)]


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """Sixteen of each prompt, through shards on disk and a file."""
    folder = tmp_path_factory.mktemp("rollouts")
    sampling = Sampling(batch=16, max_new_tokens=N, temperature=1.0)
    collector = Collector(has_its_token, sampling, "of this run", mesh())
    key = jax.random.key(2)
    collected = collector.sample("wants", GUIDED, ASKED, 16, key, folder / "shards")
    collected.rollouts.save(folder / "rollouts.npz", "of this run")
    again = collector.sample("wants", GUIDED, ASKED, 16, key, folder / "shards")
    np.testing.assert_array_equal(again.rollouts.tokens, collected.rollouts.tokens)
    others = dataclasses.replace(ASKED, condition=condition(WANTED[::-1]))
    others = collector.sample("wants", GUIDED, others, 16, key, folder / "shards")
    assert (others.rollouts.tokens != collected.rollouts.tokens).any()
    return Rollouts.load(folder / "rollouts.npz", "of this run")


def test_rollouts_keep_it(rollouts):
    token = rollouts.condition["keyword"]["token"]
    assert token.dtype == np.int32
    np.testing.assert_array_equal(token, WANTED[rollouts.prompt_id])
    assert 0 < rollouts.label.mean() < 1
    for row in range(0, 48, 5):
        number = rollouts.prompt_id[row]
        tokens = rollouts.tokens[row, rollouts.prompt_length[row] : rollouts.length[row]].tolist()
        assert rollouts.label[row] == (WANTED[number] in tokens)
        for found, table in ((rollouts.log_proposal, log_q), (rollouts.log_base, log_p)):
            assert found[row] == pytest.approx(along(table(number), tokens).sum(), abs=5e-5)
    both = concatenate([select(rollouts, np.arange(5)), select(rollouts, np.array([40]))], EOS)
    assert both.condition["keyword"]["token"].tolist() == [4] * 5 + [2]


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_batches_carry_it_to_every_device(rollouts, mode):
    """A step that fits log RARE to the rollouts' successes, on one device and on eight."""
    objective = Warmup(Train(batch=16))
    batch = objective.batches(rollouts, np.ones(len(rollouts)), 0)(0)
    np.testing.assert_array_equal(
        batch.condition["keyword"]["token"], rollouts.condition["keyword"]["token"][batch.row]
    )

    def terms(params, base_params, batch):
        variables = Controlled(BASE, Wants(), params).variables | {"base": base_params}
        log_q = GUIDED.policy.log_probs(variables, batch) * target_mask(batch)
        return {"direction": Term(-log_q.sum(), batch.label.sum())}

    def stepped(plan):
        state = init_state(jax.tree.map(jnp.array, GUIDED.params), optax.sgd(0.1))
        batches = split_micro_batches(batch, 2)
        base = BASE.params
        if plan:
            state, base, batches = plan.shard(state), plan.shard(base), plan.shard_batch(batches)
        state, metrics = make_step(terms, optax.sgd(0.1), plan)(state, base, batches)
        first = jax.tree.map(lambda x: np.asarray(x).ravel()[0], (state.trainable, metrics))
        return {**first[0], **first[1]}

    alone, shared = stepped(None), stepped(make_plan(Parallel(mode=mode)))
    rows = [
        along(log_q(number), rollouts.tokens[row][start:end].tolist()).sum()
        for row, number, start, end in zip(
            batch.row,
            rollouts.prompt_id[batch.row],
            batch.prompt_length,
            batch.length,
        )
    ]
    assert alone["loss"] == pytest.approx(-np.mean(rows), abs=1e-4)
    assert abs(alone["log_rare"] - np.log(RARE)) > 1e-3
    for name, value in alone.items():
        assert shared[name] == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize("leaf", [np.zeros(3, np.int32), np.array(["a"] * 48), np.float32(1)])
def test_a_condition_that_is_not_a_row_of_numbers_per_rollout_is_refused(rollouts, tmp_path, leaf):
    dataclasses.replace(rollouts, condition={"token": leaf}).save(tmp_path / "rollouts.npz")
    with pytest.raises(InputError, match="condition/token"):
        Rollouts.load(tmp_path / "rollouts.npz")


def test_a_changed_condition_is_found_out(rollouts, tmp_path):
    path = tmp_path / "rollouts.npz"
    rollouts.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["condition/keyword/token"] = arrays["condition/keyword/token"][::-1]
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="not as they were written"):
        Rollouts.load(path)


def test_a_guide_that_forbids_tokens_has_no_effect_at_strength_0():
    params = {"log_rare": -jnp.inf}
    forbids = dataclasses.replace(GUIDED, params=params).tilted(strength=0)
    given = sequences(PROMPTS, [[3, EOS]] * len(PROMPTS), EOS, 8)
    given = dataclasses.replace(given, condition=condition())
    found, plain = (score(model.policy, model.variables, given, 3) for model in (forbids, BASE))
    np.testing.assert_allclose(found, plain, atol=1e-5)
    assert (plain < 0).any()
