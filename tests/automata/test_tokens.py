"""Automata over tokens do what those over characters do, however a text is cut into tokens."""

import itertools
import random

import numpy as np
import pytest
from support.tokenizer_folders import KINDS

from dinado_jax.automata.automaton import explore
from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.token_texts import PARTIAL, token_texts
from dinado_jax.automata.tokens import NEVER, Vocabulary, token_automaton
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.tasks.keyword.automaton import concept_automaton
from dinado_jax.tasks.keyword.lexical import present
from dinado_jax.tasks.keyword.symbols import symbols_of

TEXTS = ["", "a", "b", "ab", "ba", "aab", "bbbb", "c", "abab"]


def ends_in_ab():
    """Of at most two letters' memory, with more states than needed: the texts that end in "ab"."""
    return explore("", lambda state, s: (state + s)[-3:], lambda state: state[-2:] == "ab", "abc")


def run(automaton, tokens) -> int:
    state = 0
    for token in tokens:
        state = automaton.table[state, automaton.class_of[token]]
    return state


def test_an_automaton_is_minimal():
    automaton = ends_in_ab()
    assert automaton.table.shape == (3, 3) and not automaton.settled.any()
    for text in map("".join, itertools.product("abc", repeat=5)):
        assert automaton.accepts(text) == text.endswith("ab")


def test_tokens_do_what_their_characters_do():
    automaton, V = ends_in_ab(), len(TEXTS)
    found = token_automaton(automaton, Vocabulary.of(TEXTS))
    for tokens in itertools.product(range(V), repeat=3):
        assert run(found, tokens) == automaton.run("".join(TEXTS[token] for token in tokens))
    effects = [tuple(found.table[:, found.class_of[token]]) for token in range(V)]
    for one, other in itertools.product(range(V), repeat=2):
        same = effects[one] == effects[other]
        assert (found.class_of[one] == found.class_of[other]) == same
    assert len(set(effects)) == found.table.shape[1]


def test_symbols_that_an_automaton_does_not_name_are_its_last():
    found = token_automaton(ends_in_ab(), Vocabulary.of(["c", "x", "ax", "ac"]))
    assert found.class_of[0] == found.class_of[1] and found.class_of[2] == found.class_of[3]


def test_least_numbers_of_tokens():
    """Against all sequences of tokens."""
    texts = [" dog", "d", "og", "s", " ", "."]
    found = token_automaton(concept_automaton("dog"), Vocabulary.of(texts))
    settled = concept_automaton("dog").settled
    for state in range(len(found.table)):
        for goal, least in (
            (settled, found.to_settled[state]),
            (found.accepting, found.to_accepting[state]),
        ):
            lengths = []
            for n in range(5):
                for classes in itertools.product(range(found.table.shape[1]), repeat=n):
                    at = state
                    for each in classes:
                        at = found.table[at, each]
                    lengths += [n] if goal[at] else []
                if lengths:
                    break
            assert least == min(lengths)
    assert found.to_settled[0] == 2 and found.to_accepting[0] == 1
    never = token_automaton(concept_automaton("dog"), Vocabulary.of(["d", " g", "!"]))
    assert never.to_settled[0] == never.to_accepting[0] == never.worst_settled == NEVER


@pytest.fixture(scope="module", params=KINDS)
def codec(request, tmp_path_factory):
    return load_codec(KINDS[request.param](tmp_path_factory.mktemp("kinds")))


def test_texts_of_tokens_make_up_the_text_of_a_row(codec):
    V = len(codec.tokenizer) + 3
    texts, rng = token_texts(codec, V), random.Random(0)
    ids = [id for id in range(V) if texts[id] and PARTIAL not in texts[id]]
    assert len(ids) > 30 and texts[-3:] == ["", "", ""]
    assert not any(texts[id] for id in codec.special_ids)
    rows = [rng.choices(ids, k=rng.randint(1, 8)) for _ in range(300)]
    rows += [row[:-1] for row in codec.targets(["a dog runs", "the  dogs, run"])]
    for row, text in zip(rows, codec.decode(rows)):
        assert "".join(texts[id] for id in row).strip() == text


