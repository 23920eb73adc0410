"""Methods of models: those of the functions, and what a control makes of a text."""

import inspect

import numpy as np
import pytest
from support import word_base
from support.refusal import error_of

import dinado_jax
from dinado_jax.data.batching import take
from dinado_jax.data.prompts import PromptSet
from dinado_jax.data.sequences import sequences
from dinado_jax.guarantee import guarantee

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog =", "cat fox =", "fox ="]
TEXTS = ["the dog saw a cat .", "the fox", "a fox is in the caf\u00e9 ."]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return dinado_jax.load(word_base.write(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def merge(base):
    return word_base.controlled(base, "merge")


def same(one, other):
    assert one.text == other.text and one.tokens.tolist() == other.tokens.tolist()
    np.testing.assert_array_equal(one.log_probs, other.log_probs)
    np.testing.assert_array_equal(one.log_probs_base, other.log_probs_base)


def test_methods_are_the_functions(base, merge):
    for model in (base, merge, dinado_jax.compose(merge, merge.tilted(strength=0.5))):
        for name, arguments in (
            ("generate", {"samples": 2, "max_new_tokens": 4, "seed": 3}),
            ("beam_search", {"beams": 2, "max_new_tokens": 4}),
        ):
            made = getattr(model, name)(PROMPTS[:2], **arguments)
            asked = getattr(dinado_jax, name)(model, PROMPTS[:2], **arguments)
            for one, other in zip(made, asked, strict=True):
                same(one, other)
        pairs = zip(model.score(PROMPTS, TEXTS), dinado_jax.score(model, PROMPTS, TEXTS))
        assert all(np.array_equal(one, other) for one, other in pairs)
    assert "samples: per prompt" in inspect.getdoc(merge.generate)


def test_the_base_alone_needs_no_second_pass(base):
    (one,) = base.generate(PROMPTS[:1], max_new_tokens=4)
    np.testing.assert_array_equal(one.log_probs, one.log_probs_base)


@pytest.mark.parametrize("kind", ["clamped", "projected"])
def test_q_is_p_times_the_change_of_r_where_r_is_consistent(kind, base):
    model = word_base.controlled(base, kind)
    for one in model.values_of(PROMPTS, TEXTS):
        change = np.diff(np.log(one.values))
        np.testing.assert_allclose(one.log_probs, one.log_probs_base + change, atol=1e-4)
        assert np.abs(change).max() > 0.01


@pytest.mark.parametrize("kind", ["merge", "soft", "nado", "clamped", "projected"])
def test_values_are_those_of_rows_in_parallel(kind, base):
    """And V of the prompts; log-probabilities are those that `score` computes."""
    model = word_base.controlled(base, kind)
    found = model.values_of(PROMPTS, TEXTS)
    prompts, targets = base.codec.prompts(PROMPTS), base.codec.targets(TEXTS)
    rows = sequences(prompts, targets, base.codec.eos_id, 24)
    along = model.control.values(base.params, model.params, take(rows, np.arange(3)))
    for i, (one, prompt, target) in enumerate(zip(found, prompts, targets, strict=True)):
        span = slice(len(prompt) - 1, len(prompt) - 1 + len(target))
        np.testing.assert_allclose(
            one.values[1:], np.exp(along.log_after[i, span]), rtol=1e-4, atol=1e-7
        )
        assert len(one.tokens) == len(one.log_probs) == len(one.log_probs_base) == len(target)
    np.testing.assert_allclose(
        [one.values[0] for one in found], model.prompt_values(PROMPTS), rtol=1e-5
    )
    for of, name in ((model, "log_probs"), (base, "log_probs_base")):
        for one, scores in zip(found, of.score(PROMPTS, TEXTS), strict=True):
            np.testing.assert_array_equal(getattr(one, name), scores)


def test_a_text_does_not_depend_on_its_batch(merge):
    many = merge.values_of(PROMPTS, TEXTS, batch=2)
    for prompt, text, one in zip(PROMPTS, TEXTS, many):
        alone = merge.values(prompt, text)
        assert (alone.prompt, alone.text, alone.tokens) == (prompt, text, one.tokens)
        np.testing.assert_allclose(alone.values, one.values, rtol=1e-5)


def test_pieces_are_the_text(base, merge):
    for prompt, text in zip(PROMPTS, TEXTS):
        one = merge.values(prompt, text)
        assert "".join(one.tokens[:-1]) == text and one.finished
        assert one.tokens[-1] == base.codec.tokenizer.eos_token
    assert len(base.codec.targets(["\u20ac"])[0]) > 2  # a character of several tokens
    assert merge.values("dog =", "\u20ac a").tokens[-3:-1] == ["\u20ac", " a"]


def test_an_unfinished_text_has_no_stop_token(merge):
    whole, part = merge.values("dog =", "the dog"), merge.values("dog =", "the dog", finished=False)
    assert part.tokens == whole.tokens[:-1] and not part.finished
    np.testing.assert_array_equal(part.values, whole.values[:-1])
    np.testing.assert_array_equal(part.log_probs, whole.log_probs[:-1])
    nothing = merge.values("dog =", "", finished=False)
    assert len(nothing.values) == 1 and not nothing.tokens and not nothing.finished


def test_a_tilt_changes_q_alone(merge):
    plain, tilted = (m.values("dog =", "the dog") for m in (merge, merge.tilted(strength=2.0)))
    np.testing.assert_array_equal(plain.values, tilted.values)
    np.testing.assert_array_equal(plain.log_probs_base, tilted.log_probs_base)
    assert np.abs(plain.log_probs - tilted.log_probs).max() > 1e-3


def test_a_control_with_state_knows_what_cannot_be(base):
    """R is 0 once a text has ended without its keyword."""
    model = word_base.controlled(base, "state")
    bad, good = model.values_of(["dog =", "dog ="], ["a fox .", "a dog ."])
    assert bad.values[-1] == 0 < bad.values[-2] and good.values[-1] > 1e-6
    np.testing.assert_allclose(bad.values[0], model.prompt_values(["dog ="])[0], rtol=1e-5)


def test_variables_of_a_control_with_state_are_those_of_its_prompts(base):
    model = word_base.controlled(base, "state")
    assert "for_prompts" in error_of(lambda: model.variables)
    ready, _ = model.for_prompts(PromptSet(["dog ="]))
    assert ready.variables


def test_a_guide_has_values_too(base):
    mask, prompts = guarantee(base, ["dog ="], max_new_tokens=12)
    good, bad = (mask.values_of(prompts, [text])[0] for text in ("a dog .", "a fox ."))
    assert (good.values == 1).all() and bad.values[0] == 1 and bad.values[-1] == 0


def test_faults(merge):
    assert "2 prompts and 1 texts" in error_of(merge.values_of, PROMPTS[:2], TEXTS[:1])
    said = error_of(lambda: merge.values_of(PROMPTS[:1], TEXTS[:1], finished=[True, False]))
    assert "1 prompts and 1 texts and 2 values of finished" in said
    assert "tokens more than the context" in error_of(merge.values, "dog =", "dog " * 30)
    assert "texts is 'dog': give a list" in error_of(merge.values_of, ["dog ="], "dog")


def test_what_is_shown_fits_in_a_line(base, merge):
    one = merge.values("dog =", "the dog")
    assert repr(one).startswith("PrefixValues('dog =' -> 'the dog', ")
    assert repr(merge).startswith("Controlled(merge control, split: ")
    for shown in (base, merge, dinado_jax.compose(merge), one):
        assert len(repr(shown)) < 400 and "\n" not in repr(shown)


def test_every_prompt_of_a_set_keeps_its_condition(merge):
    (one,) = merge.values_of(PromptSet(["dog ="]), ["the dog"])
    assert one.values[0] == merge.values("dog =", "the dog").values[0]
