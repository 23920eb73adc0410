"""Sampling: reproducible row by row, exact in distribution, and compiled once a bucket."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_run

from dinado_jax.data.batch import Batch
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.data.sequences import pad, sequences
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.sampler import (
    Sampler,
    Samples,
    iter_samples,
    sample_in_groups,
    sample_prompts,
)
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.utils import arguments

EOS, NEW, LONGEST = 0, 6, 16
CONFIG = GPT2Config(vocab_size=5, n_positions=LONGEST + NEW, n_embd=16, n_layer=1, n_head=2)
MODEL = GPT2(CONFIG)
POLICY = ModelPolicy(MODEL)
KEY = jax.random.key(3)
_rng = np.random.default_rng(0)
PROMPTS = [_rng.integers(1, 5, n).tolist() for n in (3, 7, 12, 5, 16, 8, 1, 11)]
ALL = TokenizedPrompts(PROMPTS)


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def variables():
    """A model that leaves every token some probability."""
    params = init_params(MODEL, seed=2)
    params["ln_f"]["scale"] *= 0.4
    return {"params": params}


def sampler(new=NEW, samples=2, method=None, policy=POLICY):
    return Sampler(policy, method or Method(), (EOS,), new, samples)


@pytest.fixture(scope="module")
def together(variables):
    """Two samples of every prompt, sixteen rows at once."""
    return sample_prompts(sampler(), variables, ALL, KEY, 16)


def assert_same(some: Samples, others: Samples):
    for name in ("tokens", "length", "finished"):
        np.testing.assert_array_equal(getattr(some, name), getattr(others, name), err_msg=name)
    np.testing.assert_allclose(some.log_probs, others.log_probs, rtol=0, atol=1e-5)


def rows_of(samples: Samples, index: int) -> Samples:
    return jax.tree.map(lambda x: x[2 * index : 2 * index + 2], samples)


def test_a_row_does_not_depend_on_its_batch(variables, together):
    """Small batches, another order, and alone: a row's stream follows from its id."""
    assert_same(sample_prompts(sampler(), variables, ALL, KEY, 4), together)
    for index in (2, 0):
        alone = sample_prompts(sampler(), variables, ALL.select(np.array([index])), KEY, 4)
        assert_same(alone, rows_of(together, index))
    backwards = sample_prompts(sampler(), variables, ALL.select(np.arange(8)[::-1]), KEY, 16)
    for index in range(8):
        assert_same(rows_of(backwards, 7 - index), rows_of(together, index))


def test_a_row_depends_on_id_sample_and_key(variables, together):
    twins = sample_prompts(sampler(), variables, TokenizedPrompts([PROMPTS[1]] * 8), KEY, 16)
    assert len({tuple(row) for row in twins.log_probs}) > 8
    other = sample_prompts(sampler(), variables, ALL, jax.random.key(4), 16)
    assert (other.tokens != together.tokens).any()


def test_a_row_does_not_depend_on_the_width_of_its_bucket(variables, together):
    """Here all have a width of 16, and other padding; there the short ones have 8."""
    lengths = np.array([len(prompt) for prompt in PROMPTS], np.int32)
    wide = pad(PROMPTS, 4, 16)
    drawn = sampler()(variables, Prompts(wide, lengths), np.arange(8, dtype=np.int32), KEY)
    assert_same(jax.device_get(drawn), together)


def test_log_probs_are_those_of_the_whole_sequence(variables, together):
    """The decoding loop and one parallel pass agree on every token that was drawn."""
    new = [row[:length].tolist() for row, length in zip(together.tokens, together.length)]
    rows = sequences([p for p in PROMPTS for _ in range(2)], new, EOS, CONFIG.n_positions)
    scores = score(POLICY, variables, rows, batch=16)
    for row, length, start in zip(range(16), together.length, rows.prompt_length - 1):
        drawn = together.log_probs[row, :length]
        np.testing.assert_allclose(scores[row, start : start + length], drawn, rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores.sum(1), together.log_probs.sum(1), rtol=0, atol=1e-4)


