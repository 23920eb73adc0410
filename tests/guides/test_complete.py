"""Complete and not degenerate texts against enumeration."""

import itertools

import jax
import numpy as np
import pytest
from guides.test_seam import Digits
from support import world
from support.refusal import error_of
from support.world import EOS, MODEL, V

from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.guides.complete import complete_guide
from dinado_jax.language_model import Base, Controlled

pytestmark = pytest.mark.usefixtures("compiled_quickly")

N, PROMPT = 4, [0, 3, 1, 3]
BASE = Base(MODEL, world.base_params(), None, Digits())


def repeats(prompt, text, n):
    """Whether the text completes an n-gram a second time; a stop token is no text."""
    row = [*prompt, *text]
    grams = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
    new = range(max(0, len(prompt) - n + 1), len(grams))
    return n > 0 and any(grams[i] in grams[:i] for i in new if grams[i][-1] != EOS)


@pytest.fixture(scope="module")
def texts():
    """{text: log p} of all finished texts of at most N tokens."""
    rows = np.array(list(itertools.product(range(V), repeat=N)), np.int32)
    whole = np.concatenate([np.tile(PROMPT, (len(rows), 1)), rows], 1)
    logits = jax.jit(MODEL.apply)({"params": BASE.params}, whole).logits
    log_p = world.log_softmax(np.float64(logits))[:, len(PROMPT) - 1 : -1]
    out = {}
    for row, table in zip(rows.tolist(), log_p):
        if EOS in row:
            text = tuple(row[: row.index(EOS) + 1])
            out[text] = sum(table[t, token] for t, token in enumerate(text))
    return out


def guided(most, least, n):
    return Controlled(BASE, *complete_guide(Digits(), most, least, n))


@pytest.mark.parametrize(
    "most, least, n", [(N, 2, 2), (N, N, 2), (3, 1, 2), (3, 3, 1), (N, 2, 0), (N + 3, N, 0)]
)
def test_beams_enough_find_all_such_texts_and_no_others(texts, most, least, n):
    model = guided(most, least, n)
    search = Beam(model.policy, (EOS,), N, 100, 100, 0.0, scores=True)
    found = beam_prompts(search, model.variables, TokenizedPrompts([PROMPT]), 100)
    wanted = {
        text: log_p
        for text, log_p in texts.items()
        if least <= len(text) <= most and not repeats(PROMPT, text, n)
    }
    best = sorted(wanted, key=wanted.get, reverse=True)
    lengths = found.length[0]
    rows = [tuple(row[:k]) for row, k in zip(found.tokens[0].tolist(), lengths) if k]
    assert rows == best and found.finished[0, : len(best)].all()
    own = found.log_base[0].sum(-1)[: len(best)]
    np.testing.assert_allclose(own, [wanted[text] for text in best], atol=1e-4)
    assert 0 < len(wanted) < len(texts)


def test_samples_are_such_texts():
    """Each row has a history of its own; what comes after its end matters to none."""
    model = guided(N, 2, 2)
    sampler = Sampler(model.policy, Method(), (EOS,), N, 200)
    prompts = TokenizedPrompts([PROMPT, [0, 2]])
    drawn = sample_prompts(sampler, model.variables, prompts, jax.random.key(0), 400)
    lengths = set()
    for number, (row, length) in enumerate(zip(drawn.tokens.tolist(), drawn.length)):
        assert row[length - 1] == EOS and length >= 2
        assert not repeats(prompts.tokens[number // 200], row[:length], 2)
        lengths.add(int(length))
    assert lengths == {2, 3, 4}


def test_faults():
    assert "least = 5 is above most = 4" in error_of(complete_guide, Digits(), 4, 5)
    assert "most = 0" in error_of(complete_guide, Digits(), 0)
    assert "no_repeat_ngram = -1" in error_of(complete_guide, Digits(), 4, 2, -1)
