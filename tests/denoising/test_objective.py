"""The losses against float64, and corruption against what it is to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import denoising

from dinado_jax.denoising.corruption import corrupt_at_random, masked_positions
from dinado_jax.denoising.data import pair_batches, text_batches, text_rows
from dinado_jax.denoising.model import MaskedLM, Text
from dinado_jax.denoising.noise import fold_in, row_keys, uniforms
from dinado_jax.denoising.objective import (
    denoising_terms,
    masked_terms,
    text_positions,
    unrolled_nats,
)
from dinado_jax.denoising.tokens import codec_of, vocabulary_of
from dinado_jax.denoising.vocabulary import Vocabulary
from dinado_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WORDS = Vocabulary(20, 0, 1, 2, 3, ((0, 4), (9, 11)))  # 14 ids of text
TEXT_IDS = [4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def keys(rows, seed=0):
    return jax.random.split(jax.random.key(seed), rows)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def by_cdf(log_probs, uniform):
    """The first token whose cumulative probability exceeds the number."""
    return (np.cumsum(np.exp(log_probs), -1) <= uniform[..., None]).sum(-1)


def at(log_probs, tokens):
    return np.take_along_axis(log_probs, np.asarray(tokens)[..., None], -1)[..., 0]


@pytest.fixture(scope="module")
def batch():
    denoiser, _ = denoising.denoiser()
    rows = denoising.pairs(denoiser)
    return pair_batches(rows, 8, seed=5)(0)


def test_the_loss_is_that_of_float64(batch):
    denoiser, params = denoising.denoiser()
    terms = jax.jit(lambda params: denoising_terms(denoiser, 2, params, None, batch))(params)
    text, own = np.asarray(text_positions(Text(batch.tokens, batch.length))), row_keys(batch.noise)
    context = denoiser.encode(params, batch.source, batch.source_length)
    tokens = corrupt_at_random(denoiser.vocabulary, batch.tokens, text, fold_in(own, 0))
    assert (tokens != batch.tokens).any()
    total, uniform = 0.0, np.asarray(uniforms(fold_in(fold_in(own, 1), 0), tokens.shape[1]))
    for _ in range(2):
        log_probs = log_softmax(denoiser.logits(params, tokens, batch.length, context))
        total -= at(log_probs, batch.tokens)[text].sum() / 2
        tokens = np.where(text, by_cdf(log_probs, uniform), tokens).astype(np.int32)
    assert float(terms["nll"].sum) == pytest.approx(total, rel=1e-5)
    assert float(terms["nll"].weight) == text.sum()

    states, mask = np.asarray(context.states, np.float64), np.asarray(context.mask)
    mean = (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    kernel, bias = (np.asarray(params["length"][name], np.float64) for name in ("kernel", "bias"))
    sources = batch.source_length - 2
    nats = 0.0
    for scores, source, target in zip(mean @ kernel + bias, sources, batch.length - 2):
        first = denoiser.max_source_length - source  # the place of length 1
        own = scores[first : first + denoiser.max_length]
        nats -= log_softmax(own)[target - 1]
    assert float(terms["length_nll"].sum) == pytest.approx(nats, rel=1e-5)
    assert float(terms["length_nll"].weight) == 8


def test_no_gradient_passes_through_what_is_drawn():
    """With x1 given as a constant the gradient is the same."""
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(20, 20)), jnp.float32)
    start, target = (jnp.asarray(rng.choice(TEXT_IDS, (4, 6)), jnp.int32) for _ in range(2))
    text, own = jnp.ones((4, 6), bool), keys(4)
    uniform = np.asarray(uniforms(fold_in(own, 0), 6))
    drawn = by_cdf(log_softmax(table[start]), uniform).astype(np.int32)
    assert (drawn != np.asarray(start)).any()

    def loss(table):
        return unrolled_nats(lambda x: table[x], start, target, text, own, 2).sum()

    def given(table):
        both = [unrolled_nats(lambda x: table[x], x, target, text, own, 1) for x in (start, drawn)]
        return sum(both).sum() / 2

    np.testing.assert_allclose(jax.grad(loss)(table), jax.grad(given)(table), atol=1e-6)


def test_a_masked_language_model_is_the_special_case():
    """One pass from the mask token: the cross-entropy of masked tokens, by the model alone."""
    made = denoising.masked()
    vocabulary, config = vocabulary_of(made), made.model.config
    rows = text_rows(codec_of(made), denoising.TEXTS, config.context_length, made.pad_id)
    batch = text_batches(rows, 16, seed=3)(0)
    model = MaskedLM(config, vocabulary)
    terms = jax.jit(lambda params: masked_terms(model, 0.4, params, None, batch))(made.params)
    text = text_positions(Text(batch.tokens, batch.length))
    chosen = np.asarray(masked_positions(0.4, text, fold_in(row_keys(batch.noise), 0)))
    assert 0 < chosen.sum() < text.sum()
    start = np.where(chosen, made.mask_id, batch.tokens)
    inside = jnp.arange(start.shape[1])[None] < batch.length[:, None]
    hidden = made.model.apply({"params": made.params}, start, inside)
    logits = made.model.apply({"params": made.params}, hidden, method="vocabulary_logits")
    logits = np.array(logits, np.float64)
    logits[..., :4] = -np.inf  # [PAD], [CLS], [SEP] and [MASK]
    wanted = -at(log_softmax(logits), batch.tokens)[chosen].sum()
    assert float(terms["nll"].sum) == pytest.approx(wanted, rel=1e-5)
    assert float(terms["nll"].weight) == chosen.sum()


def test_both_sides_of_a_pair_are_masked_and_see_each_other(batch):
    made = denoising.masked()
    model = MaskedLM(made.model.config, vocabulary_of(made))
    terms = masked_terms(model, 0.4, made.params, None, batch)
    texts = Text(batch.tokens, batch.length), Text(batch.source, batch.source_length)
    own = row_keys(batch.noise)
    shown, chosen = [], []
    for number, text in enumerate(texts):
        positions = masked_positions(0.4, text_positions(text), fold_in(own, number))
        chosen.append(np.asarray(positions))
        shown.append(Text(np.where(positions, made.mask_id, text.tokens), text.length))
    assert all(each.sum() > 0 for each in chosen)
    logits = np.asarray(model.logits(made.params, *shown))
    split = np.split(logits, [batch.tokens.shape[1]], 1)
    nats = [-at(log_softmax(part), text.tokens)[each].sum()
            for part, text, each in zip(split, texts, chosen)]  # fmt: skip
    assert float(terms["nll"].sum) == pytest.approx(sum(nats), rel=1e-5)
    assert float(terms["nll"].weight) == sum(each.sum() for each in chosen)

    # Neither side is the first one, and padding between them is not there.
    swapped = model.logits(made.params, *shown[::-1])
    wider = Text(np.pad(shown[0].tokens, ((0, 0), (0, 2))), shown[0].length)
    T, S = (text.tokens.shape[1] for text in texts)
    for name, found in (
        ("swapped", swapped[:, S:]),
        ("wider", model.logits(made.params, wider, shown[1])[:, :T]),
    ):
        inside = np.arange(T)[None] < batch.length[:, None]
        np.testing.assert_allclose(
            np.asarray(found)[inside], split[0][inside], atol=1e-4, err_msg=name
        )
    alone = np.asarray(model.logits(made.params, shown[0]))
    assert np.abs(alone - split[0])[inside].max() > 0.01
    long = Text(np.pad(shown[1].tokens, ((0, 0), (0, 17 - S))), shown[1].length)
    with pytest.raises(InputError, match="a row of 17 tokens: the model has positions for 16"):
        model.logits(made.params, shown[0], long)


def test_each_row_has_a_rate_of_its_own():
    rows, T = 2000, 64
    text = np.zeros((rows, T), bool)
    text[:, 1:51] = True
    tokens = np.where(text, 4, 0).astype(np.int32)
    changed = np.asarray(corrupt_at_random(WORDS, tokens, text, keys(rows)))
    assert (changed[~text] == 0).all() and set(np.unique(changed[text])) == set(TEXT_IDS)
    found = changed[text]
    counts = [(found == id).mean() for id in TEXT_IDS[1:]]
    np.testing.assert_allclose(counts, 0.5 / 14, atol=0.004)
    share = (changed != 4)[:, 1:51].mean(1) * 14 / 13  # a random token may be the same
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    for quantile in (0.1, 0.25, 0.75, 0.9):  # of a uniform rate
        assert np.quantile(share, quantile) == pytest.approx(quantile, abs=0.04)


def test_masks_have_one_rate():
    text = np.ones((2000, 50), bool)
    text[:, 25:] = False
    chosen = np.asarray(masked_positions(0.15, text, keys(2000)))
    assert not chosen[:, 25:].any()
    share = chosen[:, :25].mean(1)
    assert share.mean() == pytest.approx(0.15, abs=0.005)
    assert share.var() == pytest.approx(0.15 * 0.85 / 25, rel=0.15)


def test_random_numbers_depend_on_row_and_position_alone():
    whole = np.asarray(uniforms(keys(3), 8))
    np.testing.assert_array_equal(uniforms(keys(3), 5), whole[:, :5])
    np.testing.assert_array_equal(uniforms(keys(3)[1:2], 8), whole[1:2])
    assert len(np.unique(whole)) == whole.size