def test_a_row_ends_with_any_stop_token_and_is_filled_with_the_first(variables, together):
    """Up to there it is the row that a single stop token ends later."""
    stops = (4, EOS, 2)
    several = dataclasses.replace(sampler(), stop_ids=stops)
    drawn = sample_prompts(several, variables, ALL, KEY, 16)
    assert {int(row[n - 1]) for row, n in zip(drawn.tokens, drawn.length)} >= set(stops)
    for row, later in enumerate(together.tokens):
        ends = np.flatnonzero(np.isin(later, stops))
        length = ends[0] + 1 if len(ends) else NEW
        filled = [*later[:length], *[4] * (NEW - length)]
        np.testing.assert_array_equal(drawn.tokens[row], filled)
        assert drawn.length[row] == length and drawn.finished[row] == bool(len(ends))
        wanted = np.where(np.arange(NEW) < length, together.log_probs[row], 0)
        np.testing.assert_allclose(drawn.log_probs[row], wanted, rtol=0, atol=1e-5)


def test_a_row_ends_at_its_first_eos(together):
    assert 0 < together.finished.sum() < 16
    for tokens, log_probs, length, finished in zip(*together[:4]):
        ends = np.flatnonzero(tokens == EOS)
        assert finished == (len(ends) > 0)
        assert length == (ends[0] + 1 if finished else NEW)
        assert (tokens[length:] == EOS).all() and (log_probs[length:] == 0).all()
        assert (log_probs[:length] < 0).all()


def test_greedy_takes_the_largest_logit(variables):
    greedy = sampler(new=2, method=Method(temperature=0))
    drawn = sample_prompts(greedy, variables, TokenizedPrompts(PROMPTS[:1]), KEY, 2)
    np.testing.assert_array_equal(drawn.tokens[0], drawn.tokens[1])
    logits = jax.jit(POLICY.model.apply)(variables, np.int32([PROMPTS[0]])).logits
    assert drawn.tokens[0, 0] == logits[0, -1].argmax()


def test_samples_follow_the_exact_distribution(variables):
    """20k samples of at most three tokens, against all of them enumerated by full passes."""
    count, prompt = 20_000, PROMPTS[0]
    every = np.array(list(itertools.product(range(5), repeat=3)), np.int32)
    rows = np.concatenate([np.tile(np.int32(prompt), (125, 1)), every], axis=1)
    whole = Batch(tokens=rows, prompt_length=np.full(125, len(prompt)), length=np.full(125, 16))
    log_probs = np.asarray(jax.jit(POLICY.log_probs)(variables, whole))
    log_probs = log_probs[:, len(prompt) - 1 :]
    exact = {}
    for tokens, steps in zip(every.tolist(), log_probs):
        length = tokens.index(EOS) + 1 if EOS in tokens else 3
        exact[tuple(tokens[:length])] = np.exp(steps[:length].sum(dtype=np.float64))
    assert len(exact) == 85 and np.isclose(sum(exact.values()), 1, atol=1e-5)
    drawn = sample_prompts(
        sampler(new=3, samples=count), variables, TokenizedPrompts([prompt]), KEY, count
    )
    found = dict.fromkeys(exact, 0)
    for tokens, length in zip(drawn.tokens.tolist(), drawn.length):
        found[tuple(tokens[:length])] += 1
    expected = np.array([count * exact[outcome] for outcome in exact])
    assert expected.min() > 5
    statistic = ((np.array(list(found.values())) - expected) ** 2 / expected).sum()
    assert statistic < 84 + 2 * np.sqrt(14 * 84) + 28  # one false alarm in a million


