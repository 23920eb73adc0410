"""Exact search against enumeration."""

import numpy as np
import pytest
from guides.test_complete import BASE, PROMPT, N, texts  # noqa: F401
from guides.test_seam import GUIDED
from support.refusal import error_of
from support.world import V

import dinado_jax

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ASKED = " ".join(map(str, PROMPT[1:]))


def modes(**settings):
    return dinado_jax.length_modes(BASE, [ASKED], max_new_tokens=N, **settings)


def likeliest(scores):
    """{length: text}."""
    return {
        length: max((t for t in scores if len(t) == length), key=scores.get)
        for length in sorted({len(text) for text in scores})
    }


@pytest.mark.parametrize("batch", [1, 8])
def test_the_mode_of_every_length_is_found(texts, batch):  # noqa: F811
    best, found = likeliest(texts), modes(batch=batch)
    assert [len(one.tokens) for one in found] == list(best) == [1, 2, 3, 4]
    for one in found:
        assert tuple(one.tokens.tolist()) == best[len(one.tokens)]
        assert one.log_prob == pytest.approx(texts[best[len(one.tokens)]], abs=1e-4)
        assert one.exact and one.label is None and one.prompt == ASKED
        assert one.text == BASE.codec.decode([one.tokens.tolist()])[0]


def graded(prompts, given):
    """C of a text: more for more of token 4, none without it."""
    return [min(1.0, 0.4 * text.split().count("4")) for text in given]


def test_with_an_oracle_it_is_that_of_p_c(texts):  # noqa: F811
    scores = {t: p + np.log(min(1.0, 0.4 * t.count(4))) for t, p in texts.items() if 4 in t}
    best, found = likeliest(scores), modes(oracle=graded)
    assert [tuple(one.tokens.tolist()) for one in found] == list(best.values())
    for one in found:
        assert one.label == pytest.approx(min(1.0, 0.4 * one.tokens.tolist().count(4)))
        assert one.exact
    assert list(best.values()) != list(likeliest(texts).values())[1:]


def test_what_is_known_where_expansions_run_out(texts):  # noqa: F811
    best, exact = likeliest(texts), []
    for expansions in (1, 2, 4, 8, 100):
        found = modes(expansions=expansions, batch=2)
        for one in found:
            length = len(one.tokens)
            assert one.log_prob <= one.bound + 1e-6
            assert one.bound >= texts[best[length]] - 1e-4
            if one.exact:
                assert tuple(one.tokens.tolist()) == best[length]
        exact.append(sum(one.exact for one in found))
    assert exact[0] == 1 and exact[-1] == N  # of the empty text one look is enough
    assert sum((V - 1) ** t for t in range(N)) < 100 and "exact" in repr(found[0])


def test_faults():
    search = dinado_jax.length_modes
    told = error_of(lambda: search(GUIDED, ["1"], max_new_tokens=2))
    assert "exact search reads one model" in told
    assert "expansions = 0" in error_of(lambda: modes(expansions=0))
    assert "batch = 0" in error_of(lambda: modes(batch=0))