def test_rows_of_any_tokens_are_judged_as_the_oracle_does(codec):
    """Also where bytes make up characters, or none, which only the oracle may know."""
    V = len(codec.tokenizer)
    texts, rng = token_texts(codec, V), random.Random(1)
    vocabulary = Vocabulary.of([symbols_of(text) for text in texts])
    words = ["dog", "run", "runs", "won't", "hot-dog", "r\u00fcn"]
    words = [row[:-1] for row in codec.targets(words)]
    whole = [[id] for id in range(V) if texts[id] and PARTIAL not in texts[id]]
    other = [[id] for id in range(V) if PARTIAL in texts[id]]
    missed = found = 0
    for concept in ("dog", "run", "won", "hot-dog"):
        automaton = token_automaton(concept_automaton(concept), vocabulary)
        rows = []
        for _ in range(400):
            parts = rng.choices(words, k=rng.randint(1, 2))
            parts += rng.choices(whole, k=rng.randint(0, 3))
            parts += rng.choices(other, k=rng.choice([0, 0, 0, 1, 2]))
            rng.shuffle(parts)
            rows.append([id for part in parts for id in part])
        for row, text in zip(rows, codec.decode(rows)):
            accepted, expected = automaton.accepting[run(automaton, row)], present([concept], text)
            assert expected[0] or not accepted, (concept, text)
            found += accepted
            partial = any(PARTIAL in texts[id] for id in row)
            missed += expected[0] and not accepted and not partial
    assert found > 150 and missed < found / 20


def test_one_text_in_several_tokenisations():
    text = "The hot-dogs won't run, Caf\u00e9 t shirts"
    rng, cuts = random.Random(2), []
    for _ in range(20):
        ends = sorted(rng.sample(range(1, len(text)), 9))
        cuts.append([text[i:j] for i, j in zip([0, *ends], [*ends, len(text)])])
    pieces = sorted({piece for cut in cuts for piece in cut})
    vocabulary = Vocabulary.of([symbols_of(piece) for piece in pieces])
    for concept in ("hot-dog", "hotdog", "win", "won", "run", "café", "t-shirt", "dog"):
        automaton = concept_automaton(concept)
        tokens = token_automaton(automaton, vocabulary)
        expected = automaton.run(symbols_of(text))
        for cut in cuts:
            assert run(tokens, [pieces.index(piece) for piece in cut]) == expected


def test_a_conjunction_has_the_automata_of_its_prompt():
    """Each by its own state, and with the shapes of the larger ones."""
    texts = [" dog", " a", "s", "run", " ", "\u00e9", "!", ""]
    vocabulary, stop = Vocabulary.of([symbols_of(text) for text in texts]), 7
    of = {
        word: token_automaton(concept_automaton(word), vocabulary) for word in ("dog", "run", "a")
    }
    given = [("dog", "run"), ("a",), ("run", "a", "dog")]
    stacked = stack([conjunction([of[word] for word in words], [stop]) for words in given])
    for prompt, words in enumerate(given):
        for tokens in itertools.product(range(stop), repeat=3):
            joint = stacked.joint_of[prompt, list(tokens)]
            assert (joint > 0).all()
            for k in range(3):
                state = 0
                for each in stacked.class_of[prompt, k, joint]:
                    state = stacked.table[prompt, k, state, each]
                accepting = stacked.accepting[prompt, k, state]
                if k >= len(words):
                    assert accepting and stacked.to_settled[prompt, k, state] == 0
                    continue
                own = run(of[words[k]], tokens)
                assert state == own and accepting == of[words[k]].accepting[own]
                assert stacked.to_settled[prompt, k, state] == of[words[k]].to_settled[own]
    assert (stacked.joint_of[:, stop] == 0).all()
    assert stacked.joint_of.dtype == np.uint8
