"""Particles against enumeration: weighted, they estimate any mean under the base without bias."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import world
from support.world import EOS, MODEL, PROMPTS, N

from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.data.sequences import pad
from dinado_jax.decoding.particles import (
    Particles,
    ParticleSampler,
    choose,
    floored,
    particles_of_prompts,
    resample,
    survival,
)
from dinado_jax.decoding.policy import NextLogits
from dinado_jax.guides.guided import Guided
from dinado_jax.guides.tilt import NEUTRAL

pytestmark = pytest.mark.usefixtures("compiled_quickly")

REPEATS, PARTICLES = 400, 8
# Of the noise in the parameters of a guide: so large that weights differ, so small that few draws
# see every text.
SCALE = {"nado": 0.6, "soft-low_rank": 0.15, "merge": 0.1, "clamped-merge": 0.15}


def sampler(kind, particles=PARTICLES):
    policy = Guided(MODEL, (world.control(kind),), (NEUTRAL.flags,))
    return ParticleSampler(policy, (EOS,), N, particles)


def variables(kind):
    params = world.params(kind, scale=SCALE[kind])
    return {"base": world.base_params(), "guides": (params,), "tilts": (NEUTRAL.numbers,)}


def exact(kind, prompt):
    """{outcome: probability under the base}."""
    log_p, *_ = world.exact(
        world.control(kind), world.base_params(), world.params(kind, scale=SCALE[kind]), prompt
    )
    return world.sequence_probs(log_p)


def drawn(kind, prompt, repeats=REPEATS):
    """[repeats, particles, ..] of one prompt."""
    rows = Prompts(pad([prompt] * repeats, EOS), np.full(repeats, len(prompt), np.int32))
    ids = np.arange(repeats, dtype=np.int32)
    found = sampler(kind)(variables(kind), rows, ids, jax.random.key(3))
    return jax.tree.map(lambda x: np.asarray(x).reshape(repeats, PARTICLES, *x.shape[1:]), found)


@pytest.mark.parametrize("kind", ["nado", "soft-low_rank", "merge", "clamped-merge"])
def test_weighted_means_are_those_of_the_base(kind):
    prompt = PROMPTS[0]
    probs = exact(kind, prompt)
    particles = drawn(kind, prompt)
    numbers = world.outcome_numbers(particles.tokens.reshape(-1, N), probs)
    numbers = numbers.reshape(REPEATS, PARTICLES)
    shares = np.array([1.0, 0.5, 0.3, 0.1, 0.1, 0.05])
    features = np.random.default_rng(0).random((6, len(probs))) < shares[:, None]
    weight = np.exp(particles.log_weight)
    truth = features @ np.array(list(probs.values()))
    plain = features[:, numbers].mean((1, 2))
    estimates = (weight * features[:, numbers]).mean(2)
    error = estimates.std(1, ddof=1) / np.sqrt(REPEATS)
    assert (np.abs(estimates.mean(1) - truth) < 4.5 * error + 1e-5).all()
    # The guide's own draws are others.
    assert np.abs(plain - truth).max() > 0.02 and weight.std() > 0.02


def test_the_base_is_scored_as_drawn():
    prompt = PROMPTS[1]
    probs = exact("merge", prompt)
    particles = drawn("merge", prompt, 50)
    numbers = world.outcome_numbers(particles.tokens.reshape(-1, N), probs)
    log_p = np.log(list(probs.values()))[numbers]
    np.testing.assert_allclose(particles.log_base.sum(-1).ravel(), log_p, atol=2e-4)
    ended = (particles.tokens == EOS).any(-1)
    np.testing.assert_array_equal(particles.finished, ended)
    length = np.where(ended, (particles.tokens == EOS).argmax(-1) + 1, N)
    np.testing.assert_array_equal(particles.length, length)


def test_a_prompts_particles_do_not_depend_on_the_others():
    tokens = TokenizedPrompts(PROMPTS, ids=np.array([5, 7, 9]))
    several = dict(
        _by_prompt(
            particles_of_prompts(sampler("merge"), variables("merge"), tokens, KEY, 3 * PARTICLES)
        )
    )
    for index in range(3):
        one = particles_of_prompts(
            sampler("merge"), variables("merge"), tokens.select(np.array([index])), KEY, PARTICLES
        )
        ((_, alone),) = _by_prompt(one)
        jax.tree.map(np.testing.assert_array_equal, several[index].tokens, alone.tokens)


KEY = jax.random.key(11)


def _by_prompt(batches):
    for rows, particles in batches:
        prompts = rows.reshape(-1, PARTICLES)[:, 0] // PARTICLES
        parts = (np.split(x, len(prompts)) for x in particles)
        yield from zip(prompts.tolist(), map(Particles._make, zip(*parts)))


def test_resampling_is_systematic():
    log_weight = jnp.log(jnp.array([[0.05, 3.0, 0.05, 0.9], [1.0, 1.1, 0.9, 1.0]]))
    parents, mean = resample(log_weight, jnp.array([0.5, 0.5]))
    np.testing.assert_array_equal(parents, [[1, 1, 1, 3], [0, 1, 2, 3]])
    np.testing.assert_allclose(mean, [0.0, -np.inf], atol=1e-6)
    dead = jnp.full((1, 4), -jnp.inf)
    parents, mean = resample(dead, jnp.array([0.3]))
    np.testing.assert_array_equal(parents, [[0, 1, 2, 3]])
    assert mean[0] == -jnp.inf
    one = jnp.full((1, 4), -jnp.inf).at[0, 2].set(-300.0)
    parents, mean = resample(one, jnp.array([0.999]))
    np.testing.assert_array_equal(parents, [[2, 2, 2, 2]])
    np.testing.assert_allclose(mean, [-300 - np.log(4)], rtol=1e-6)


def test_a_row_draws_each_share_in_the_mean():
    log_weight = jnp.log(jnp.array([[0.1, 2.9, 0.3, 0.7]] * 2000))
    uniform = jax.random.uniform(jax.random.key(0), (2000,))
    parents, _ = resample(log_weight, uniform)
    count = (np.asarray(parents)[..., None] == np.arange(4)).sum(1).mean(0)
    np.testing.assert_allclose(count, [0.1, 2.9, 0.3, 0.7], atol=0.05)


def test_one_is_chosen_in_proportion_to_its_weight_and_label():
    weight, label = np.array([0.5, 2.0, 1.0, 3.0]), np.array([1.0, 0.5, 0.0, 0.25])
    many = np.broadcast_to(np.log(weight), (20000, 4)), np.broadcast_to(label, (20000, 4))
    chosen, excess = choose(*many, KEY)
    share = weight * label / (weight * label).sum()
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 20000, share, atol=0.015)
    wanted = np.log(label[[0, 1, 3]]) - np.log((weight * label).mean())
    for particle, of_it in zip((0, 1, 3), wanted):
        np.testing.assert_allclose(excess[chosen == particle], of_it, rtol=1e-6)
    chosen, excess = choose(many[0], np.zeros((20000, 4)), KEY)
    share = weight / weight.sum()
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 20000, share, atol=0.015)
    np.testing.assert_allclose(excess, -np.log(weight.mean()), rtol=1e-6)


@pytest.mark.parametrize("kind", ["soft-low_rank", "merge"])
def test_what_is_chosen_approaches_the_target_and_its_excess_bounds_the_kl(kind):
    prompt = PROMPTS[0]
    probs = exact(kind, prompt)
    p = np.array(list(probs.values()))
    label = np.random.default_rng(1).choice([0.0, 0.3, 1.0], len(p), p=[0.6, 0.2, 0.2])
    target = p * label / (p @ label)
    floor = np.sum(target * np.log(np.maximum(target, 1e-30) / p))
    drawn_by, distance = drawn(kind, prompt, 3000), {}
    numbers = world.outcome_numbers(drawn_by.tokens.reshape(-1, N), probs).reshape(3000, -1)
    for count in (2, PARTICLES):  # of a prefix of the particles: those of one set are exchangeable
        weight, own = drawn_by.log_weight[:, :count], numbers[:, :count]
        chosen, excess = choose(weight, label[own], KEY)
        share = np.bincount(own[np.arange(3000), chosen], minlength=len(p)) / 3000
        distance[count] = np.abs(share - target).sum() / 2
        kl = np.sum(share * np.log(np.maximum(share, 1e-30) / p))
        noise = excess.std() / np.sqrt(3000)
        if count == PARTICLES:
            assert excess.mean() > floor - 3 * noise
            assert excess.mean() > kl - 0.05 - 3 * noise  # what counts do to a KL is below .05
    plain = np.bincount(numbers[:, 0], minlength=len(p)) / 3000
    assert distance[PARTICLES] < distance[2] < np.abs(plain - target).sum() / 2


@pytest.mark.parametrize("kind", ["soft-low_rank", "merge"])
def test_the_particles_of_a_control_are_its_own_samples_weighed_by_p_over_q(kind):
    prompt, control = PROMPTS[2], world.control(kind).as_twist
    assert control.as_twist == control
    policy = Guided(MODEL, (control,), (NEUTRAL.flags,))
    ids = np.arange(REPEATS, dtype=np.int32)
    rows = Prompts(pad([prompt] * REPEATS, EOS), np.full(REPEATS, len(prompt), np.int32))
    found = ParticleSampler(policy, (EOS,), N, PARTICLES)(variables(kind), rows, ids, KEY)
    params = world.params(kind, scale=SCALE[kind])
    log_p, _, log_r = world.exact(world.control(kind), world.base_params(), params, prompt)
    scores = log_p + log_r
    log_q = scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)
    p, q = (world.sequence_probs(each) for each in (log_p, log_q))
    numbers = world.outcome_numbers(np.asarray(found.tokens), q)
    ratio = np.log(list(p.values())) - np.log(list(q.values()))
    np.testing.assert_allclose(found.log_weight, ratio[numbers], atol=2e-3)
    assert world.p_value_of_numbers(numbers, list(q.values())) > 1e-3


def sets_of(kind, retained=None, particles=PARTICLES, repeats=1000):
    """Texts [repeats, particles] by their numbers, and log weights, of PROMPTS[0]."""
    probs = exact(kind, PROMPTS[0])
    rows = Prompts(pad([PROMPTS[0]] * repeats, EOS), np.full(repeats, len(PROMPTS[0]), np.int32))
    ids = np.arange(repeats, dtype=np.int32)
    found = sampler(kind, particles)(variables(kind), rows, ids, KEY, retained)
    numbers = world.outcome_numbers(np.asarray(found.tokens), probs).reshape(repeats, particles)
    return numbers, np.asarray(found.log_weight).reshape(repeats, particles)


def test_a_retained_text_of_the_target_turns_the_bound_around():
    """1,000 sets without one and with one: the estimate Z of R0 has mean R0 without, 1 / Z mean
    1 / R0 with one, and the means of log Z are on both sides of log R0, nearer the more particles.
    """
    probs, rng = exact("nado", PROMPTS[0]), np.random.default_rng(4)
    p, label = np.array(list(probs.values())), rng.choice([0.02, 1.0], len(probs), p=[0.8, 0.2])
    rate, gaps = p @ label, []
    target = rng.choice(len(p), 1000, p=p * label / rate)
    kept = pad([list(outcome) for outcome in probs], EOS, N)[target]
    for particles in (2, PARTICLES):
        numbers, log_weight = sets_of("nado", particles=particles)
        free = (np.exp(log_weight) * label[numbers]).mean(1)
        numbers, log_weight = sets_of("nado", kept, particles)
        around = (np.exp(log_weight) * label[numbers]).mean(1)
        assert (numbers == target[:, None]).any(1).all()
        for estimate, truth in ((free, rate), (1 / around, 1 / rate)):
            error = estimate.std(ddof=1) / np.sqrt(1000)
            assert abs(estimate.mean() - truth) < 3 * error
        assert np.log(free).mean() < np.log(rate) < np.log(around).mean()
        gaps.append(np.log(around).mean() - np.log(free).mean())
    assert gaps[1] < 0.6 * gaps[0]


def test_a_particle_survives_as_often_as_it_has_offspring():
    """Its random number is as likely as the number of its offspring, its place any of theirs."""
    log_weight = jnp.log(jnp.array([[0.4, 2.9, 0.2, 0.5]] * 4000))
    uniform, place = jax.random.uniform(KEY, (4000,)), jnp.ones(4000, jnp.int32)
    points, places = survival(log_weight, uniform, place)
    parents, _ = resample(log_weight, points)
    assert (np.asarray(parents)[np.arange(4000), places] == 1).mean() > 0.999
    offspring = (np.asarray(parents) == 1).sum(1)
    # [0.4, 3.3): particles 1 and 2 for any number, 0 for one above .4, 3 for one below .3
    np.testing.assert_allclose((offspring == 3).mean(), 3 * 0.9 / 2.9, atol=0.03)
    share = np.bincount(places, minlength=4) / 4000
    np.testing.assert_allclose(share, np.array([0.6, 1, 1, 0.3]) / 2.9, atol=0.03)


@dataclasses.dataclass(frozen=True)
class DeadEnds:
    """Four equally likely tokens, of which 3 ends a text; nothing may follow a 1 at the start, and
    there the base goes on as elsewhere."""

    vocab_size: int = 4
    context_length: int = 32

    def prefill(self, variables, prompts, samples, steps):
        rows = len(prompts.lengths) * samples
        base = jnp.zeros((rows, 4)).at[:, 3].set(-9.0)
        return NextLogits(base, base), jnp.zeros(rows, jnp.int32)

    def step(self, variables, carry, tokens):
        base = jnp.zeros((len(tokens), 4)).at[:, 3].set(jnp.where(carry == 1, 0.0, -9.0))
        dead = (tokens == 1) & (carry == 0)
        return NextLogits(jnp.where(dead[:, None], -jnp.inf, base), base), carry + 1


def test_a_particle_at_a_dead_end_has_no_weight_whatever_follows():
    rows = Prompts(np.ones((20, 1), np.int32), np.ones(20, np.int32))
    found = ParticleSampler(DeadEnds(), (3,), 4, 4)(None, rows, np.arange(20), jax.random.key(0))
    log_weight, first = (np.asarray(x) for x in (found.log_weight, found.tokens[:, 0]))
    assert (first == 1).any() and not np.isnan(log_weight).any()
    assert (log_weight[first == 1] == -np.inf).all() and (log_weight[first != 1] > -np.inf).all()
    whole = floored(log_weight.reshape(20, 4))
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(
        floored(np.array([[-300.0, -257.0, -np.inf]])), [[-300, -257, -357]]
    )
    np.testing.assert_array_equal(floored(np.full((1, 2), -np.inf)), [[-100, -100]])
