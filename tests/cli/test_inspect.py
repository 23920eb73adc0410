"""`dinado inspect`: a finished run, one that is not, and what is no run."""

import json
import math
import re
import shutil

import pytest
from support import tiny_run
from support.commands import refused
from support.html_page import Page
from support.word_run import read_lines

import dinado_jax
from dinado_jax import cli
from dinado_jax.config.load import different
from dinado_jax.models.architectures import load_model
from dinado_jax.models.params import param_shapes
from dinado_jax.stages.run_folder import STAGES

PROMPT = "dog chase kite ="


def inspected(capsys, *argv):
    cli.main(["inspect", *map(str, argv)])
    return capsys.readouterr().out


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_finished_run(capsys, finished_run):
    found = json.loads(inspected(capsys, finished_run, "--json"))
    shapes = param_shapes(load_model(finished_run / "sft" / "base"))
    done = {name: read(finished_run / name / "done.json") for name in STAGES}
    sizes = {
        name: sum(
            path.stat().st_size for path in (finished_run / name).rglob("*") if path.is_file()
        )
        for name in STAGES
    }
    assert sum(found["parameters"]["base"].values()) == done["sft"]["figures"]["parameters"]
    assert found["parameters"]["base"]["wpe"] == shapes["wpe/embedding"][0] * 16
    trained = done["train"]["figures"]["trainable_parameters"]
    assert sum(found["parameters"]["control"].values()) == trained
    assert {name: stage["seconds"] for name, stage in found["stages"].items()} == {
        name: record["seconds"] for name, record in done.items()
    }
    assert {name: stage["bytes"] for name, stage in found["stages"].items()} == sizes
    assert found["settings"].keys() == different(tiny_run.config()).keys()
    assert found["settings"]["train.steps"] == 6 and found["settings"]["name"] == "tiny"
    rounds = [done["train"]["figures"][f"round_{number}"] for number in range(2)]
    assert found["rounds"] == rounds
    assert found["warnings"] == read(finished_run / "summary.json")["warnings"] != []


def test_the_same_as_text(capsys, finished_run):
    lines = inspected(capsys, finished_run).splitlines()
    found = json.loads(inspected(capsys, finished_run, "--json"))
    assert lines[0] == str(finished_run)
    table = {line.split()[0]: line for line in lines if line}
    for name in STAGES:
        assert table[name].split()[1:2] == ["done"]
    assert '  rollout.oracle = "support.tiny_run:even"' in lines
    for number, figures in enumerate(found["rounds"], start=1):
        (row,) = (line for line in lines if re.match(rf"{number} +\d", line))
        assert row.split()[1] == f"{figures['newest_success_rate']:.1%}"
    assert [line for line in lines if line.startswith("warning: ")] == [
        f"warning: {line}" for line in found["warnings"]
    ]


def test_a_run_that_is_not_finished(capsys, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("summary.json", "done.json"))
    shutil.copy(finished_run / "sft" / "done.json", run / "sft")
    shutil.rmtree(run / "generate")
    found = json.loads(inspected(capsys, run, "--json"))
    states = [stage["state"] for stage in found["stages"].values()]
    assert states == ["done", "begun", "begun", "not begun", "begun"]
    assert not found["rounds"] and not found["warnings"]
    shutil.copy(finished_run / "train" / "done.json", run / "train")
    (warning,) = json.loads(inspected(capsys, run, "--json"))["warnings"]
    assert warning.startswith("few successes")


