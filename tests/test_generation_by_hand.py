"""Generation from Python: every argument of `generate`, `beam_search` and `score`, and what
completions hold, computed once more by hand."""

import itertools

import numpy as np
import pytest
from support import by_hand, word_run
from support.refusal import error_of

import dinado_jax

PROMPTS = ["cow ant =", "fox =", "bee dog ="]
EOS = 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = word_run.finished(tmp_path_factory)
    return word_run.Files(folder / "run", word_run.config(folder / "data"))


@pytest.fixture(scope="module")
def model(run, compiled_quickly):
    return dinado_jax.load_run(run.path)


@pytest.fixture(scope="module")
def q(run):
    return run.control(by_hand.load_state(run.path / "train" / "control" / "4")).q


def assert_completions(run, q, found, drawn, asked):
    assert [one.prompt for one in found] == asked
    for one, each, prompt in zip(found, drawn, run.codec.prompts(asked)):
        assert one.tokens.tolist() == each.tokens
        assert one.text == run.codec.decode([each.tokens])[0]
        assert one.finished == (each.tokens[-1] == EOS)
        row = np.array([[*prompt, *each.tokens]])
        for scores, model in ((one.log_probs, q), (one.log_probs_base, run.base)):
            table = model(row)[1][0]
            wanted = [table[len(prompt) - 1 + i, t] for i, t in enumerate(each.tokens)]
            np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "seed, method",
    [
        (11, {"temperature": 0.7, "top_k": 9, "top_p": 0.8}),
        (0, {"temperature": 1.6}),
    ],
)
def test_samples(run, model, q, seed, method):
    """log_probs are those of q itself, whatever the draws were cut to."""
    given = {} if seed == 0 else {"seed": seed}
    found = dinado_jax.generate(model, PROMPTS, samples=3, batch=4, **given, **method)
    asked = [prompt for prompt in PROMPTS for _ in range(3)]
    uniform = by_hand.uniforms(seed, range(3), 3, 5)  # as many as decode.max_new_tokens says
    drawn = by_hand.sample(q.next, run.codec.prompts(asked), uniform, 5, EOS, **method)
    assert_completions(run, q, found, drawn, asked)


def test_greedy(run, model, q):
    new = 4
    found = dinado_jax.generate(model, PROMPTS, max_new_tokens=new, temperature=0)
    ids = run.codec.prompts(PROMPTS)
    drawn = by_hand.sample(q.next, ids, np.zeros((3, new)), new, EOS, temperature=0)
    assert_completions(run, q, found, drawn, PROMPTS)
    one_beam = dinado_jax.beam_search(model, PROMPTS, max_new_tokens=new, beams=1)
    assert_completions(run, q, one_beam, drawn, PROMPTS)


def test_top_k_of_one_is_greedy(run, model):
    greedy = dinado_jax.generate(model.base, PROMPTS, max_new_tokens=4, temperature=0)
    found = dinado_jax.generate(model.base, PROMPTS, max_new_tokens=4, top_k=1, seed=3)
    assert [one.text for one in found] == [one.text for one in greedy]


@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_hypotheses_are_ranked_by_their_penalised_scores(run, model, q, penalty):
    found = dinado_jax.beam_search(
        model, PROMPTS[2:], max_new_tokens=4, beams=6, hypotheses=3, length_penalty=penalty
    )
    assert len(found) == 3 and len({tuple(one.tokens.tolist()) for one in found}) == 3
    ranks = [one.log_probs.sum() / len(one.tokens) ** penalty for one in found]
    assert ranks == sorted(ranks, reverse=True)
    # No hypothesis among all continuations of two tokens does better that the search could see.
    (ids,) = run.codec.prompts(PROMPTS[2:])
    first = np.argsort(-q.next(np.array([ids]))[0])[:6]
    ended = [(q.next(np.array([[*ids, t]]))[0][EOS], t) for t in first if t != EOS]
    best = max(score + q.next(np.array([ids]))[0][t] for score, t in ended) / 2**penalty
    assert ranks[0] >= best - 1e-4
    lengths = [len(one.tokens) for one in found]
    assert (min(lengths) < 4) == (penalty == 0), lengths


def test_no_ngram_comes_twice(run, model):
    """In prompt and continuation together."""
    found, free = (
        dinado_jax.beam_search(
            model, PROMPTS[1:2], max_new_tokens=6, beams=4, hypotheses=4, **given
        )
        for given in ({"no_repeat_ngram": 2}, {})
    )
    (prompt,) = run.codec.prompts(PROMPTS[1:2])

    def repeats(one):
        row = [t for t in [*prompt, *one.tokens.tolist()][1:] if t != EOS]
        pairs = list(itertools.pairwise(row))
        return len(set(pairs)) < len(pairs)

    assert not any(map(repeats, found)) and any(map(repeats, free))


def test_scores_of_texts_of_ones_own(run, model, q):
    texts = ["cow and ant .", "", "dog dog fox bee"]
    found = dinado_jax.score(model, PROMPTS, texts, batch=2)
    of_base = dinado_jax.score(model.base, PROMPTS, texts)
    ids = zip(run.codec.prompts(PROMPTS), run.codec.targets(texts), strict=True)
    for each, under_p, (prompt, target) in zip(found, of_base, ids, strict=True):
        row = np.array([[*prompt, *target]])
        for scores, by in ((each, q), (under_p, run.base)):
            table = by(row)[1][0]
            wanted = [table[len(prompt) - 1 + i, t] for i, t in enumerate(target)]
            np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4)


def test_texts_that_cannot_be_scored(model):
    def said(*given):
        return error_of(dinado_jax.score, model, *given)

    assert said(PROMPTS, ["a"]) == "3 prompts and 1 texts: give one text per prompt"
    assert said("fox =", ["a"]) == "prompts is 'fox =': give a list of prompts"
    assert said(PROMPTS, "a") == "texts is 'a': give a list of texts"
    assert said(PROMPTS[:1], [3]) == "text 0 is 3: give text"
    assert "text 1 and its prompt are " in said(PROMPTS[:2], ["cow", "cow " * 20])
