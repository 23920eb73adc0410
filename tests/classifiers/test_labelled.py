"""Labelled texts: what is read of a file, what is left out aloud, and how texts are divided."""

import gzip
import json

import numpy as np
import pytest
from support.refusal import error_of

from dinado_jax.classifiers.labelled import Labelled, divide, folds, read_labelled

NUMBERED = [(f"text {i}", i % 2) for i in range(80)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def objects(rows):
    return [{"text": text, "label": label} for text, label in rows]


def test_objects_and_rows_are_read_alike(tmp_path):
    table = "".join(f"{text}\t{label}\n" for text, label in NUMBERED)
    (tmp_path / "a.tsv").write_text(table)
    (tmp_path / "b.csv").write_text("label,text\n" + "".join(f"{b},{a}\n" for a, b in NUMBERED))
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(table.encode()))
    write(tmp_path / "d.jsonl", objects(NUMBERED))
    write(tmp_path / "e.jsonl", objects([(text, bool(label)) for text, label in NUMBERED]))
    for name in ("a.tsv", "b.csv", "c.tsv.gz", "d.jsonl", "e.jsonl"):
        texts, label = read_labelled(tmp_path / name)
        assert label == "1" and texts.texts == [text for text, _ in NUMBERED]
        assert texts.labels.tolist() == [bool(i % 2) for i in range(80)]
        assert texts.prompts == [""] * 80


@pytest.mark.parametrize("column", ["prompt", "source"])
def test_prompts_are_read_where_there_are_any(tmp_path, column):
    rows = [{**row, column: f" p{i}"} for i, row in enumerate(objects(NUMBERED))]
    texts, _ = read_labelled(write(tmp_path / "a.jsonl", rows))
    assert texts.prompts == [f"p{i}" for i in range(80)]


def test_one_label_against_all_others(tmp_path):
    rows = [(f"text {i}", ("red", "green", "blue")[i % 3]) for i in range(150)]
    path = write(tmp_path / "a.jsonl", objects(rows))
    texts, label = read_labelled(path, "green")
    assert label == "green" and texts.labels.tolist() == [i % 3 == 1 for i in range(150)]
    assert "give one of its labels by --label, 'blue', 'green', 'red'" in error_of(
        read_labelled, path
    )
    assert "no text has the label 'grey'" in error_of(read_labelled, path, "grey")


def test_what_is_left_out_is_counted(tmp_path, capsys):
    rows = [*NUMBERED, ("text 3", 1), (" ", 1), ("text", "")]
    texts, _ = read_labelled(write(tmp_path / "a.jsonl", objects(rows)))
    assert len(texts.texts) == 80
    assert "3 of 83 rows repeat a text, or have no text or no label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "x\t1\n", "no labelled texts by its name"),
        ("a.jsonl", '{"text": "x"}\n', "a.jsonl:1, label is missing"),
        ("a.jsonl", '{"text": 1, "label": 1}\n', "a.jsonl:1, text is 1, not a text"),
        ("a.jsonl", '{"text": "x", "label": 1, "prompt": 2}\n', "a.jsonl:1, its prompt is 2"),
        ("a.jsonl", "{\n", "a.jsonl:1, malformed JSON"),
        ("a.tsv", "x\t1\ty\n", "a row of 3 columns"),
        ("a.tsv", "", "a.tsv holds no text with a label"),
        ("a.tsv", "x\t1\ny\t1\n", "all texts have the label '1': give texts without it"),
        ("a.tsv", "x\t1\ny\t0\n", "has 1 texts with the label '1': give at least 40"),
    ],
)
def test_what_is_malformed_is_refused_in_a_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content)
    assert said in error_of(read_labelled, path)


