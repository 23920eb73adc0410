"""Texts piece by piece: the same as whole ones, as they are drawn."""

import itertools
from functools import partial

import numpy as np
import pytest
from support import tiny_run
from support.folders import refused

import dinado_jax
from dinado_jax import cli
from dinado_jax.decoding import stream
from dinado_jax.generation import Piece
from dinado_jax.stages.completions import as_streamed_text, as_text

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog chase kite =", "cat push the old box ="]


@pytest.fixture(scope="module")
def model(finished_run):
    return dinado_jax.load_run(finished_run)


def joined(pieces):
    found = {}
    for piece in pieces:
        assert not found.get(piece.index, ("", False))[1], "nothing follows the last piece"
        text, _ = found.get(piece.index, ("", False))
        found[piece.index] = text + piece.text, piece.last
    return [found[index] for index in range(len(found))]


@pytest.mark.parametrize("samples, batch", [(1, 64), (16, 8)])
@pytest.mark.parametrize("tilt", [{}, {"strength": 1.5}], ids=str)
def test_joined_they_are_the_texts_of_the_same_seed(model, samples, batch, tilt):
    how = dict(samples=samples, batch=batch, seed=3)
    whole = model.tilted(**tilt).generate(PROMPTS, **how)
    pieces = list(model.tilted(**tilt).generate(PROMPTS, stream=True, **how))
    assert joined(pieces) == [(one.text, True) for one in whole]
    assert {piece.prompt for piece in pieces if piece.index < samples} == {PROMPTS[0]}
    longest = max(len(one.tokens) for one in whole)
    assert longest < 5 or len(pieces) > len(whole)


def test_text_comes_while_it_is_drawn(model, monkeypatch):
    """The first pieces are there before the last program has run."""
    calls, advance = [], stream._advance
    monkeypatch.setattr(stream, "_advance", lambda *args: calls.append(1) or advance(*args))
    pieces = model.generate(PROMPTS * 8, samples=1, stream=True)
    next(pieces)
    assert not calls
    list(pieces)
    assert len(calls) == 2  # of 4 tokens each, after the first of 8


def test_more_tokens_than_a_segment_of_the_cache_holds(finished_run, monkeypatch):
    monkeypatch.setattr("dinado_jax.models.cache.SEGMENT", 4)
    base = dinado_jax.load(finished_run / "sft" / "base")
    asked = dict(max_new_tokens=15, samples=4, seed=1)
    whole = base.generate(PROMPTS, **asked)
    assert max(len(one.tokens) for one in whole) > 8
    assert joined(base.generate(PROMPTS, stream=True, **asked)) == [(w.text, True) for w in whole]


def test_bad_input_is_told_at_the_call(model):
    asked = partial(model.generate, stream=True)
    refused("max_new_tokens", partial(asked, max_new_tokens=0), PROMPTS)
    refused("list", asked, "dog =")


def test_logits_that_are_nan(model, finished_run):
    base = dinado_jax.load(finished_run / "sft" / "base")
    base.params["wte"]["embedding"] = base.params["wte"]["embedding"] * np.nan
    refused("no token can be drawn", lambda: list(base.generate(PROMPTS, stream=True)))


def test_texts_are_printed_one_after_the_other():
    made = [
        Piece(0, "p", "a", False),
        Piece(1, "p", "b", False),
        Piece(2, "q", "c", True),
        Piece(0, "p", " d", True),
        Piece(1, "p", "", True),
    ]
    parts = list(as_streamed_text(iter(made)))
    assert "".join(parts) == "p\n  a d\n  b\nq\n  c\n"
    assert "".join(itertools.takewhile(lambda part: " d" not in part, parts)) == "p\n  a"


def test_from_a_shell(model, finished_run, capsys):
    asked = ["generate", str(finished_run), "--samples", "2"]
    asked += [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    cli.main([*asked, "--stream"])
    made = model.generate(PROMPTS, samples=2)
    assert capsys.readouterr().out == as_text(made) + "\n"
    for more, said in ((["--json"], "--stream"), (["--particles", "4"], "leave out stream")):
        with pytest.raises(SystemExit):
            cli.main([*asked, "--stream", *more])
        assert said in capsys.readouterr().err


def test_a_stage_has_no_stream(capsys):
    with pytest.raises(SystemExit):
        cli.main(["generate", str(tiny_run.CONFIG), "--stream"])
    assert "--stream is for a finished run" in capsys.readouterr().err
