"""A classifier as a guide: its values are those of the classifier, in every way of decoding."""

from functools import partial

import jax
import numpy as np
import pytest
from support import tiny, word_base
from support.refusal import error_of

from dinado_jax.classifiers.bag import empty_bag
from dinado_jax.classifiers.classifier import Classifier
from dinado_jax.classifiers.prefixes import init_head, log_odds_after
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.batching import restore_order
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.refill import iter_refilled
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.guides.classifier import classifier_guide
from dinado_jax.language_model import Controlled
from dinado_jax.loading import load_base
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import train_codec

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog cat", "fox", "the dog saw a cat"]
TEMPERATURE = 0.5
BEST = 200


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(word_base.write(tmp_path_factory.mktemp("base") / "b"))


def made(base, reads_prompt=True, context=24):
    model = GPT2(GPT2Config(base.model.vocab_size, context, 8, 1, 2))
    bag = tiny.noisy(empty_bag(model.vocab_size), 0.7)
    params = {
        "trunk": tiny.noisy(init_params(model, 5), 0.5),
        "head": tiny.noisy(init_head(8, 0), 0.7),
        "bag": bag._replace(square=np.exp(bag.square)),
    }
    return Classifier(model, base.codec, params, "1", reads_prompt, context, TEMPERATURE)


@partial(jax.jit, static_argnums=0)
def log_odds(model, params, rows, lengths):
    return log_odds_after(model, params, rows, lengths)


@partial(jax.jit, static_argnums=0)
def log_probs(model, params, row):
    return jax.nn.log_softmax(model.apply({"params": params}, row).logits)


def values(classifier, prompt, texts):
    """The log-odds after a prompt's ids and each of these texts of equal length, by definition."""
    before = prompt if classifier.reads_prompt else classifier.codec.prompts([""])[0]
    before = list(before)[-(classifier.context // 2) :]
    rows = np.zeros((len(texts), classifier.context), np.int32)
    whole = np.array([[*before, *tokens] for tokens in texts], np.int32)[:, : classifier.context]
    rows[:, : whole.shape[1]] = whole
    lengths = np.full(len(texts), len(before), np.int32)
    found = log_odds(classifier.model, classifier.params, rows, lengths)
    return np.array(found[:, whole.shape[1] - 1], np.float64) / TEMPERATURE


@pytest.mark.parametrize(("reads_prompt", "context"), [(True, 24), (False, 24), (True, 8)])
def test_q_is_p_times_r(base, reads_prompt, context):
    classifier = made(base, reads_prompt, context)
    model = Controlled(base, *classifier_guide(classifier, base.codec, BEST))
    moved = []
    for each in model.generate(PROMPTS, samples=2, seed=1, max_new_tokens=6):
        (prompt,) = base.codec.prompts([each.prompt])
        row = np.array([[*prompt, *each.tokens]], np.int32)
        log_p = np.array(log_probs(base.model, base.params, row), np.float64)[0, len(prompt) - 1 :]
        for place, token in enumerate(each.tokens):
            before, best = list(each.tokens[:place]), np.argsort(-log_p[place])[:BEST]
            after = np.repeat(values(classifier, prompt, [before]), log_p.shape[1])
            after[best] = values(classifier, prompt, [[*before, int(v)] for v in best])
            log_q = log_p[place] - np.log1p(np.exp(-after))
            log_q -= np.logaddexp.reduce(log_q)
            assert each.log_probs[place] == pytest.approx(log_q[token], abs=1e-4)
            moved.append(abs(each.log_probs[place] - log_p[place, token]))
    assert np.mean(moved) > (0.02 if context == 24 else 5e-4)  # what is full moves no more


def test_rows_that_are_refilled_and_scores_agree_with_samples(base):
    """A row has slots of its own there: also the last token of the longest prompt has room."""
    model = Controlled(base, *classifier_guide(made(base), base.codec, 20))
    prompts = TokenizedPrompts(base.codec.prompts(PROMPTS * 3))
    given = model.variables, prompts, jax.random.key(1), 8
    sampler = Sampler(model.policy, Method(), base.codec.stop_ids, 5, 2, scores=True)
    alone = sample_prompts(sampler, *given)
    index, parts, _ = zip(*iter_refilled(sampler, *given))
    refilled = restore_order(index, parts)
    np.testing.assert_array_equal(alone.tokens, refilled.tokens)
    np.testing.assert_allclose(alone.log_probs, refilled.log_probs, atol=1e-5)
    new = [row[:length].tolist() for row, length in zip(alone.tokens, alone.length)]
    before = [ids for ids in prompts.tokens for _ in range(2)]
    rows = sequences(before, new, base.codec.eos_id, 24)
    scores = score(model.policy, model.variables, rows, 16, None)
    np.testing.assert_allclose(scores.sum(1), alone.log_policy.sum(1), atol=1e-3)


def test_beams_are_guided_too(base):
    model = Controlled(base, *classifier_guide(made(base), base.codec))
    (found,) = model.beam_search(PROMPTS[:1], beams=2, max_new_tokens=4)
    assert abs(found.log_probs.sum() - found.log_probs_base.sum()) > 0.01


def test_a_classifier_with_other_tokens_is_refused(base):
    other = train_codec(["entirely other words are here"] * 9, 290)
    assert "--tokenizer BASE" in error_of(classifier_guide, made(base), other)
    template = base.codec.with_template("Say: {prompt}")
    assert "prompt template" in error_of(classifier_guide, made(base), template)
    classifier_guide(made(base, reads_prompt=False), template)
