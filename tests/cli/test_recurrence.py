"""`dinado recurrence`: training, scores and texts by commands, and bad input."""

import json
import shutil

import numpy as np
import pytest
from support import word_base

from dinado_jax import cli
from dinado_jax.recurrence.recurrent import load_recurrent

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TEXTS = ["the dog saw a cat and the fox . " * 9, "a fox is in the caf\u00e9 . " * 12]
SIZES = "--window 8 --steps 4 --batch 2 --windows 2 --save-every 2 --devices 1".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return word_base.write(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "one.txt").write_text(TEXTS[0])
    (folder / "rest.jsonl").write_text(json.dumps({"text": TEXTS[1]}) + "\n")
    return [str(folder / "one.txt"), str(folder / "rest.jsonl")]


@pytest.fixture(scope="module")
def folder(base, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "novels"
    cli.main(["recurrence", "train", str(base), *files, "--out", str(folder), *SIZES])
    return folder


def test_documents_are_scored_as_in_python(folder, files, capsys):
    cli.main(["recurrence", "score", str(folder / "model"), *files, "--json"])
    found = json.loads(capsys.readouterr().out)
    nats = load_recurrent(folder / "model").nats(TEXTS)
    assert [row["document"] for row in found] == [files[0], f"{files[1]}:1", "all"]
    np.testing.assert_allclose([row["nats"] for row in found], [*nats[:, 0], nats[:, 0].sum()])
    assert found[2]["perplexity"] == pytest.approx(np.exp(nats[:, 0].sum() / nats[:, 1].sum()))
    cli.main(["recurrence", "score", str(folder / "model"), files[0]])
    assert f"{found[0]['perplexity']:.2f}" in capsys.readouterr().out


def test_the_same_command_finds_it_done(folder, base, files, capsys):
    before = (folder / "model" / "recurrence").stat().st_mtime_ns
    cli.main(["recurrence", "train", str(base), *files, "--out", str(folder), *SIZES])
    assert capsys.readouterr().out.startswith(f"{folder / 'model'}: 4 steps, 2 documents")
    assert (folder / "model" / "recurrence").stat().st_mtime_ns == before


def test_texts_are_those_of_python(folder, capsys):
    options = ["--prompt", "the dog", "--samples", "2", "--max-new-tokens", "20", "--seed", "3"]
    cli.main(["recurrence", "write", str(folder / "model"), *options])
    lines = capsys.readouterr().out.splitlines()
    model = load_recurrent(folder / "model")
    made = model.generate("the dog", samples=2, max_new_tokens=20, seed=3)
    assert [json.loads(line) for line in lines] == [
        {"text": each.text, "finished": each.finished} for each in made
    ]


@pytest.mark.parametrize(
    "options, said",
    [
        ("--read 9", "read = 9: states that the memory has reached"),
        ("--window 1", "window"),
        ("--steps 0", "steps"),
        ("--seed 1", "a training with another seed"),
        ("--devices 99", "parallel.devices = 99"),
        ("--devices -1", "devices = -1: it must be 0 (all) or more"),
        ("--batch 3 --devices 2", "batch = 3 cannot be shared by 2 devices"),
    ],
)
def test_bad_settings_are_one_line(folder, base, files, options, said, capsys):
    command = ["recurrence", "train", str(base), *files, "--out", str(folder), *SIZES]
    _exits(command + options.split(), said, capsys)


def test_other_files_and_other_models_of_the_same_shapes_are_refused(
    folder, base, files, tmp_path, capsys
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").write_text("mine")
    command = ["recurrence", "train", str(base), *files, "--out"]
    _exits([*command, str(tmp_path / "out"), *SIZES], "is there already: name a new", capsys)
    shutil.copytree(base, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["layer_norm_epsilon"] = 0.1
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    command[2] = str(tmp_path / "base")
    _exits([*command, str(folder), *SIZES], "a training with another architecture", capsys)


def test_bad_documents_are_one_line(folder, base, tmp_path, capsys):
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "other.jsonl").write_text('{"words": "a"}\n')
    (tmp_path / "none.jsonl").write_text("\n")
    for name, said in [
        ("blank.txt", "blank.txt is empty: give a text"),
        ("other.jsonl", "other.jsonl:1"),
        ("none.jsonl", "no documents there"),
        ("missing.txt", "missing.txt"),
    ]:
        score = ["recurrence", "score", str(folder / "model"), str(tmp_path / name)]
        _exits(score, said, capsys)
    _exits(["recurrence", "write", str(base)], "recurrence", capsys)


def _exits(command, said, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dinado: error: ") and said in error, error


def test_options_without_effect_are_one_line(folder, files, tmp_path, capsys):
    write = ["recurrence", "write", str(folder / "model"), "--temperature", "0"]
    for more in ("--samples 2", "--top-k 3", "--top-p 0.5", "--seed 1"):
        option = more.split()
        _exits([*write, *option], f"{option[0]} has no effect with --temperature 0", capsys)
    again = ["recurrence", "train", str(folder / "model"), *files, "--out", str(tmp_path / "out")]
    _exits([*again, *SIZES], "has a recurrence, which a new one would replace", capsys)
