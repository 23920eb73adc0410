"""Beam search against plain arithmetic: dictionaries of hypotheses, full passes and no cache."""

import functools

import jax
import numpy as np
import pytest
from guides import test_guided
from support import tiny, world

from dinado_jax import language_model as base
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import pad, sequences
from dinado_jax.decoding.beam import (
    Beam,
    Hypotheses,
    beam_prompts,
    best_next,
)
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params

pytestmark = pytest.mark.usefixtures("compiled_quickly")

EOS, V, N, LONGEST = 0, 7, 7, 8
CONFIG = GPT2Config(vocab_size=V, n_positions=LONGEST + N, n_embd=16, n_layer=1, n_head=2)
MODEL = GPT2(CONFIG)
POLICY = ModelPolicy(MODEL)
_rng = np.random.default_rng(0)
PROMPTS = [_rng.integers(1, V, n).tolist() for n in (3, 8, 1, 6)]
# beams, hypotheses, length_penalty, no_repeat_ngram, stop_ids
SETTINGS = [
    (4, 4, 1.0, 0),
    (4, 1, 0.0, 0),
    (3, 2, 2.0, 2),
    (6, 6, 0.5, 3),
    (9, 9, -1.0, 1),
    (2, 2, 1.0, 0, (3, EOS, 5)),
    (4, 4, 1.0, 2, (EOS, 3)),
]


@functools.cache
def base_variables():
    return {"params": tiny.noisy(init_params(MODEL, seed=2), 0.3, seed=2)}


@pytest.fixture
def variables():
    return base_variables()


def beam(
    beams=4,
    hypotheses=4,
    length_penalty=1.0,
    no_repeat_ngram=0,
    stop_ids=(EOS,),
    policy=POLICY,
    new=N,
):
    return Beam(policy, stop_ids, new, beams, hypotheses, length_penalty, no_repeat_ngram)


def batch(prompts=PROMPTS, width=LONGEST):
    return TokenizedPrompts(prompts).batch(np.arange(len(prompts)), EOS, width)


def found(beam, variables, prompts=PROMPTS, width=LONGEST) -> Hypotheses:
    return jax.device_get(beam(variables, batch(prompts, width)))


def plainly(beam, log_q, prompt, log_r=None) -> tuple[dict, int]:
    """{tokens: score, unpenalised} best first, and the tokens it took; log_q(prompt, its
    continuations) are the log-probabilities of all next tokens. With log_r, of the same form, they
    are the base's, and a text is ranked by its own and the R of its last token, over V(prompt).
    """

    def repeats(tokens):
        n, tokens = beam.no_repeat_ngram, (*prompt, *tokens)
        seen = [tokens[i : i + n] for i in range(len(tokens) - n + 1)]
        # A stop token is no text: it may always end one, though it may begin every prompt.
        return n > 0 and tokens[-1] not in beam.stop_ids and seen[-1:] and seen[-1] in seen[:-1]

    def penalised(tokens):
        return kept[tokens] / len(tokens) ** beam.length_penalty

    log_r = log_r or (lambda _, rows: [np.zeros_like(each) for each in log_q(prompt, rows)])
    log_v = np.logaddexp.reduce(log_q(prompt, [()])[0] + log_r(prompt, [()])[0])
    K, running, kept = beam.beams, {(): -log_v}, {}
    for length in range(1, beam.max_new_tokens + 1):
        tables = zip(running.items(), log_q(prompt, list(running)), log_r(prompt, list(running)))
        before, after = {}, {}
        for (tokens, sum_q), steps, r in tables:
            for token in range(len(steps)):
                longer = (*tokens, token)
                if steps[token] + r[token] > -np.inf and not repeats(longer):
                    before[longer] = sum_q + steps[token]
                    after[longer] = before[longer] + r[token]
        best = sorted(after, key=after.get, reverse=True)[: (1 + len(beam.stop_ids)) * K]
        for tokens in best[:K]:
            if tokens[-1] in beam.stop_ids or length == beam.max_new_tokens:
                kept[tokens] = after[tokens]
        kept = {t: kept[t] for t in sorted(kept, key=penalised, reverse=True)[:K]}
        going_on = [t for t in best if t[-1] not in beam.stop_ids][:K]
        if not going_on:
            break
        # R may rise to 1 yet, or be above it.
        hope = max(max(after[t], before[t]) for t in going_on) / length**beam.length_penalty
        running = {t: before[t] for t in going_on}
        if len(kept) == K and hope <= min(map(penalised, kept)):
            break
    return kept, length