def test_one_compilation_a_bucket(variables):
    traced = []

    class Counting(ModelPolicy):
        def prefill(self, variables, prompts, samples, steps):
            traced.append(prompts.tokens.shape)
            return super().prefill(variables, prompts, samples, steps)

        def step(self, variables, carry, tokens):
            traced.append("step")
            return super().step(variables, carry, tokens)

    counting = sampler(new=2, policy=Counting(POLICY.model))
    for length in range(1, 9):
        sample_prompts(
            counting, variables, TokenizedPrompts([[1] * length] * (1 + length % 3)), KEY, 4
        )
    assert traced == [(2, 8), "step"]
    sample_prompts(counting, variables, ALL, KEY, 4)
    assert traced == [(2, 8), "step", (2, 16), "step"]


@pytest.mark.parametrize("count", [1, 3, 8, 12])
def test_groups_change_no_sample(variables, count):
    together = sample_prompts(
        sampler(samples=count), variables, TokenizedPrompts(PROMPTS[:3]), KEY, 64
    )
    assert_same(
        sample_in_groups(sampler(samples=count), variables, TokenizedPrompts(PROMPTS[:3]), KEY, 16),
        together,
    )
    assert len(together.length) == 3 * count


def test_many_numbers_of_samples_are_few_programs(variables):
    before = Sampler.prefill._cache_size()
    for count in (8, 16, 24, 40):
        sample_in_groups(
            sampler(new=3, samples=count), variables, TokenizedPrompts(PROMPTS[:2]), KEY, 16
        )
    assert Sampler.prefill._cache_size() == before + 1


def test_a_prompt_that_is_refused_keeps_its_number_in_groups(variables):
    with pytest.raises(InputError, match="prompt 1 has 17 tokens"):
        sample_in_groups(sampler(samples=12), variables, TokenizedPrompts([[1], [1] * 17]), KEY, 16)


def test_batches_come_as_they_are_drawn(variables, together):
    """Every row once, whatever fills the last batch of a bucket."""
    seen = []
    for rows, part in iter_samples(sampler(), variables, TokenizedPrompts(PROMPTS[:5]), KEY, 4):
        assert len(rows) <= 4
        assert_same(part, jax.tree.map(lambda x, rows=rows: x[rows], together))
        seen += rows.tolist()
    assert sorted(seen) == list(range(10))


def test_a_batch_stops_when_all_its_rows_have_ended(variables):
    """The caches count the steps that were really made."""

    class Ending(ModelPolicy):
        """Draws nothing but eos from the second token on."""

        def step(self, variables, carry, tokens):
            logits, carry = super().step(variables, carry, tokens)
            only_eos = jnp.where(jnp.arange(CONFIG.vocab_size) == EOS, 0.0, -jnp.inf)
            return logits._replace(policy=logits.policy + only_eos[None]), carry

    stopping = sampler(policy=Ending(POLICY.model))
    start = stopping.prefill(variables, ALL.batch(np.arange(8), EOS, 16), np.arange(8), KEY)
    state, drawn = stopping.decode(variables, start)
    assert drawn.finished.all() and (drawn.length <= 2).all() and state.carry.count == 1


def test_a_prompt_may_fill_the_context(variables):
    drawn = sample_prompts(sampler(), variables, TokenizedPrompts([[1] * LONGEST]), KEY, 16)
    assert drawn.tokens.shape == (2, NEW)


@pytest.mark.parametrize(
    "prompts, match",
    [
        ([[1, 2], [1] * (LONGEST + 1)], "prompt 1 has 17 tokens and max_new_tokens is 6"),
        ([[1] * 40], "prompt 0 has 40 tokens"),
        ([[1, 5]], "token id 5 in prompt 0"),
        ([[1], [-1]], "token id -1 in prompt 1"),
        ([[1], []], "prompt 1 is empty"),
        ([], "no prompts"),
    ],
)
def test_prompts_that_are_refused(variables, prompts, match):
    with pytest.raises(InputError, match=match) as caught:
        sample_prompts(sampler(), variables, TokenizedPrompts(prompts), KEY, 4)
    assert "\n" not in str(caught.value)