def test_means_are_settings_too(capsys, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    moment = "target.moments=[{feature = 'mentions_colour', mean = 0.25}]"
    (run / "config.json").write_text(json.dumps(tiny_run.config(moment).as_dict()))
    assert '  target.moments = [{feature = "mentions_colour", mean = 0.25}]' in inspected(
        capsys, run
    )
    settings = json.loads(inspected(capsys, run, "--json"))["settings"]
    assert settings["target.moments"] == [{"feature": "mentions_colour", "mean": 0.25}]


@pytest.mark.parametrize(
    "path, said",
    [
        ("nowhere", "no such folder: give the folder of a run"),
        ("file", "is a file: give the folder of a run"),
        (".", "is no run folder"),
    ],
)
def test_what_is_no_run(capsys, tmp_path, path, said):
    (tmp_path / "file").write_text("")
    assert said in refused(capsys, ["inspect", tmp_path / path])


def test_a_damaged_record(capsys, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    path = run / "train" / "done.json"
    path.write_text(path.read_text().replace("0", "1"))
    said = refused(capsys, ["inspect", run])
    assert str(path) in said and "delete the folders train, generate, evaluate in" in said


def test_r_token_by_token(capsys, finished_run):
    model = dinado_jax.load_run(finished_run)
    prompt = read_lines(finished_run / "generate" / "control.jsonl")[0]["prompt"]
    found = json.loads(inspected(capsys, finished_run, "--prompt", prompt, "--json"))
    (sample,) = model.generate([prompt], samples=1)
    own = model.values(prompt, sample.text, finished=sample.finished)
    assert [each["token"] for each in found["tokens"]] == own.tokens
    values = [found["value"], *(each["value"] for each in found["tokens"])]
    assert values == pytest.approx(own.values.tolist(), abs=1e-6)
    assert [each["log_prob"] for each in found["tokens"]] == pytest.approx(own.log_probs.tolist())
    shown = inspected(capsys, finished_run, "--prompt", prompt, "--text", sample.text)
    assert "R after it" in shown and all(token.strip() in shown for token in own.tokens)


def shown_tokens(capsys, run, *argv):
    return json.loads(inspected(capsys, run, "--prompt", PROMPT, *argv, "--json"))["tokens"]


def test_what_might_have_stood_in_place_of_each_token(capsys, finished_run):
    model = dinado_jax.load_run(finished_run)
    text = "the dog chases a kite ."
    tokens = shown_tokens(capsys, finished_run, "--text", text, "--alternatives", 4)
    pieces = [each["token"] for each in tokens]
    for place, each in enumerate(tokens):
        others = each["alternatives"]
        assert len(others) == 4 and each["token"] not in [other["token"] for other in others]
        odds = [other["log_prob"] for other in others]
        assert odds == sorted(odds, reverse=True)
        # Those that add a text of their own are scored as any other text is.
        for other in others:
            begun = "".join([*pieces[:place], other["token"]])
            found = model.values(PROMPT, begun, finished=False)
            if found.tokens == [*pieces[:place], other["token"]]:
                numbers = found.log_probs[-1], found.log_probs_base[-1], found.values[-1]
                given = [other[key] for key in ("log_prob", "log_prob_base", "value")]
                assert given == pytest.approx(numbers, rel=1e-3, abs=1e-5)
                break
        else:
            assert place == 0 or pieces[place].startswith("<")
    assert len(shown_tokens(capsys, finished_run, "--text", text)[0]["alternatives"]) == 3


def test_alternatives_as_text(capsys, finished_run, monkeypatch):
    asked = (finished_run, "--prompt", PROMPT, "--text", "the dog .\x1b", "--alternatives", 1)
    shown = inspected(capsys, *asked)
    rows = [line for line in shown.splitlines() if line.startswith("    or ")]
    assert len(rows) >= 3 and "\x1b" not in shown
    for row in rows:
        assert re.search(r" [\d.e-]+ +[\d.e-]+ +\d\.\d{3}$", row)
    monkeypatch.setattr("dinado_jax.utils.streams.takes_colours", lambda: True)
    coloured = inspected(capsys, *asked)
    assert re.search("\x1b\\[38;5;\\d+m#+\x1b\\[0m", coloured)
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == shown


def test_the_same_as_a_page(capsys, finished_run, tmp_path):
    asked = (finished_run, "--prompt", "<b>dog =", "--text", "the <i>dog")
    assert inspected(capsys, *asked, "--html", tmp_path / "text.html") == f"{tmp_path}/text.html\n"
    read = Page((tmp_path / "text.html").read_text(encoding="utf-8"))
    found = json.loads(inspected(capsys, *asked, "--json"))
    assert not read.of("b") and not read.of("i") and "<b>dog =" in read.text("p")
    rows = read.rows["tokens"][1:]
    every = [row for each in found["tokens"] for row in (each, *each["alternatives"])]
    assert [row[0] for row in rows] == [each["token"] for each in every]
    for row, each in zip(rows, every):
        numbers = math.exp(each["log_prob_base"]), math.exp(each["log_prob"]), each["value"]
        assert list(map(float, row[1:])) == pytest.approx(numbers, rel=0.06)
    said = refused(capsys, ["inspect", *asked, "--html", tmp_path / "no" / "text.html"])
    assert "no" in said and list(tmp_path.iterdir()) == [tmp_path / "text.html"]


@pytest.mark.parametrize("option", ["--text", "--alternatives", "--html"])
def test_a_text_needs_a_prompt(option, capsys, finished_run):
    assert "--prompt TEXT" in refused(capsys, ["inspect", finished_run, option, "1"])


def test_slips(capsys, finished_run):
    for given, said in (("0", "alternatives = 0"), ("x", "invalid int")):
        asked = ["inspect", finished_run, "--prompt", PROMPT, "--alternatives", given]
        assert said in refused(capsys, asked)
