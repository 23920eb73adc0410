"""The guide of an HMM and a constraint, against the sum over all texts."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, world
from support.refusal import error_of

from dinado_jax.automata.joint import product
from dinado_jax.automata.tokens import (
    Vocabulary,
    containing_token,
    token_automaton,
    with_distances,
)
from dinado_jax.constraints import (
    any_of_words,
    at_least_words,
    at_most_words,
    contains,
    ends_with,
    in_order,
    pattern,
    starts_with,
    without,
)
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.particles import ParticleSampler
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.guides.guided import guided_policy, guided_variables
from dinado_jax.guides.hmm import KEY, hmm_guide
from dinado_jax.guides.tilt import NEUTRAL
from dinado_jax.hmm.head import init_head, log_state_probs
from dinado_jax.hmm.model import random_hmm
from dinado_jax.models.output import Output

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TEXTS = [" a", "b", " b", " ", "c", "", "\ufffd"]
STOP, L = 5, 4
CONSTRAINTS = [
    contains("a"),
    contains("a b"),
    contains("a", "b"),
    any_of_words("a", "cb"),
    without("b"),
    in_order("b", "a"),
    at_least_words(2),
    at_most_words(1),
    starts_with("b"),
    ends_with("b", "bc"),
    pattern("(b|c)? ?(a ?b)*"),
    contains("a") & at_most_words(2) & ~ends_with("b"),
    contains("a") | pattern("b+"),
]


@functools.cache
def over_tokens(constraint):
    vocabularies = functools.cache(lambda read: Vocabulary.of([read(text) for text in TEXTS]))
    automata = constraint.automata("")
    return product([token_automaton(each, vocabularies(each.read)) for each in automata])


@functools.cache
def all_texts():
    """Token ids of every text: ended by the stop token, or cut at L."""
    others = [token for token in range(len(TEXTS)) if token != STOP]
    ended = [
        (*row, STOP) for length in range(L) for row in itertools.product(others, repeat=length)
    ]
    return [*ended, *itertools.product(others, repeat=L)]


def log_likelihood(hmm, row, state):
    """By the definition, float64; `state` are the probabilities of the first one."""
    total = 0.0
    for token in row:
        joint = state * np.float64(hmm.emission[token])
        total += np.log(joint.sum())
        state = joint / joint.sum() @ np.float64(hmm.transition)
    return total, state


def values_by_hand(hmm, texts, labels, prompt):
    """R of every prefix of every text: the success rate of the texts that begin with it."""
    start = np.float64(hmm.initial)
    if hmm.reads_prompt:
        _, start = log_likelihood(hmm, prompt, start)
    total, success = {}, {}
    for row, label in zip(texts, labels):
        prob = np.exp(log_likelihood(hmm, row, start)[0])
        for length in range(len(row) + 1):
            key = row[:length]
            total[key] = total.get(key, 0.0) + prob
            success[key] = success.get(key, 0.0) + label * prob
    return {key: success[key] / total[key] for key in total}


def verdicts(constraint):
    texts = ["".join(TEXTS[token] for token in row if token != STOP) for row in all_texts()]
    return constraint([""] * len(texts), texts)


def prefilled(hmm, constraints, prompts, samples, **how):
    guide, arrays = hmm_guide(hmm, [over_tokens(each) for each in constraints], [STOP], L, **how)
    condition = {KEY: np.arange(len(constraints), dtype=np.int32)}
    batch = TokenizedPrompts(prompts, condition).batch(np.arange(len(prompts)), 0, 4)
    base = Output(jnp.zeros((len(prompts), 4, 1)), jnp.zeros((len(TEXTS), 1)), None)
    prefill = jax.jit(guide.prefill, static_argnums=(4, 5))
    return guide, arrays, base, prefill(arrays, None, base, batch, samples, L - 1)


def without_samples(hmm, tokens):
    """The HMM as if no sample had these tokens: the least likely in every state."""
    emission = np.array(hmm.emission)
    emission[tokens] = emission.min(0)
    return hmm.replace(emission=emission / emission.sum(0))


@pytest.mark.parametrize("reads_prompt, unseen", [(False, []), (True, [1, 2, 4])])
def test_r_is_the_success_rate_over_all_continuations(reads_prompt, unseen):
    """Of every constraint, at every prefix, after every token; V likewise."""
    hmm = random_hmm(3, len(TEXTS), 0, 2.0).replace(reads_prompt=reads_prompt)
    hmm = without_samples(hmm, unseen) if unseen else hmm
    prompts = [[2, 3], [0], [4, 1, 1]]
    rows = [row for row in itertools.product(range(len(TEXTS)), repeat=L - 1) if STOP not in row]
    for begin in range(0, len(CONSTRAINTS), len(prompts)):
        some = CONSTRAINTS[begin : begin + len(prompts)]
        guide, arrays, base, (values, state) = prefilled(hmm, some, prompts[: len(some)], len(rows))
        wanted = [
            values_by_hand(hmm, all_texts(), verdicts(one), prompt)
            for one, prompt in zip(some, prompts)
        ]
        for number, table in enumerate(wanted):
            check(values, number, table, ())
        base, step = (
            base.replace(hidden=jnp.zeros((len(some) * len(rows), 1, 1))),
            jax.jit(guide.step),
        )
        for length in range(1, L):
            tokens = jnp.array([row[length - 1] for row in rows] * len(some), jnp.int32)
            values, state = step(arrays, None, base, tokens, state)
            for number, table in enumerate(wanted):
                for place in range(0, len(rows), 7):
                    check(values, number * len(rows) + place, table, rows[place][:length])


def check(values, row, table, prefix):
    wanted = np.array([table[(*prefix, token)] for token in range(len(TEXTS))])
    if wanted.any():  # of a prefix that is lost already nothing is asked
        found = np.exp(np.asarray(values.log_after[row], np.float64))
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
        assert ((found == 0) == (wanted == 0)).all()
        np.testing.assert_allclose(np.exp(values.log_value[row]), table[prefix], atol=1e-5)


def test_tokens_of_several_groups():
    """Against the recursion over all tokens, which knows of no groups."""
    V, stop, length = 320, 319, 3
    hmm = without_samples(random_hmm(4, V, 5, 2.0), [3, 200, 201, 310])
    e, t = np.float64(hmm.emission), np.float64(hmm.transition)
    # A keyword, and it is settled once the next token is one of the first half.
    table = np.array([[0, 0, 1], [2, 0, 1], [2, 2, 2]])
    accepting, automata = np.array([False, True, True]), []
    for keyword in (7, 250):
        class_of = (np.arange(V) >= 160).astype(np.int16)
        class_of[keyword] = 2
        automata.append(with_distances(class_of, table, accepting, np.arange(3) == 2))
    guide, arrays = hmm_guide(hmm, automata, [stop], length)
    assert len(arrays.emission) == 2  # groups

    def wanted(automaton, state, q, left):
        after = table[:, automaton.class_of]  # [states, V]
        value, ending = np.repeat(accepting[:, None], 4, 1), (np.arange(V) == stop)[:, None]
        for _ in range(left - 1):
            ahead = (value @ t.T)[after]
            value = accepting[:, None] * e[stop] + (np.where(ending, 0, e) * ahead).sum(1)
        joint = state * e
        found = (joint * (value @ t.T)[after[q]]).sum(1) / joint.sum(1)
        return np.where(ending[:, 0], accepting[q], found)

    def compare(values, row, automaton, state, q, left):
        found = np.exp(np.float64(values.log_after[row]))
        np.testing.assert_allclose(found, wanted(automaton, state, q, left), rtol=1e-5)

    prompts = TokenizedPrompts([[0], [0]], {KEY: np.arange(2, dtype=np.int32)})
    base = Output(jnp.zeros((2, 1, 1)), jnp.zeros((V, 1)), None)
    rows = prompts.batch(np.arange(2), 0, 1)
    values, state = guide.prefill(arrays, None, base, rows, 3, length - 1)
    drawn = np.array([7, 250, 201] * 2, np.int32)
    base = base.replace(hidden=jnp.zeros((6, 1, 1)))
    later, _ = jax.jit(guide.step)(arrays, None, base, drawn, state)
    start = np.float64(hmm.initial)
    for number, automaton in enumerate(automata):
        compare(values, number, automaton, start, 0, length)
        for row in range(3 * number, 3 * number + 3):
            moved = log_likelihood(hmm, drawn[row : row + 1], start)[1]
            q = table[0, automaton.class_of[drawn[row]]]
            compare(later, row, automaton, moved, q, length - 1)


# In a world that can be enumerated: decoding, alone and composed with a trained control

WORLD_HMM = random_hmm(3, world.V, 1, 2.0).replace(reads_prompt=True)
WANTED = product([containing_token(2, world.V), containing_token(3, world.V)])
KIND = "merge"


def succeeds(outcome):
    return {2, 3} <= set(outcome)


def log_r(prompt):
    """log R of the HMM after every next token of every continuation: [rows, N, V]."""
    found = np.full((len(world.CONTINUATIONS), world.N, world.V), -np.inf)
    texts = list(dict.fromkeys(_outcome(row) for row in world.CONTINUATIONS.tolist()))
    table = values_by_hand(WORLD_HMM, texts, [succeeds(text) for text in texts], prompt)
    for i, row in enumerate(world.CONTINUATIONS.tolist()):
        for t, v in itertools.product(range(world.N), range(world.V)):
            if world.EOS not in row[:t]:
                value = table[(*row[:t], v)]
                found[i, t, v] = np.log(value) if value > 0 else -np.inf
    return found


def _outcome(row):
    return tuple(row[: row.index(world.EOS) + 1] if world.EOS in row else row)


def guided(composed, tilts=(NEUTRAL, NEUTRAL)):
    """The policy with its variables, of the guide alone or with a trained control."""
    guide, arrays = hmm_guide(WORLD_HMM, [WANTED], [world.EOS], world.N)
    guides, params = [guide], [arrays]
    if composed:
        guides, params = [world.control(KIND), guide], [world.params(KIND, 0.15), arrays]
    tilts = tilts[: len(guides)]
    policy = guided_policy(world.MODEL, guides, tilts)
    return policy, guided_variables(world.base_params(), guides, params, tilts)


def log_q(prompt, composed, strength=1.0):
    """[rows, N, V] by hand; not a number where a text has failed already."""
    given = (world.control(KIND), world.base_params(), world.params(KIND, 0.15), prompt)
    log_p, _, log_control = world.exact(*given)
    scores = log_p + (log_control if composed else 0)
    scores = scores + strength * log_r(prompt)
    with np.errstate(invalid="ignore", divide="ignore"):
        return world.log_softmax(scores)


def rows_of(prompt, count):
    condition = {KEY: np.zeros(count, np.int32)}
    tokens = TokenizedPrompts([prompt] * count, condition)
    return tokens.batch(np.arange(count), 0, world.WIDTH)


@pytest.mark.parametrize("composed", [False, True])
def test_samples_follow_p_times_r_and_all_satisfy_the_constraint(composed):
    policy, variables = guided(composed)
    prompt = world.PROMPTS[2]
    sampler = Sampler(policy, Method(), (world.EOS,), world.N, 1000, scores=True)
    ids = np.arange(1, dtype=np.int32)
    drawn = sampler(variables, rows_of(prompt, 1), ids, jax.random.key(0))
    outcomes = [tuple(row[:n]) for row, n in zip(drawn.tokens.tolist(), drawn.length)]
    assert all(map(succeeds, outcomes))
    wanted = log_q(prompt, composed)
    place = {tuple(row): i for i, row in enumerate(world.CONTINUATIONS.tolist())}
    for outcome, scores in list(zip(outcomes, np.asarray(drawn.log_policy)))[:200]:
        i = place[(*outcome, *[0] * (world.N - len(outcome)))]
        by_hand = [wanted[i, t, token] for t, token in enumerate(outcome)]
        np.testing.assert_allclose(scores[: len(outcome)], by_hand, atol=2e-4)
    some = {text: p for text, p in world.sequence_probs(wanted).items() if p > 0}
    assert world.p_value(outcomes, some) > 1e-4


def log_r_of_states(states):
    """log R after every next token of every continuation, [rows, N, V], where something else than
    the HMM's filter gives the state before each token, [rows, N, H].
    """
    texts = list(dict.fromkeys(_outcome(row) for row in world.CONTINUATIONS.tolist()))
    found = np.full((len(world.CONTINUATIONS), world.N, world.V), -np.inf)
    for i, row in enumerate(world.CONTINUATIONS.tolist()):
        for t in range(world.N):
            total, success = np.zeros(world.V), np.zeros(world.V)
            for text in texts:
                if len(text) > t and text[:t] == tuple(row[:t]) and world.EOS not in row[:t]:
                    prob = np.exp(log_likelihood(WORLD_HMM, text[t:], np.float64(states[i, t]))[0])
                    total[text[t]] += prob
                    success[text[t]] += prob * succeeds(text)
            with np.errstate(invalid="ignore", divide="ignore"):
                found[i, t] = np.where(success > 0, np.log(success / total), -np.inf)
    return found


def test_a_head_predicts_the_state_from_the_hidden_state():
    """Decoding with caches, against one pass without."""
    head = tiny.noisy(init_head(world.MODEL.width, WORLD_HMM.states, 0), scale=1.0)
    hmm, prompt = WORLD_HMM.replace(head=head), world.PROMPTS[2]
    guide, arrays = hmm_guide(hmm, [WANTED], [world.EOS], world.N)
    policy = guided_policy(world.MODEL, [guide], [NEUTRAL])
    variables = guided_variables(world.base_params(), [guide], [arrays], [NEUTRAL])
    whole = world.MODEL.apply({"params": world.base_params()}, world.batch(prompt).tokens)
    states = np.exp(log_state_probs(head, whole.hidden[:, world.targets(prompt)]))
    assert np.ptp(states, axis=0).max() > 0.3
    given = (world.control(KIND), world.base_params(), world.params(KIND, 0.15), prompt)
    with np.errstate(invalid="ignore"):
        wanted = world.log_softmax(world.exact(*given)[0] + log_r_of_states(states))
    sampler = Sampler(policy, Method(), (world.EOS,), world.N, 200, scores=True)
    ids = np.arange(1, dtype=np.int32)
    drawn = sampler(variables, rows_of(prompt, 1), ids, jax.random.key(0))
    place = {tuple(row): i for i, row in enumerate(world.CONTINUATIONS.tolist())}
    for row, length, scores in zip(drawn.tokens.tolist(), drawn.length, drawn.log_policy):
        text = tuple(row[:length])
        assert succeeds(text)
        i = place[(*text, *[0] * (world.N - len(text)))]
        by_hand = [wanted[i, t, token] for t, token in enumerate(text)]
        np.testing.assert_allclose(scores[: len(text)], by_hand, atol=2e-4)


def test_beams_find_the_likeliest_texts_that_satisfy_the_constraint():
    policy, variables = guided(False)
    prompt = world.PROMPTS[2]
    beam = Beam(policy, (world.EOS,), world.N, 40, 5, 0.0)
    tokens = TokenizedPrompts([prompt], {KEY: np.zeros(1, np.int32)})
    found = beam_prompts(beam, variables, tokens, 40)
    outcomes = [tuple(row[:n]) for row, n in zip(found.tokens[0].tolist(), found.length[0])]
    given = (world.control(KIND), world.base_params(), world.params(KIND, 0.15), prompt)
    probs = world.sequence_probs(world.exact(*given)[0])
    best = sorted(filter(succeeds, probs), key=lambda text: -probs[text])
    assert outcomes == best[:5]


@pytest.mark.parametrize("composed", [False, True])
def test_particles_estimate_the_base(composed):
    """Weights make up for the HMM and the control, wherever they are wrong."""
    policy, variables = guided(composed)
    if composed:
        policy = dataclasses.replace(policy, guides=(policy.guides[0].as_twist, policy.guides[1]))
    prompt, repeats, count = world.PROMPTS[2], 300, 8
    sampler = ParticleSampler(policy, (world.EOS,), world.N, count)
    ids = np.arange(repeats, dtype=np.int32)
    drawn = sampler(variables, rows_of(prompt, repeats), ids, jax.random.key(3))
    given = (world.control(KIND), world.base_params(), world.params(KIND, 0.15), prompt)
    probs = world.sequence_probs(world.exact(*given)[0])
    outcomes = [tuple(row[:n]) for row, n in zip(drawn.tokens.tolist(), drawn.length)]
    success = np.array([succeeds(outcome) for outcome in outcomes])
    ends = np.array([outcome[-1] == world.EOS for outcome in outcomes])
    assert success.all()
    weight = np.exp(np.asarray(drawn.log_weight, np.float64))
    for feature, holds in (
        (success, succeeds),
        (success & ends, lambda text: succeeds(text) and text[-1] == world.EOS),
    ):
        estimates = (weight * feature).reshape(repeats, count).mean(1)
        truth = sum(prob for text, prob in probs.items() if holds(text))
        error = estimates.std(ddof=1) / np.sqrt(repeats)
        assert abs(estimates.mean() - truth) < 4 * error
    assert weight.std() > 0.01 * weight.mean()


def test_a_weight_mixes_the_hmm_and_the_base():
    """q(v | x) in proportion to p(v | x)^(1 - w) Pr(v | x, accepted)^w under the HMM."""
    guide, arrays = hmm_guide(WORLD_HMM, [WANTED], [world.EOS], world.N, weight=0.3)
    policy = guided_policy(world.MODEL, [guide], [NEUTRAL])
    variables = guided_variables(world.base_params(), [guide], [arrays], [NEUTRAL])
    prompt = world.PROMPTS[2]
    logits, _ = policy.prefill(variables, rows_of(prompt, 1), 1, world.N - 1)
    _, state = log_likelihood(WORLD_HMM, prompt, np.float64(WORLD_HMM.initial))
    given = (world.control(KIND), world.base_params(), world.params(KIND, 0.15), prompt)
    log_p = world.exact(*given)[0][0, 0]
    log_hmm = np.log(np.float64(WORLD_HMM.emission) @ state) + log_r(prompt)[0, 0]
    wanted = world.log_softmax(0.7 * log_p + 0.3 * log_hmm)
    found = np.float64(jax.nn.log_softmax(logits.policy[0]))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert "weight = 0: it must be above 0" in error_of(
        lambda: hmm_guide(WORLD_HMM, [WANTED], [world.EOS], world.N, weight=0)
    )