def test_a_prompt_of_a_file_is_named_by_its_line():
    where = ["prompts.txt:1", "prompts.txt:4"]
    with pytest.raises(InputError, match=r"^prompts.txt:4 has 17 tokens and max_new_tokens is 6"):
        check_prompts(sampler().policy, TokenizedPrompts([[1], [1] * 17], names=where), 6)
    with pytest.raises(InputError, match=r"^prompts.txt:4 is empty"):
        check_prompts(sampler().policy, TokenizedPrompts([[1], []], names=where), 6)


def test_sizes_that_are_refused(variables):
    for bad in ({"new": 0}, {"samples": 0}):
        with pytest.raises(InputError, match="at least 1"):
            sampler(**bad)
    with pytest.raises(InputError, match="batch = 0"):
        sample_prompts(sampler(), variables, ALL, KEY, 0)
    with pytest.raises(InputError, match="max_new_tokens is 40"):
        sample_prompts(sampler(new=40), variables, TokenizedPrompts([[1]]), KEY, 4)


def test_a_model_that_says_nothing_is_an_error_that_names_the_prompt(variables):
    """A nan at one position: the prompt that reaches it."""
    broken = jax.tree.map(jnp.array, variables)
    table = broken["params"]["wpe"]["embedding"]
    broken["params"]["wpe"]["embedding"] = table.at[10].set(jnp.nan)
    with pytest.raises(InputError, match=r"^prompt 2: no token can be drawn after it[^\n]*$"):
        sample_prompts(sampler(new=2), broken, TokenizedPrompts([[1], [1, 2], [1] * 12]), KEY, 4)
    with pytest.raises(InputError, match="prompt 1: no token"):
        beam_prompts(Beam(POLICY, (EOS,), 2, 2), broken, TokenizedPrompts([[1], [1] * 12]), 4)


@pytest.mark.parametrize("bad", [1.0, True, "3", None, -1, 2**40 * 1.5])
def test_counts_that_are_no_counts(variables, bad):
    for make in (
        lambda: sampler(new=bad),
        lambda: sampler(samples=bad),
        lambda: Beam(POLICY, (EOS,), bad, 2),
        lambda: Beam(POLICY, (EOS,), 2, bad),
        lambda: sample_prompts(sampler(), variables, ALL, KEY, bad),
    ):
        with pytest.raises(InputError, match=r"^\w+ = [^\n]*at least 1$"):
            make()


def test_seeds():
    """All that are accepted differ; what a key would not tell apart is refused."""
    seeds = [0, 1, np.int64(7), np.uint32(2**31), 2**31 - 1, 2**32 - 1]
    streams = {float(jax.random.uniform(jax.random.key(arguments.require_seed(s)))) for s in seeds}
    assert len(streams) == len(seeds)
    for bad in (-1, 2**32, 2**40 + 1, 2**70, True, 1.0, "1", None, np.float64(1), np.bool_(True)):
        with pytest.raises(InputError, match=r"^seed = [^\n]*\[0, 2\^32\)$"):
            arguments.require_seed(bad)
        with pytest.raises(InputError, match="seed"):
            init_params(MODEL, bad)


@pytest.mark.parametrize("method", [Method(), Method(0.7, 3, 0.9)])
def test_a_sampler_that_scores_knows_the_policys_log_probabilities(variables, method):
    """Temperature and truncation aside; a policy of one model knows no base beside it."""
    plain = sample_prompts(sampler(method=method), variables, ALL, KEY, 16)
    scoring = Sampler(POLICY, method, (EOS,), NEW, 2, scores=True)
    drawn = sample_prompts(scoring, variables, ALL, KEY, 16)
    assert_same(plain, drawn)
    assert plain.log_policy is None and drawn.log_base is None
    new = [row[:length].tolist() for row, length in zip(drawn.tokens, drawn.length)]
    rows = sequences([p for p in PROMPTS for _ in range(2)], new, EOS, CONFIG.n_positions)
    scores = score(POLICY, variables, rows, batch=16)
    np.testing.assert_allclose(drawn.log_policy.sum(1), scores.sum(1), rtol=0, atol=1e-4)
