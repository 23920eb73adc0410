"""`dinado generate RUN`: a finished run continues the user's own prompts."""

import json
import shutil

import numpy as np
import pytest
from support import tiny_run, word_run

import dinado_jax
from dinado_jax import cli
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.tasks.keyword.lexical import lexical

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog chase kite =", "cat carry ball ="]


def printed(capsys, *argv):
    capsys.readouterr()
    cli.main(["generate", *map(str, argv)])
    return capsys.readouterr().out.splitlines()


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", *map(str, argv)])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_texts_are_those_of_python(finished_run, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS) + "\n")
    shared = ("--prompts", file, "--samples", 2, "--seed", 5, "--max-new-tokens", 6)
    lines = printed(capsys, finished_run, *shared, "--strength", 2, "--json")
    model = dinado_jax.load_run(finished_run).tilted(strength=2.0)
    made = dinado_jax.generate(model, PROMPTS, samples=2, seed=5, max_new_tokens=6)
    for line, one in zip(map(json.loads, lines), made, strict=True):
        assert (line["prompt"], line["text"]) == (one.prompt, one.text)
        assert (line["tokens"], line["finished"]) == (len(one.tokens), one.finished)
        np.testing.assert_allclose(line["log_prob"], one.log_probs.sum(), atol=1e-3)
        np.testing.assert_allclose(line["log_prob_base"], one.log_probs_base.sum(), atol=1e-3)
    plain = printed(capsys, finished_run, *shared, "--strength", 2)
    first, second = (one.text for one in made[:2])
    assert plain[:3] == [PROMPTS[0], f"  {first}", f"  {second}"] and len(plain) == 6


def test_without_options_the_runs_settings_hold(finished_run, capsys):
    lines = printed(capsys, finished_run, "--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--json")
    made = dinado_jax.generate(dinado_jax.load_run(finished_run), PROMPTS)
    assert [json.loads(line)["text"] for line in lines] == [one.text for one in made]
    again = printed(capsys, finished_run, "--prompt", PROMPTS[0], "--json")
    assert again == lines[:1]


def test_beams_are_those_of_python_ranked_by_the_runs_oracle(finished_run, capsys):
    shared = ("--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--max-new-tokens", 6, "--json")
    lines = printed(capsys, finished_run, *shared, "--beams", 4, "--samples", 3)
    model = dinado_jax.load_run(finished_run)
    made = model.beam_search(PROMPTS, beams=4, hypotheses=4, max_new_tokens=6)
    for prompt, own in zip(PROMPTS, (lines[:3], lines[3:])):
        texts = [json.loads(line)["text"] for line in own]
        found = [one.text for one in made if one.prompt == prompt]
        assert len(texts) == 3 and set(texts) <= set(found)
        labels = tiny_run.even([prompt] * 3, texts)
        assert labels == sorted(labels, reverse=True)
        assert sum(labels) == min(3, sum(tiny_run.even([prompt] * 4, found)))


def test_texts_are_written_to_a_file(finished_run, tmp_path, capsys):
    asked, file = ("--prompt", "dog =", "--samples", 2, "--json"), tmp_path / "texts.jsonl"
    wanted = printed(capsys, finished_run, *asked)
    assert printed(capsys, finished_run, *asked, "--out", file) == [str(file)]
    assert file.read_text().splitlines() == wanted
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    for wrong, told in (
        (tmp_path, "name one in a folder that is there"),
        (tmp_path / "none" / "texts.jsonl", "name one in a folder that is there"),
        ("a" * 5000, "too long"),
    ):
        assert told in refused(capsys, finished_run, *asked, "--out", wrong)


def test_slips_are_one_line(finished_run, tmp_path, capsys):
    told = refused(capsys, finished_run)
    assert "no prompts given" in told
    told = refused(capsys, "configs/demo.toml", "--prompt", "dog =")
    assert "--prompt is for a finished run" in told and "no folder" in told
    told = refused(capsys, finished_run, "decode.strength=2", "--prompt", "dog =")
    assert "its settings are fixed" in told
    assert "a prompt is given as --prompt TEXT" in refused(capsys, finished_run, "dog =")
    for asked in ([], ["--prompt", "dog ="]):
        assert "too long" in refused(capsys, "a" * 5000, *asked)
    assert "no run folder" in refused(capsys, tmp_path, "--prompt", "dog =")
    assert "samples" in refused(capsys, finished_run, "--prompt", "dog =", "--samples", 0)
    beams = ("--prompt", "dog =", "--beams")
    assert "beams = 0" in refused(capsys, finished_run, *beams, 0)
    assert "samples = 3 of 2 beams" in refused(capsys, finished_run, *beams, 2, "--samples", 3)
    assert "ask for one of them" in refused(capsys, finished_run, *beams, 2, "--particles", 2)
    told = refused(capsys, finished_run, "--prompts", tmp_path / "none.txt")
    assert "none.txt" in told


def test_the_guarantee_of_a_run_holds_for_other_prompts(tmp_path_factory, capsys):
    data = word_run.finished(tmp_path_factory) / "data"
    run = tmp_path_factory.mktemp("guaranteed") / "run"
    settings = ("decode.guarantee=true", "decode.reject=0", "control.state=true")
    run_stages(word_run.config(data, *settings), ("sft", "rollout", "train"), run)
    asked = ("--prompt", "dog cat =", "--prompt", "bee =", "--samples", 8, "--json")
    made = [json.loads(line) for line in printed(capsys, run, *asked)]
    assert all(lexical([one["prompt"] for one in made], [one["text"] for one in made]))
    assert "max_new_tokens is 1" in refused(capsys, run, *asked, "--max-new-tokens", 1)


@pytest.mark.parametrize("option", [["--json"], ["--beams", 2], ["--out", "texts.txt"]])
def test_a_stream_is_printed_alone(tmp_path, capsys, option):
    told = refused(capsys, tmp_path, "--prompt", "dog =", "--stream", *option)
    assert told.endswith(f": leave out --stream or {option[0]}")


@pytest.mark.parametrize("stream", [[], ["--stream"]])
@pytest.mark.parametrize(
    "option, fault",
    [
        (["--strength", "nan"], "strength = nan: it must be 0 (the base) or more, finite"),
        (["--strength", -1], "strength = -1.0: it must be 0 (the base) or more, finite"),
        (["--particles", -1], "decode.particles = -1: it must be 0 or more"),
    ],
)
def test_settings_are_checked_before_the_model_is_loaded(
    finished_run, tmp_path, capsys, option, fault, stream
):
    (tmp_path / "train").mkdir()  # not done: there is no model
    for name in ("config.json", "train/config.json"):
        shutil.copy(finished_run / name, tmp_path / name)
    asked = (tmp_path, "--prompt", "dog =", *stream)
    assert "is not done" in refused(capsys, *asked)
    assert fault in refused(capsys, *asked, *option)


@pytest.mark.parametrize("stream", [[], ["--stream"]])
@pytest.mark.parametrize(
    "option, fault",
    [
        (["--samples", 0], "samples = 0: it must be at least 1"),
        (["--max-new-tokens", -5], "max_new_tokens = -5: it must be at least 1"),
        (["--seed", -1], "seed = -1: it must be in"),
    ],
)
def test_numbers_are_checked_before_the_run_is_read(tmp_path, capsys, option, fault, stream):
    assert fault in refused(capsys, tmp_path, "--prompt", "dog =", *option, *stream)
