"""Classifiers that `dinado oracle train` makes: they learn, load, and judge runs."""

import json
import shutil

import numpy as np
import pytest
from support import tiny_run, word_base
from support.commands import refused
from support.refusal import error_of

from dinado_jax import cli
from dinado_jax.classifiers.folder import load_classifier
from dinado_jax.oracles.callables import given_oracle
from dinado_jax.oracles.classifier import classifier_oracle
from dinado_jax.oracles.expression import find_oracle
from dinado_jax.oracles.judge import judge
from dinado_jax.oracles.table import resolve
from dinado_jax.stages.context import Context
from dinado_jax.utils.files import write_sealed

WORDS = ["the", "a", "dog", "cat", "runs", "jumps", "sees", "house", "tree", "small", "big"]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(compiled_quickly):
    yield


def sentences(count, seed):
    """Texts, and whether the word red is in them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = [str(word) for word in rng.choice(WORDS, rng.integers(4, 9))]
        words.insert(int(rng.integers(len(words))), "red" if i % 2 else "blue")
        rows.append((" ".join(words) + f" {i}", bool(i % 2)))
    return rows


def train(folder, rows, *more):
    data = folder.with_suffix(".jsonl")
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.main(["oracle", "train", str(data), "--out", str(folder), *more])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "c"
    rows = [{"text": text, "label": label} for text, label in sentences(480, 0)]
    train(folder, rows, "--epochs", "8")
    return folder


@pytest.fixture(scope="module")
def on_a_base(tmp_path_factory):
    """A head that reads prompts: whether the text begins as its prompt does."""
    home = tmp_path_factory.mktemp("head")
    base = word_base.write(home / "base")
    rows = [
        {"source": "ab"[i // 2 % 2], "text": f"{'ab'[i % 2]} {i}", "label": i // 2 % 2 == i % 2}
        for i in range(600)
    ]
    train(home / "c", rows, "--base", str(base), "--single", "--epochs", "30")
    return home / "c", base


def test_it_learns_and_says_how_well(two):
    texts, labels = zip(*sentences(100, 1))
    for name in "ab":
        found = load_classifier(two / name).classifier.probabilities([""] * 100, texts)
        assert np.mean((found > 0.5) == np.array(labels)) > 0.9
        figures = json.loads((two / name / "classifier.json").read_text())["figures"]
        assert (figures["train"], figures["calibrate"], figures["test"]) == (192, 48, 240)
        assert figures["share"] == 0.5 and figures["accuracy"] > 0.9
        assert 0 <= figures["calibration_error"] < 0.1
        assert 0 < figures["chance_calibration_error"] < 0.1 and figures["brier_score"] < 0.1


def test_less_than_the_baseline_learns_is_told(tmp_path, capsys):
    """The words that decide have the same letters, and the base has no other tokens for them."""
    base = word_base.write(tmp_path / "base")
    pairs = {"red": "wolf rush silk", "blue": "flow hurs skil"}
    rows = [
        {"text": f"{pairs['red' if label else 'blue'].split()[i % 3]} {i}", "label": label}
        for i, (_, label) in enumerate(sentences(480, 0))
    ]
    train(tmp_path / "c", rows, "--single", "--epochs", "1", "--tokenizer", str(base))
    told = capsys.readouterr().err
    assert "c is right less often than TF-IDF with logistic regression: give more texts" in told


def test_the_two_are_of_different_texts(two):
    a, b = (classifier_oracle(two / name) for name in "ab")
    assert a.classifiers.isdisjoint(b.classifiers)
    texts = [text for text, _ in sentences(50, 2)]
    assert not np.allclose(a([""] * 50, texts), b([""] * 50, texts), atol=1e-4)


def test_a_head_on_a_base_reads_prompts(on_a_base):
    folder, base = on_a_base
    saved = load_classifier(folder)
    assert json.loads((folder / "classifier.json").read_text())["base"] == str(base)
    assert saved.classifier.reads_prompt
    assert sorted(path.name for path in folder.iterdir()) == [
        "classifier.json",
        "classifier.safetensors",
    ]
    figures = json.loads((folder / "classifier.json").read_text())["figures"]
    found = saved.classifier.probabilities(["a", "a", "b"], ["a 3", "b 3", "a 3"])
    assert abs(found[0] - found[2]) > 1e-3 and figures["train"] == 480


def test_a_label_does_not_depend_on_the_batch(two):
    oracle = classifier_oracle(two / "a")
    texts = [text for text, _ in sentences(40, 3)]
    whole = oracle([""] * 40, texts)
    assert [oracle([""], [text])[0] for text in texts] == whole
    assert oracle([""] * 40, texts[::-1]) == whole[::-1]
    assert oracle([], []) == []
    result = judge(oracle, ["x"] * 40, texts)
    assert not result.failures and np.allclose(result.labels, whole)


def test_it_is_an_oracle_by_name_and_as_an_object(two, capsys):
    named = resolve(f"classifier:{two / 'a'}")
    given = given_oracle(named.function, ["a prompt"])
    assert named.code and named.function(["p"], ["red cat"]) == given.function(["p"], ["red cat"])
    cli.main(["oracle", "check", f"classifier:{two / 'a'}", "--text", "the red dog runs 1"])
    out = capsys.readouterr().out
    assert "1 texts: 1 satisfy it" in out and "warning" not in out


def test_what_is_not_there_or_damaged_is_said_in_a_line(two, on_a_base, tmp_path):
    assert f"give one of {two / 'a'}, {two / 'b'}" in error_of(resolve, f"classifier:{two}")
    assert "no classifier.json in" in error_of(resolve, "classifier:nowhere")
    for name, said in (
        ("classifier.json", "classifier.json, changed since it was written"),
        ("classifier.safetensors", "is not what"),
        ("trunk/model.safetensors", "is not what"),
        ("trunk/tokenizer.json", "is not what"),
    ):
        copy = tmp_path / name.replace("/", "_")
        shutil.copytree(two / "a", copy)
        data = (copy / name).read_bytes()
        changed = data.replace(b'"temperature": ', b'"temperature": 1') if "json" in name else data
        (copy / name).write_bytes(changed if changed != data else data[:-1] + b"!")
        assert said in error_of(load_classifier, copy), name
    copy = tmp_path / "newer"
    shutil.copytree(two / "a", copy)
    write_sealed(copy / "classifier.json", {"format": 99})
    assert "install a newer one" in error_of(load_classifier, copy)
    record = json.loads((two / "a" / "classifier.json").read_text())
    del record["digest"]
    write_sealed(copy / "classifier.json", {**record, "format": 1})
    assert "an older version of dinado-jax: train" in error_of(load_classifier, copy)
    folder, base = on_a_base
    other = tmp_path / "base"
    shutil.copytree(base, other)
    word_base.write(base, seed=1)
    try:
        assert f"{base} is not what" in error_of(load_classifier, folder)
    finally:
        shutil.rmtree(base)
        shutil.copytree(other, base)


def test_nothing_is_written_where_something_is(two, capsys):
    data = two.with_suffix(".jsonl")
    line = refused(capsys, ["oracle", "train", data, "--out", two])
    assert "is there already: name a new folder" in line
    line = refused(capsys, ["oracle", "train", data, "--out", two.parent / "d", "--epochs", "0"])
    assert "--epochs = 0" in line and not (two.parent / "d").exists()


def test_what_trained_a_control_does_not_judge_it(two, tmp_path):
    shutil.copytree(two / "a", tmp_path / "copy")
    asked = f"rollout.oracle=classifier:{two / 'a'}"
    for other, refusal in ((two / "a", True), (tmp_path / "copy", True), (two / "b", False)):
        config = tiny_run.config(asked, f"evaluate.oracle=classifier:{other}")
        context = Context.of(config, tmp_path / "run")
        if refusal:
            line = error_of(lambda context=context: context.second_oracle)
            assert "give one that was trained on other texts" in line
        else:
            assert context.second_oracle is not None


def test_a_part_of_an_expression(two, tmp_path):
    rows = sentences(20, 3)
    texts = [text for text, _ in rows]
    alone = np.array(classifier_oracle(two / "a")([""] * 20, texts))
    found = find_oracle(f"classifier('{two / 'a'}') > 0.5 & length >= 6")
    long = [len(text.split()) >= 6 for text in texts]
    np.testing.assert_array_equal(found.function([""] * 20, texts), (alone > 0.5) & long)
    assert found.classifiers == {load_classifier(two / "a").digest}
    used = {
        "rollout.oracle": f"classifier('{two / 'a'}') & length >= 6",
        "evaluate.oracle": f"classifier:{two / 'a'}",
    }
    config = tiny_run.config(*(f"{key}={value}" for key, value in used.items()))
    line = error_of(lambda: Context.of(config, tmp_path / "run").second_oracle)
    assert "is the classifier of rollout.oracle" in line
