"""Pairs of one's own: grouped by prompt, divided among the splits, never lost without a word."""

import json

import pytest
from support import tiny_run
from support.refusal import error_of

from dinado_jax.config import schema
from dinado_jax.tasks.table import make_task


def pairs(source, split="train", count=None, **settings):
    task = make_task(schema.Task(name="pairs", source=str(source), **settings))
    found = task.examples(split, 0, count)
    return [(example.prompt, *example.references) for example in found]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_and_targets_are_left_as_they_are_but_for_outer_space(tmp_path):
    rows = [{"prompt": "Ask: ", "target": " me\nnow"}, {"prompt": "b =", "target": ["c", "d"]}]
    rows.append({"prompt": " Ask:\n", "target": "me\nnow "})
    assert pairs(write(tmp_path / "a.jsonl", *rows), held_out=0) == [
        ("Ask:", "me\nnow"),
        ("b =", "c", "d"),
    ]
    named = write(tmp_path / "b.jsonl", {"question": "Who?", "answer": "I"})
    found = pairs(named, field="question", target_field="answer")
    assert found == [("Who?", "I")]


def test_rows_of_one_prompt_are_one_example(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("one\tun\ntwo\tdeux\none\tune\none\tun\n")
    assert pairs(file) == [("one", "un", "une"), ("two", "deux")]


def test_what_is_left_out_is_counted(tmp_path, capsys):
    file = tmp_path / "a.csv"
    file.write_text("one,un\ntwo,\n ,trois\n,\n\nfour,quatre\n")
    assert pairs(file) == [("one", "un"), ("four", "quatre")]
    said = capsys.readouterr().err
    assert f"{file}: 2 of 4 rows have no prompt or no target, left out" in said
    null = write(
        tmp_path / "b.jsonl", {"prompt": "a", "target": None}, {"prompt": "", "target": []}
    )
    assert f"{null}, no examples there: give data that has some" in error_of(pairs, null)


def test_shares_of_a_file(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"{i}\tx{i}\n{i}\ty{i}\n" for i in range(20)))
    names = {split: [pair[0] for pair in pairs(file, split)] for split in ("dev", "test", "train")}
    assert names["dev"] == ["8", "18"] and names["test"] == ["9", "19"]
    assert len(names["train"]) == 16 and pairs(file, count=1) == [("0", "x0", "y0")]


def test_splits_with_files_of_their_own(tmp_path):
    files = {}
    for split in ("train", "dev"):
        files[split] = tmp_path / f"{split}.csv"
        files[split].write_text("".join(f"{split} {i},x\n" for i in range(20)))
    assert len(pairs(files["train"], dev=str(files["dev"]))) == 20
    assert pairs(files["train"], "dev", dev=str(files["dev"]))[0] == ("dev 0", "x")
    said = error_of(lambda: pairs(files["train"], "test", dev=str(files["dev"])))
    assert said.startswith("task.test is empty, and the test split is wanted: give a file")


@pytest.fixture
def rows():
    return [{"id": i, "source": f"s{i}", "refs": [f"t{i}", f"u{i}"]} for i in range(20)]


def of_data_set(path, split, **settings):
    return pairs(path, split, field="source", target_field="refs", **settings)


def test_data_sets_with_splits_of_their_own(tmp_path, rows):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": made, "validation": made.select([3])}).save_to_disk(tmp_path)
    assert len(of_data_set(tmp_path, "train")) == 20
    assert of_data_set(tmp_path, "dev") == [("s3", "t3", "u3")]
    said = error_of(of_data_set, tmp_path, "test")
    assert "its splits are train, validation, and test is wanted: set evaluate.split" in said
    said = error_of(pairs, tmp_path)
    assert "row 0, prompt is missing: give one" in said and "name its columns by task.field" in said


def test_shares_of_a_data_set(tmp_path, rows, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "data" / "some.parquet")
    assert len(of_data_set(tmp_path / "data", "train")) == 16
    assert [name for name, *_ in of_data_set(tmp_path / "data", "dev")] == ["s8", "s18"]
    assert "a folder of data" in error_of(of_data_set, tmp_path, "dev")


def test_what_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one un\n")
    assert "a.txt, no file of pairs by its name: give" in error_of(pairs, tmp_path / "a.txt")
    assert "none.csv, no such file" in error_of(pairs, tmp_path / "none.csv")
    assert "none.csv, no such file" in error_of(pairs, "none.csv")
    odd = write(tmp_path / "a.jsonl", {"prompt": "a", "target": ["b", 3]})
    assert "a.jsonl:1, targets ['b', 3]: give a text or a list" in error_of(pairs, odd)


def test_a_run_needs_data_and_two_columns():
    given = ("task.name=pairs", "task.source=mine.tsv")
    assert "task.source is empty" in error_of(tiny_run.config, given[0])
    said = error_of(tiny_run.config, *given, "task.field=target")
    assert "task.field and task.target_field are both 'target': name two columns" in said