def test_no_text_is_in_two_parts_and_each_part_has_its_share():
    labels = np.arange(400) % 4 == 0
    texts = Labelled([""] * 400, [f"text {i}" for i in range(400)], labels)
    (parts,) = divide(texts, 1, 0)
    assert sorted(text for part in parts for text in part.texts) == sorted(texts.texts)
    known = dict(zip(texts.texts, labels))
    for part, share in zip(parts, (0.8, 0.1, 0.1)):
        assert [known[text] for text in part.texts] == part.labels.tolist()
        assert part.labels.sum() == 100 * share
        assert len(part.texts) == 400 * share
    (again,), (other,) = divide(texts, 1, 0), divide(texts, 1, 1)
    assert again.train.texts == parts.train.texts != other.train.texts


def test_of_two_each_is_measured_by_the_texts_of_the_other():
    labels = np.arange(400) % 4 == 0
    texts = Labelled([""] * 400, [f"text {i}" for i in range(400)], labels)
    some, other = divide(texts, 2, 0)
    for one, its in ((some, other), (other, some)):
        assert [len(part.texts) for part in one] == [160, 40, 200]
        assert [part.labels.sum() for part in one] == [40, 10, 50]
        assert sorted(one.test.texts) == sorted([*its.train.texts, *its.calibrate.texts])
    assert not set(some.train.texts + some.calibrate.texts) & set(some.test.texts)


@pytest.mark.parametrize("halves", [1, 2])
def test_texts_of_one_prompt_stay_together(halves):
    """One of each two has the label, as of a formal and an informal translation."""
    prompts = [f"prompt {i // 2}" for i in range(600)]
    texts = Labelled(prompts, [f"text {i}" for i in range(600)], np.arange(600) % 2 == 0)
    for parts in divide(texts, halves, 0):
        own = [set(part.prompts) for part in parts]
        assert not own[0] & own[1] and not (own[0] | own[1]) & own[2]
        assert all(len(part.texts) == 2 * part.labels.sum() for part in parts)
    few = texts._replace(prompts=["ab"[i // 2 % 2] for i in range(600)])
    for part in divide(few, halves, 0)[0]:
        assert set(part.prompts) == {"a", "b"}


@pytest.mark.parametrize("has", [True, False])
def test_a_part_without_one_of_the_labels_is_refused(has):
    """One prompt has all texts with the label, which therefore stay together."""
    prompts = [*(f"prompt {i // 4}" for i in range(1000)), *["the last"] * 60]
    labels = (np.arange(1060) >= 1000) == has
    texts = Labelled(prompts, [f"text {i}" for i in range(1060)], labels)
    there = "with" if has else "without"
    for halves, what in ((1, "to calibrate"), (2, "to calibrate classifier a")):
        said = error_of(divide, texts, halves, 0)
        assert said.startswith(f"no text {there} the label is among the ") and f" {what}: " in said
    divide(texts._replace(prompts=[""] * 1060), 2, 0)


@pytest.mark.parametrize("paired", [True, False])
def test_a_fold_has_its_share_and_whole_prompts(paired):
    prompts = [f"prompt {i // 2}" if paired else "" for i in range(300)]
    labels = np.arange(300) % 2 == 0
    fold = folds(Labelled(prompts, [f"text {i}" for i in range(300)], labels), 5)
    for each in range(5):
        assert (fold == each).sum() == 60 and labels[fold == each].sum() == 30
    if paired:
        assert (fold[::2] == fold[1::2]).all()
    else:
        assert (fold[::2] != fold[1::2]).any()


def test_texts_with_and_without_the_label_are_left_out(tmp_path, capsys):
    """Which of two rows comes first says nothing about the text."""
    rows = [f"text {n}\t{n % 2}\n" for n in range(90)]
    path = tmp_path / "a.tsv"
    path.write_text("".join([*rows, "text 3\t0\n", "text 4\t0\n"]))
    found, _ = read_labelled(path)
    assert len(found.texts) == 89 and "text 3" not in found.texts and "text 4" in found.texts
    assert "1 of 90 texts have the label '1' in one row and another" in capsys.readouterr().err
