"""Conditional beams in text: under control, automaton and complete texts at once; by an oracle."""

import itertools

import numpy as np
import pytest
from support import word_base
from support.refusal import error_of

import dinado_jax
from dinado_jax.constraints import contains
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.score import score
from dinado_jax.guarantee import guarantee
from dinado_jax.guides.complete import complete_guide
from dinado_jax.language_model import Controlled

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PROMPTS = ["dog =", "cat fox =", "fox ="]
NEW = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return dinado_jax.load(word_base.write(tmp_path_factory.mktemp("base") / "base"))


def repeats(tokens, n):
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) < len(grams)


def test_control_automaton_and_complete_texts_compose(base):
    has_cat = contains("cat")
    mask, prompts = guarantee(base, PROMPTS, NEW, has_cat, ends=True)
    complete = Controlled(base, *complete_guide(base.codec, NEW, NEW, 2))
    model = dinado_jax.compose(word_base.controlled(base, "merge"), mask, complete)
    found = model.beam_search(
        prompts, max_new_tokens=NEW, beams=8, hypotheses=2, length_penalty=0.0
    )
    assert [one.prompt for one in found] == [prompt for prompt in PROMPTS for _ in range(2)]
    for one in found:
        assert one.finished and len(one.tokens) == NEW and one.label is None
        assert has_cat([one.prompt], [one.text]) == [True]
        assert not repeats(one.tokens.tolist(), 2)


def test_under_a_guarantee_with_an_end_every_sample_ends(base):
    mask, prompts = guarantee(base, PROMPTS, 4, contains("cat"), ends=True)
    made = mask.generate(prompts, max_new_tokens=4, samples=16)
    assert all(one.finished and "cat" in one.text for one in made)
    assert len({one.text for one in made}) > 4
    told = error_of(lambda: guarantee(base, PROMPTS, 1, contains("cat"), ends=True))
    assert "1 tokens and one to end, and max_new_tokens is 1" in told


def test_a_control_alone_is_searched_in_one_pass_and_ranked_by_q(base):
    model = word_base.controlled(base, "merge")
    assert model.for_search().policy == model.policy
    found = model.beam_search(PROMPTS, max_new_tokens=6, hypotheses=4, length_penalty=0.0)
    log_q = np.array([one.log_prob for one in found]).reshape(3, 4)
    assert (np.diff(log_q) <= 1e-5).all()


def has_f(text):
    return 0.5 * ("F" in text)


def test_an_oracle_has_the_last_word(base):
    how = {"max_new_tokens": 6, "beams": 8, "length_penalty": 0.0}
    plain = base.beam_search(PROMPTS, hypotheses=8, **how)
    found = base.beam_search(PROMPTS, oracle=has_f, hypotheses=8, **how)
    for prompt in PROMPTS:
        before, after = ([one for one in each if one.prompt == prompt] for each in (plain, found))
        assert [one.label for one in after] == [has_f(one.text) for one in after]
        labels = [has_f(one.text) for one in before]
        accepted = [one for one, label in zip(before, labels) if label]
        accepted.sort(key=lambda one: -one.log_prob)
        wanted = accepted + [one for one, label in zip(before, labels) if not label]
        assert [one.tokens.tolist() for one in after] == [one.tokens.tolist() for one in wanted]
        assert 0 < len(accepted) < len(before)
    best = base.beam_search(PROMPTS, oracle=has_f, **how)
    assert [one.text for one in best] == [one.text for one in found[::8]]


def test_beams_on_which_the_oracle_fails_come_last(base):
    def picky(text):
        if "F" in text:
            raise ValueError("F")
        return True

    found = base.beam_search(PROMPTS[:1], oracle=picky, hypotheses=8, max_new_tokens=6)
    labels = [one.label for one in found]
    assert labels == sorted(labels, reverse=True) and 0 < sum(labels) < len(labels)


def test_at_equal_length_more_likely_than_beams_cut_to_it(base):
    """Beams that know the length against those that are cut there and made to end."""
    pairs = itertools.product(("dog", "cat", "fox"), ("saw", "in", "is", "and"))
    prompts = [f"{first} {second} =" for first, second in pairs]
    how, gains = {"beams": 4, "length_penalty": 0.0}, []
    codec = base.codec
    for length in (3, 6):
        exact = Controlled(base, *complete_guide(codec, length, length))
        found = exact.beam_search(prompts, max_new_tokens=length, **how)
        free = base.beam_search(prompts, max_new_tokens=length - 1, hypotheses=4, **how)
        assert [len(one.tokens) for one in found] == [length] * len(prompts)
        for prompt, one in zip(prompts, found):
            cut = next(b for b in free if b.prompt == prompt and not b.finished)
            ended = [*cut.tokens.tolist(), codec.eos_id]
            rows = sequences(codec.prompts([prompt]), [ended], codec.eos_id, 24)
            (own,) = score(base.policy, base.variables, rows, 8, width=24)
            start = rows.prompt_length[0] - 1
            gains.append(one.log_probs_base.sum() - own[start : start + length].sum())
    assert len(gains) == 24 and np.mean(np.array(gains) > -1e-3) >= 0.95
    assert np.mean(np.array(gains) > 0.1) > 0.2


def test_faults(base):
    search = base.beam_search
    assert "no such oracle" in error_of(lambda: search(PROMPTS, oracle="nothing"))
    assert "hypotheses = 9" in error_of(lambda: search(PROMPTS, hypotheses=9, beams=8))