def assert_equal(out: Hypotheses, beam, wanted: list[dict]):
    """Tokens, lengths and ends to the letter; what a prompt lacks has no tokens."""
    for index, kept in enumerate(wanted):
        best = list(kept.items())[: beam.hypotheses]
        for h in range(beam.hypotheses):
            tokens, log_q = best[h] if h < len(best) else ((), -np.inf)
            filled = [*tokens, *[beam.stop_ids[0]] * (beam.max_new_tokens - len(tokens))]
            np.testing.assert_array_equal(out.tokens[index, h], filled)
            assert out.length[index, h] == len(tokens)
            assert out.finished[index, h] == (len(tokens) > 0 and tokens[-1] in beam.stop_ids)
            penalised = log_q / max(1, len(tokens)) ** beam.length_penalty
            np.testing.assert_allclose(out.log_probs[index, h], log_q, rtol=0, atol=1e-4)
            np.testing.assert_allclose(out.scores[index, h], penalised, rtol=1e-5, atol=1e-4)


_forward = jax.jit(POLICY.model.apply)


def by_full_passes(prompt, continuations):
    """Of the base: no cache, every row as wide as the context."""
    rows = [[*prompt, *tokens] for tokens in continuations]
    filled = pad(rows + [[EOS]] * (9 - len(rows)), EOS, CONFIG.n_positions)
    logits = np.float64(_forward(base_variables(), filled).logits)
    return [world.log_softmax(logits[i, len(row) - 1]) for i, row in enumerate(rows)]


@functools.cache
def plain(settings) -> tuple:
    """What plain search finds for every prompt, and how many tokens each took."""
    return tuple(zip(*(plainly(beam(*settings), by_full_passes, prompt) for prompt in PROMPTS)))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_plain_search_finds_the_same(variables, settings):
    """Prompts of four lengths; some searches settle early, some hypotheses are cut."""
    wanted, _ = plain(settings)
    assert_equal(found(beam(*settings), variables), beam(*settings), wanted)


def test_the_settings_matter():
    found = [plain(settings) for settings in SETTINGS]
    taken = [length for _, lengths in found for length in lengths]
    assert min(taken) < N and max(taken) == N
    ends = [tokens[-1] == EOS for wanted, _ in found for kept in wanted for tokens in kept]
    assert 0.2 < np.mean(ends) < 0.8
    for changed in ((4, 4, 0.0, 0), (4, 4, 2.0, 0), (4, 4, 1.0, 2), (8, 4, 1.0, 0)):
        others = plain(changed)[0]
        assert [list(kept)[:4] for kept in others] != [list(kept) for kept in plain(SETTINGS[0])[0]]


def of_tables(tables):
    """Looked up in what is enumerated by definition, one table a prompt."""
    by_prompt = dict(zip(map(tuple, world.PROMPTS), tables))

    def of_next(prompt, continuations):
        rows = [
            sum(token * world.V ** (world.N - 1 - t) for t, token in enumerate(tokens))
            for tokens in continuations
        ]
        return [by_prompt[tuple(prompt)][row, len(t)] for row, t in zip(rows, continuations)]

    return of_next


