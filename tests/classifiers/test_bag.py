"""A bag of tokens: what it sums, what it leaves out, and that it finds the words that decide."""

import numpy as np
import pytest

from dinado_jax.classifiers.bag import (
    Bag,
    bag_log_odds_after,
    fit_bag,
    forms,
    held_out_log_odds,
)
from dinado_jax.classifiers.baseline import fit_baseline
from dinado_jax.classifiers.classifier import to_rows
from dinado_jax.classifiers.labelled import Labelled
from dinado_jax.data.sequences import Sequences
from dinado_jax.models.tokenizer import train_codec, train_words

WORDS = ["the", "a", "dog", "cat", "runs", "sees", "house", "tree"]
CONTEXT = 16


def texts(count, seed):
    """Texts, and whether "red" is in them rather than "blue"."""
    rng = np.random.default_rng(seed)
    rows = [list(map(str, rng.choice(WORDS, rng.integers(3, 9)))) for _ in range(count)]
    for i, words in enumerate(rows):
        words.insert(int(rng.integers(len(words))), "red" if i % 2 else "blue")
    return Labelled([""] * count, [" ".join(words) for words in rows], np.arange(count) % 2 == 1)


@pytest.fixture(scope="module")
def fitted():
    known = texts(80, 0)
    codec = train_words(known.texts, 100)
    form = forms(codec, 1 + max(codec.tokenizer.get_vocab().values()))
    rows = to_rows(codec, None, known.texts, CONTEXT)
    return codec, form, known, rows, fit_bag(rows, known.labels, form, codec.eos_id)


def log_odds(bag, codec, text, prompt=None):
    """Of a whole text, by definition."""
    rows = to_rows(codec, None if prompt is None else [prompt], [text], CONTEXT)
    found = np.asarray(bag_log_odds_after(bag, rows.tokens, rows.prompt_length))
    return found[0, rows.length[0] - 1]


def test_the_sum_over_the_text_so_far():
    rng = np.random.default_rng(0)
    bag = Bag(rng.normal(size=9), rng.uniform(1, 2, 9), np.float64(0.3))
    bag = Bag(*(np.asarray(x, np.float32) for x in bag))
    tokens, start = rng.integers(0, 9, (3, 7)).astype(np.int32), np.array([1, 3, 7], np.int32)
    found = np.asarray(bag_log_odds_after(bag, tokens, start))
    for row in range(3):
        for t in range(7):
            text = tokens[row, start[row] : t + 1]
            expected = bag.bias
            if len(text):
                expected = expected + bag.weight[text].sum() / np.sqrt(bag.square[text].sum())
            np.testing.assert_allclose(found[row, t], expected, rtol=1e-5)


def test_the_words_that_decide_are_found(fitted):
    codec, _, _, _, bag = fitted
    new = texts(100, 1)
    found = np.array([log_odds(bag, codec, text) for text in new.texts])
    assert ((found > 0) == new.labels).all() and np.abs(found).min() > 1


def test_where_every_word_is_its_own_form_it_is_tf_idf_and_logistic_regression(fitted):
    """Of texts in which no word is repeated: the bag adds squares up token by token."""
    codec, form, known, _, _ = fitted
    some = [" ".join(dict.fromkeys(text.split())) for text in known.texts]
    known = known._replace(texts=some)
    rows = to_rows(codec, None, some, CONTEXT)
    bag = fit_bag(rows, known.labels, form, codec.eos_id)
    found = [log_odds(bag, codec, text) for text in some]
    np.testing.assert_allclose(found, fit_baseline(known, 0.03)(some), rtol=0.02)


def test_what_was_not_learned_from_counts_nothing(fitted):
    codec, _, _, _, bag = fitted
    assert log_odds(bag, codec, "a red dog") == log_odds(bag, codec, "a quite red dog")
    assert log_odds(bag, codec, "quite") == bag.bias == log_odds(bag, codec, "")
    assert log_odds(bag, codec, "a red dog") == log_odds(bag, codec, "a red dog", "blue blue")


def test_a_word_shares_what_is_known_of_its_form():
    known = Labelled([""] * 4, ["Red dog", "a red cat", "Blue cat", "a dog"], np.arange(4) < 2)
    codec = train_words([*known.texts, "RED"], 100)
    form = forms(codec, 1 + max(codec.tokenizer.get_vocab().values()))
    bag = fit_bag(to_rows(codec, None, known.texts, CONTEXT), known.labels, form, codec.eos_id)
    assert log_odds(bag, codec, "RED") > 0.5 > log_odds(bag, codec, "dog")


def test_held_out_rows_are_judged_by_the_bags_of_other_folds(fitted):
    codec, form, known, rows, bag = fitted
    fold = np.arange(len(rows)) // 2 % 3
    found = held_out_log_odds(rows, known.labels, form, codec.eos_id, fold)
    own = fold == 1
    others = Sequences(rows.tokens[~own], rows.prompt_length[~own], rows.length[~own])
    of_others = fit_bag(others, known.labels[~own], form, codec.eos_id)
    expected = bag_log_odds_after(of_others, rows.tokens[own], rows.prompt_length[own])
    np.testing.assert_array_equal(found[own], expected)
    assert not np.allclose(found, bag_log_odds_after(bag, rows.tokens, rows.prompt_length))


def test_a_token_without_text_has_no_form_of_another():
    """Bytes of a byte-level BPE beside the numbers that name them."""
    codec = train_codec([" ".join(map(str, range(120))), "\u00e9"] * 3, 400)
    size = len(codec.tokenizer)
    form, texts = forms(codec, size), codec.decode([[id] for id in range(size)])
    shared = [
        {texts[other].lower() for other in np.flatnonzero(form == form[id])} for id in range(size)
    ]
    assert all(len(each) == 1 for each in shared)
    whole = [id for id, text in enumerate(texts) if not text or "\ufffd" in text]
    assert whole and all((form == form[id]).sum() == 1 for id in whole)
    assert form[codec.targets(["7"])[0][0]] == form[codec.tokenizer.convert_tokens_to_ids("7")]
