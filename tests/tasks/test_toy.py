"""The toy grammar: its words, its splits, and how loosely captions follow their keywords."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from support.refusal import error_of

from dinado_jax.tasks import toy
from dinado_jax.tasks.keyword.format import concepts_of
from dinado_jax.tasks.keyword.lexical import forms, lexical, words

# Per place in a prompt, every concept with the words that captions use for it.
TABLES = (
    {noun.one: set(noun) for noun in toy.NOUNS},
    {verb.base: set(verb) for verb in toy.VERBS},
    {item: {item} for item in toy.OBJECTS},
)
CONCEPTS = TABLES[0] | TABLES[1] | TABLES[2]


RATE = toy.FOLLOW**3


def captions(split="train", count=4000, seed=0):
    return toy.examples(split, count, seed)


def test_toy_concepts_are_inflected_as_the_oracle_knows_and_never_share_a_form():
    assert [len(table) for table in TABLES] == [24, 16, 20] and len(CONCEPTS) == 60
    for concept, used in CONCEPTS.items():
        assert used <= forms(concept)
    shared = Counter(form for concept in CONCEPTS for form in forms(concept))
    assert [form for form, count in shared.items() if count > 1] == []


def test_toy_captions_hold_one_concept_of_each_class_and_no_accidental_forms():
    for example in captions():
        tokens = words(example.references[0])
        for table in TABLES:
            assert sum(token in forms(concept) for token in tokens for concept in table) == 1


def test_toy_captions_are_short_sentences_of_few_words():
    references = [example.references for example in captions()]
    assert {len(group) for group in references} == {1}
    lengths = Counter(len(reference.removesuffix(" .").split()) for (reference,) in references)
    assert min(lengths) == 7 and max(lengths) == 12
    assert all(reference.endswith(" .") for (reference,) in references)
    vocabulary = {word for (reference,) in references for word in reference.split()}
    assert set.union(*CONCEPTS.values()) <= vocabulary
    assert 190 <= len(vocabulary) <= 250


def test_toy_articles_agree_with_what_follows():
    for example in captions():
        tokens = example.references[0].split()
        for article, following in pairwise(tokens):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou")


def test_toy_captions_follow_their_prompts_rarely_and_evenly():
    sample = captions(count=8000)
    prompts = [example.prompt for example in sample]
    satisfied = np.array(lexical(prompts, [example.references[0] for example in sample]))
    assert satisfied.mean() == pytest.approx(RATE, abs=0.016)  # 4 standard errors
    assert 0.13 < RATE < 0.17
    for position, table in enumerate(TABLES):
        of = np.array([concepts_of(prompt)[position] for prompt in prompts])
        rates = np.array([satisfied[of == concept].mean() for concept in table])
        error = np.sqrt(RATE * len(table) / len(sample))
        assert np.abs(rates - RATE).max() < 4.5 * error


def test_toy_splits_divide_the_triples_and_cover_every_word():
    prompts = {
        "train": {example.prompt for example in captions(count=30_000)},
        "dev": {example.prompt for example in captions("dev", 1000)},
        "test": {example.prompt for example in captions("test", 1000)},
    }
    total = 24 * 16 * 20
    # 30,000 draws miss a hundredth of the training triples; what they hit is no one else's.
    assert 0.98 < len(prompts["train"]) / (0.8 * total) <= 1
    assert len(prompts["dev"]) == len(prompts["test"]) == total // 10
    assert len(set.union(*prompts.values())) == sum(map(len, prompts.values()))
    for split in prompts.values():
        for position, table in enumerate(TABLES):
            assert {concepts_of(prompt)[position] for prompt in split} == set(table)


def test_toy_evaluation_prompts_repeat_only_when_exhausted():
    assert len({example.prompt for example in captions("dev", 500)}) == 500
    counts = Counter(example.prompt for example in captions("dev", 2 * 768))
    assert set(counts.values()) == {2}


def test_toy_is_a_function_of_its_seed():
    assert captions(count=50) == captions(count=50)
    assert captions(count=50) != captions(count=50, seed=1)
    assert captions(count=0) == []


def test_toy_bad_input():
    assert "'valid'" in error_of(toy.examples, "valid", 1, 0)
    error_of(toy.examples, "train", -1, 0)
    error_of(toy.examples, "train", 1, -1)