def assert_ranked_by_p_and_r(model, **settings):
    search = beam(policy=model.policy, new=world.N, **settings)
    log_p, log_r = map(of_tables, zip(*test_guided.factors(model)))
    wanted = [plainly(search, log_p, prompt, log_r)[0] for prompt in world.PROMPTS]
    assert_equal(found(search, model.variables, world.PROMPTS, 4), search, wanted)
    log_q = of_tables(test_guided.exact_tables(model))
    return wanted, [plainly(search, log_q, prompt)[0] for prompt in world.PROMPTS]


def test_tilted_and_composed_controls():
    """Rejected tokens and repeated ones are in no hypothesis, even where too few are left. R of two
    controls that know nothing of each other is not consistent: log q ranks differently.
    """
    tilted = test_guided.controlled("projected-nado", reject=0.7, strength=2.0)
    parts = tilted, test_guided.controlled("soft-low_rank", seed=1, strength=0.5)
    found, by_q = assert_ranked_by_p_and_r(
        base.compose(*parts), beams=20, hypotheses=20, no_repeat_ngram=1
    )
    assert [list(each) for each in found] != [list(each) for each in by_q]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_few_beams_of_a_guide_that_is_not_consistent(length_penalty):
    model = test_guided.controlled("soft-low_rank", strength=2.0)
    assert_ranked_by_p_and_r(model, beams=3, hypotheses=3, length_penalty=length_penalty)


def test_with_beams_enough_every_sequence_is_found_in_order():
    """And its first is the likeliest of all."""
    model = test_guided.controlled("clamped-soft")
    every = beam(100, 100, 0.0, policy=model.policy, new=world.N)
    out = found(every, model.variables, world.PROMPTS, 4)
    for index, table in enumerate(test_guided.exact_tables(model)):
        probs = world.sequence_probs(table)
        tokens = [tuple(t[:n].tolist()) for t, n in zip(out.tokens[index], out.length[index])]
        assert tokens[0] == max(probs, key=probs.get)
        assert set(tokens[:85]) == set(probs) and set(tokens[85:]) == {()}
        np.testing.assert_allclose(
            np.exp(out.log_probs[index, :85]), [probs[t] for t in tokens[:85]], rtol=1e-3
        )
        assert (np.diff(out.log_probs[index, :85]) <= 0).all()
        assert np.isneginf(out.scores[index, 85:]).all()


def test_one_beam_is_greedy(variables):
    out = found(beam(1, 1), variables)
    for index, prompt in enumerate(PROMPTS):
        greedy = []
        while len(greedy) < N and EOS not in greedy:
            greedy.append(by_full_passes(prompt, [greedy])[0].argmax())
        np.testing.assert_array_equal(out.tokens[index, 0, : out.length[index, 0]], greedy)


def test_a_prompt_does_not_depend_on_its_batch_or_padding(variables):
    search = beam(6, 6, 0.5, 3)
    together, alone = found(search, variables), found(search, variables, PROMPTS[:1], 3)
    for all_of_them, one in zip(together[:5], alone[:5]):
        np.testing.assert_allclose(one[0], all_of_them[0], rtol=0, atol=1e-5)


def test_log_probs_are_those_of_the_whole_sequence(variables):
    out = found(beam(3, 2, 2.0, 2), variables)
    new = [t[:n].tolist() for t, n in zip(out.tokens.reshape(-1, N), out.length.reshape(-1))]
    rows = sequences([p for p in PROMPTS for _ in range(2)], new, EOS, CONFIG.n_positions)
    scores = score(POLICY, variables, rows, batch=8).sum(1)
    np.testing.assert_allclose(out.log_probs.reshape(-1), scores, rtol=0, atol=1e-4)


def test_the_loop_ends_when_every_prompt_is_settled(variables):
    search, taken = beam(*SETTINGS[1]), plain(SETTINGS[1])[1]
    early = [index for index, length in enumerate(taken) if length < N]
    prompts = [PROMPTS[index] for index in np.resize(early, len(PROMPTS))]
    state, _ = search.decode(variables, search.prefill(variables, batch(prompts)))
    assert early and state.settled.all()
    assert state.carry.count == max(taken[index] for index in early) - 1


