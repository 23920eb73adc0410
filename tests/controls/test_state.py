"""A control that reads the state of its oracle: one distribution by token and by row, R exact at
the end, and nothing of later tokens in what is said of earlier ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, world

from dinado_jax.automata import progress
from dinado_jax.automata.automaton import explore
from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.sentence_end import SENTENCE_END
from dinado_jax.automata.tokens import Vocabulary, token_automaton
from dinado_jax.controls.state import AUTOMATA, StateReader
from dinado_jax.controls.state_table import StateTable
from dinado_jax.data.batch import rows_of
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.guides.guided import Guided
from dinado_jax.guides.prompt_values import prompt_values
from dinado_jax.guides.tilt import NEUTRAL
from dinado_jax.models.cache import scan_steps
from dinado_jax.ops.masks import target_mask

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TEXTS = ["", "a", "b", "c", "b."]  # token 0 ends a text
BUDGET = world.N
KINDS = [kind for kind in world.DISTINCT if kind not in world.LLAMA_KINDS]


def containing(word: str):
    return explore(
        "",
        lambda state, symbol: state if word in state else (state + symbol)[-len(word) :],
        lambda state: word in state,
        "abcd",
    )


@functools.cache
def automata():
    vocabulary = Vocabulary.of(TEXTS)
    own = [[token_automaton(containing(w), vocabulary) for w in ws] for ws in (("a", "c"), ("bb",))]
    ends = token_automaton(SENTENCE_END, vocabulary)
    return stack([conjunction(each, [world.EOS], ends) for each in own])


def log_rates() -> np.ndarray:
    return -3 * np.random.default_rng(0).random((BUDGET + 1, progress.COUNT), np.float32)


def untrained(kind: str):
    control = world.control(kind)
    control = dataclasses.replace(control, state=StateReader(control.model.width, BUDGET))
    key, rate = jax.random.key(1), tiny.SUCCESS_RATE
    return control, control.init(key, world.base_params(), rate, log_rates())


def stated(kind: str):
    control, fresh = untrained(kind)
    return control, tiny.noisy(fresh, 0.3)


def batch(which: int):
    rows = world.batch(world.PROMPTS[0])
    number = np.full(len(rows.tokens), which)
    return dataclasses.replace(rows, condition={AUTOMATA: rows_of(automata(), number)}), number


@functools.partial(jax.jit, static_argnums=0)
def log_policy(control, params, rows):
    return control.log_policy(world.base_params(), params, rows)


@functools.partial(jax.jit, static_argnums=0)
def forced(control, variables, rows):
    policy = Guided(control.model, (control,), (NEUTRAL.flags,))
    return policy.log_probs(variables, rows)


@functools.partial(jax.jit, static_argnums=0)
def forced_alone(policy, variables, rows):
    """By steps of a policy that never sees the base: [rows, N]."""
    tokens = jnp.asarray(rows.tokens)
    start = len(world.PROMPTS[0])
    prompts = Prompts(tokens[:, :start], rows.prompt_length, rows.condition)
    drawn = tokens[:, start : start + world.N]

    def read(state, step):
        scores, carry = state
        token = drawn[:, step]
        log_q = jax.nn.log_softmax(scores.policy)
        return policy.step(variables, carry, token), log_q[jnp.arange(len(token)), token]

    return scan_steps(read, policy.prefill(variables, prompts, 1, world.N), world.N)[1].T


def until_the_end(rows) -> np.ndarray:
    """[rows, N]: 1 up to the token that ends a row."""
    drawn = np.asarray(rows.tokens)[:, len(world.PROMPTS[0]) :][:, : world.N]
    ended = np.cumsum(drawn == world.EOS, 1) - (drawn == world.EOS)
    return ended == 0


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_by_token_as_by_row(kind, which):
    control, params = stated(kind)
    rows, number = batch(which)
    together = np.asarray(log_policy(control, params, rows))[:, world.targets(world.PROMPTS[0])]
    arrays = {**control.decode_params(params), "automata": automata()}
    variables = {"base": world.base_params(), "guides": (arrays,), "tilts": (NEUTRAL.numbers,)}
    decoded = dataclasses.replace(rows, condition={AUTOMATA: number})
    apart = np.asarray(forced(control, variables, decoded))[:, world.targets(world.PROMPTS[0])]
    inside = until_the_end(rows)
    np.testing.assert_allclose(together[inside], apart[inside], atol=2e-4)


@pytest.mark.parametrize("kind", ["merge", "soft-small"])
def test_untrained_it_is_the_table_of_rates(kind):
    control, params = untrained(kind)
    rows, number = batch(0)
    columns = world.targets(world.PROMPTS[0])
    found = np.asarray(log_policy(control, params, rows))[:, columns]
    table = StateTable(control.model, control.state)
    arrays = {**table.init(log_rates()), AUTOMATA: automata()}
    variables = {"base": world.base_params(), "guides": (arrays,), "tilts": (NEUTRAL.numbers,)}
    decoded = dataclasses.replace(rows, condition={AUTOMATA: number})
    wanted = np.asarray(forced(table, variables, decoded))[:, columns]
    inside = until_the_end(rows)
    np.testing.assert_allclose(found[inside], wanted[inside], atol=2e-4)


@functools.partial(jax.jit, static_argnums=0)
def values(control, params, rows):
    return control.values(world.base_params(), params, rows)


@pytest.mark.parametrize("kind", ["merge", "soft-small", "soft-norm_of_layers"])
def test_the_norm_reads_the_state_too_by_token_as_by_row(kind):
    control, params = stated(kind)
    tokens = TokenizedPrompts([list(world.PROMPTS[0])] * 2, {AUTOMATA: np.arange(2)})
    parts = control.model, control, world.base_params(), {**params, AUTOMATA: automata()}
    apart = prompt_values(*parts, tokens, world.EOS, 2)
    column = len(world.PROMPTS[0]) - 1
    for which in (0, 1):
        together = values(control, params, batch(which)[0]).log_value[:, column]
        np.testing.assert_allclose(np.exp(together), apart[which], rtol=1e-4)
    assert abs(apart[0] - apart[1]) > 0.01 * apart[0]
    first, second = (np.asarray(beta_logit(control, params, batch(i)[0])) for i in (0, 1))
    assert np.abs(first - second)[:, column].min() > 0.01


@functools.partial(jax.jit, static_argnums=0)
def beta_logit(control, params, rows):
    return control.step_inputs(world.base_params(), params, rows).beta_logit


@pytest.mark.parametrize("kind", ["merge", "clamped-merge"])
def test_one_pass_is_enough_where_the_direction_is_a_policy(kind):
    control, params = stated(kind)
    rows, number = batch(0)
    together = np.asarray(log_policy(control, params, rows))[:, world.targets(world.PROMPTS[0])]
    arrays = {**params, AUTOMATA: automata()}
    variables = control.policy_variables(world.base_params(), arrays)
    decoded = dataclasses.replace(rows, condition={AUTOMATA: number})
    alone = np.asarray(forced_alone(control.policy, variables, decoded))
    scored = jax.jit(control.policy.log_probs)(variables, decoded)
    scored = np.asarray(scored)[:, world.targets(world.PROMPTS[0])]
    inside = until_the_end(rows)
    np.testing.assert_allclose(alone[inside], together[inside], atol=2e-4)
    np.testing.assert_allclose(scored[inside], together[inside], atol=1e-5)


@pytest.mark.parametrize("kind", ["merge", "nado"])
def test_decoding_is_one_program_that_never_asks_the_host(kind):
    control, params = stated(kind)
    arrays = {**params, AUTOMATA: automata()}
    variables = control.policy_variables(world.base_params(), arrays)
    tokens = np.int32([world.PROMPTS[0]] * 2)
    number = np.arange(2, dtype=np.int32)
    prompts = Prompts(tokens, np.full(2, tokens.shape[1], np.int32), {AUTOMATA: number})
    sampler = Sampler(control.policy, Method(), (world.EOS,), world.N)
    first = jax.eval_shape(sampler.prefill, variables, prompts, number, jax.random.key(0))
    program = Sampler.decode.lower(sampler, variables, first).as_text()
    assert "stablehlo.while" in program
    assert not any(word in program for word in ("callback", "infeed", "outfeed", "stablehlo.send"))


@pytest.mark.parametrize("kind", ["merge", "nado", "clamped-merge"])
def test_every_text_satisfies_a_single_automaton(kind):
    """None ends before, and none is left with too few tokens."""
    control, params = stated(kind)
    rows, _ = batch(1)
    log_q = np.asarray(log_policy(control, params, rows))[:, world.targets(world.PROMPTS[0])]
    total = np.where(until_the_end(rows), log_q, 0).sum(1)
    mass = {}
    for row, value in zip(world.CONTINUATIONS.tolist(), total):
        end = row.index(world.EOS) if world.EOS in row else len(row)
        mass[tuple(row[: end + 1])] = np.exp(value)  # rows that differ after it are one text
    assert sum(mass.values()) == pytest.approx(1, abs=1e-4)
    fail = [value for row, value in mass.items() if "bb" not in "".join(TEXTS[v] for v in row)]
    assert fail and max(fail) < 1e-5


@pytest.mark.parametrize("name", ["now", "left"])
def test_any_token_may_depend_on_what_is_missing_and_on_the_tokens_left(name):
    """A change of what is read of one class, or of one number of tokens, moves its prefixes."""
    control, params = stated("merge")
    rows, _ = batch(0)
    at = control.state.along(rows)
    seen = np.asarray(at.left if name == "left" else at.now)
    which = int(seen[0, world.targets(world.PROMPTS[0])][0])
    state = {**params["state"], name: params["state"][name].at[which].add(1.0)}
    before = np.asarray(log_policy(control, params, rows))
    after = np.asarray(log_policy(control, {**params, "state": state}, rows))
    touched = (seen == which) & (np.asarray(target_mask(rows)) > 0)
    moved = np.abs(after - before) > 1e-4
    assert moved[touched].mean() > 0.9 and not moved[seen != which].any()


def test_without_training_only_the_impossible_changes():
    control = world.control("merge")
    control = dataclasses.replace(control, state=StateReader(control.model.width, BUDGET))
    params = control.init(jax.random.key(1), world.base_params(), tiny.SUCCESS_RATE)
    rows, _ = batch(0)
    possible = np.asarray(control.state.along(rows).after) != progress.IMPOSSIBLE
    scalars = jax.jit(control.step_inputs)(world.base_params(), params, rows).scalars
    drawn = np.asarray(rows.tokens)[:, 1:, None]
    allowed = np.take_along_axis(possible, drawn, 2)[..., 0]
    inside = np.zeros_like(allowed)
    inside[:, world.targets(world.PROMPTS[0])] = until_the_end(rows)
    inside &= possible.any(2)  # where nothing is possible any more nothing is told apart
    ratio, peak = np.asarray(scalars.log_ratio), np.asarray(scalars.peak)
    gained, lost = allowed & inside, ~allowed & inside
    np.testing.assert_allclose(ratio[gained], peak[gained], atol=1e-5)
    assert lost.any() and (ratio[lost] < -20).all()


def test_the_class_of_a_prefix_depends_on_nothing_later():
    control, params = stated("merge")
    rows, _ = batch(0)
    log_q = np.asarray(log_policy(control, params, rows))[:, world.targets(world.PROMPTS[0])]
    by_prefix = {}
    for row, value in zip(world.CONTINUATIONS.tolist(), log_q):
        for t in range(world.N):
            first = by_prefix.setdefault(tuple(row[: t + 1]), value[t])
            assert value[t] == pytest.approx(first, abs=1e-5)
    assert len(by_prefix) == sum(world.V**t for t in range(1, world.N + 1))
    assert np.isfinite(log_q).all()