def test_caches_are_written_in_place(variables):
    search = beam()
    state = search.prefill(variables, batch())
    compiled = Beam.decode.lower(search, variables, state).compile()
    caches = sum(leaf.nbytes for leaf in jax.tree.leaves(state.carry))
    assert compiled.memory_analysis().alias_size_in_bytes >= caches


@pytest.mark.parametrize("vocabulary", [3, 128, 300])
def test_the_best_next_tokens(vocabulary):
    rng = np.random.default_rng(vocabulary)
    logits = rng.standard_normal((2, 3, vocabulary)).astype(np.float32)
    logits[:, :, ::2] = -np.inf
    added = np.float32([[0, -1, -2], [0.5, -np.inf, 0]])
    whole = (logits + added[..., None]).reshape(2, -1)
    scores, beams, tokens = jax.jit(best_next, static_argnums=2)(logits, added, 14)
    np.testing.assert_array_equal(scores, -np.sort(-whole)[:, :14])
    places = np.asarray(beams) * vocabulary + np.asarray(tokens)
    np.testing.assert_array_equal(scores, np.take_along_axis(whole, places, 1))
    assert (np.asarray(tokens) < vocabulary).all()


@pytest.mark.parametrize(
    "bad, match",
    [
        ({"beams": 0}, "beams = 0"),
        ({"new": 0}, "max_new_tokens = 0"),
        ({"hypotheses": 0}, "hypotheses = 0"),
        ({"hypotheses": 5}, "hypotheses = 5: there are 4 beams"),
        ({"length_penalty": float("nan")}, "length_penalty = nan"),
        ({"length_penalty": float("inf")}, "length_penalty = inf"),
        ({"length_penalty": "1"}, "length_penalty = '1'"),
        ({"length_penalty": 1e300}, r"length_penalty = 1e\+300"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram = -1"),
        ({"no_repeat_ngram": 1.0}, "no_repeat_ngram = 1.0"),
    ],
)
def test_settings_that_are_refused(bad, match):
    with pytest.raises(InputError, match=rf"^{match}[^\n]*$"):
        beam(**bad)


def test_a_text_may_end_though_eos_begins_its_prompt(variables):
    """With no_repeat_ngram = 1 every new token differs from the rest, eos apart; none goes on past
    the tokens there are."""
    search = beam(6, 6, 1.0, 1)
    out = found(search, variables, [[EOS, *prompt[:2]] for prompt in PROMPTS])
    assert out.finished.any(1).all()
    for row, prompt in zip(out.tokens, PROMPTS):
        for tokens, length in zip(row, out.length[PROMPTS.index(prompt)]):
            text = [*prompt[:2], *tokens[:length][tokens[:length] != EOS]]
            assert length == 0 or len(set(text[2:])) == len(text[2:])
    longer = beam(4, 4, 1.0, 2**70)  # no n-gram so long: as if it were off
    for some, others in zip(found(longer, variables)[:5], found(beam(), variables)):
        np.testing.assert_array_equal(some, others)


def test_any_number_of_prompts(variables):
    """Two at a time, in buckets, in their order."""
    search = beam(3, 2)
    prompts = [PROMPTS[i] for i in (1, 0, 3, 2, 1)]
    together = found(search, variables)
    for whole, part in zip(
        together[:5], beam_prompts(search, variables, TokenizedPrompts(prompts), 6)
    ):
        np.testing.assert_allclose(part, whole[[1, 0, 3, 2, 1]], rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="batch = 0"):
        beam_prompts(search, variables, TokenizedPrompts(prompts), 0)
    with pytest.raises(InputError, match="prompt 1 is empty"):
        beam_prompts(search, variables, TokenizedPrompts([[1], []]), 6)
