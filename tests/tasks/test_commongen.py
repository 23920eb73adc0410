"""Concept data from files or a hub."""

import gzip
import json
import os
import sys
from types import SimpleNamespace

import pytest
from support.refusal import error_of

from dinado_jax.tasks import commongen
from dinado_jax.tasks.protocol import Example


def write(path, content):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as handle:
        handle.write(content)


def write_json(path, *rows):
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_json_lines_of_every_key_are_grouped(tmp_path):
    write_json(
        tmp_path / "grouped.train.jsonl.gz",
        {"concepts": ["dog", "run"], "scene": ["A dog runs.", "Dogs run. "]},
        {"concept_set": "cat_N#sit_V", "references": ["A cat sits."]},
        {"concepts": ["run", "dog"], "target": "A dog ran."},
        {"concepts": ["dog", "run"], "target": "Dogs run."},
    )
    write_json(tmp_path / "grouped.valid.jsonl", {"concepts": ["elk"], "scene": ["An elk."]})
    assert commongen.examples(str(tmp_path), "train") == [
        Example("dog run =", ("A dog runs.", "Dogs run.", "A dog ran.")),
        Example("cat sit =", ("A cat sits.",)),
    ]
    assert commongen.examples(str(tmp_path), "dev") == [Example("elk =", ("An elk.",))]


@pytest.mark.parametrize(
    ("source", "target", "split"),
    [
        ("train_src.txt", "train_trg.txt", "train"),
        ("valid_src.txt.gz", "valid_trg.txt.gz", "dev"),
        ("dev_src.txt", "dev_tgt.txt.gz", "dev"),
    ],
)
def test_paired_files(tmp_path, source, target, split):
    write(tmp_path / source, "dog run\nrun dog\ncat sit\n")
    # U+2028 is a line end to str.splitlines, not to these files.
    write(tmp_path / target, "A dog\u2028runs.\nDogs ran.\nA cat sits.")
    assert commongen.examples(str(tmp_path), split) == [
        Example("dog run =", ("A dog\u2028runs.", "Dogs ran.")),
        Example("cat sit =", ("A cat sits.",)),
    ]


def test_only_test_splits_may_lack_references(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}_src.txt", "dog run\ndog run\n")
    assert commongen.examples(str(tmp_path), "test") == [Example("dog run =", ())]
    assert "train_src.txt" in error_of(commongen.examples, str(tmp_path), "train")
    write(tmp_path / "train_trg.txt", "A dog runs.\n\n")
    assert "train_src.txt:2" in error_of(commongen.examples, str(tmp_path), "train")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{oops", "malformed JSON"),
        ("[1]", "not a JSON object"),
        ('{"concepts": [1], "scene": ["x"]}', "concepts"),
        ('{"scene": ["x"]}', "concepts"),
        ('{"concepts": ["dog"], "scene": {"a": 1}}', "references"),
        ('{"concepts": ["dog"]}', "no reference"),
        ('{"concepts": [], "scene": ["x"]}', "no concepts"),
        ('{"concepts": ["ice cream"], "scene": ["x"]}', "'ice cream'"),
    ],
)
def test_malformed_json_lines_are_named(tmp_path, line, what):
    write(tmp_path / "train.jsonl", '{"concepts": ["dog"], "scene": ["A dog."]}\n' + line + "\n")
    message = error_of(commongen.examples, str(tmp_path), "train")
    assert "train.jsonl:2" in message and what in message


def test_missing_empty_and_mismatched_files(tmp_path):
    folder = str(tmp_path)
    assert "no files of the dev split" in error_of(commongen.examples, folder, "dev")
    write(tmp_path / "train_src.txt", "")
    write(tmp_path / "train_trg.txt", "")
    assert "empty" in error_of(commongen.examples, folder, "train")
    write(tmp_path / "train_src.txt", "dog\ncat\n")
    write(tmp_path / "train_trg.txt", "A dog.\n")
    assert "2 lines, train_trg.txt has 1" in error_of(commongen.examples, folder, "train")
    write(tmp_path / "train_src.txt.gz", "dog\n")
    assert "several" in error_of(commongen.examples, folder, "train")
    write(tmp_path / "test.jsonl", "\n")
    assert "empty" in error_of(commongen.examples, folder, "test")
    assert "'val'" in error_of(commongen.examples, folder, "val")


def test_hub_rows_are_grouped(monkeypatch):
    def load_dataset(name, split):
        assert (name, split) == ("some/data", "validation")
        return [
            {"concept_set_idx": 0, "concepts": ["dog", "run"], "target": "A dog runs."},
            {"concept_set_idx": 0, "concepts": ["dog", "run"], "target": "Dogs run."},
        ]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert commongen.examples("some/data", "dev") == [
        Example("dog run =", ("A dog runs.", "Dogs run."))
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"concepts": "dog#run", "target": "A dog runs."},
        {"concepts": None, "target": "A dog runs."},
        {"concepts": ["dog", 3], "target": "A dog runs."},
        {"concepts": ["dog"], "target": 3},
        {"concepts": ["dog"], "target": ["A dog runs."]},
    ],
)
def test_hub_rows_of_another_type(monkeypatch, row):
    fake = SimpleNamespace(load_dataset=lambda name, split: [row])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert "is not a list of texts" in error_of(commongen.examples, "common_gen", "train")


@pytest.mark.parametrize(
    "source, told",
    [
        ("./gone", "no such folder"),
        ("/gone/away", "no such folder"),
        ("~/gone", "no such folder"),
        ("file", "not a folder"),
        ("pipe", "not a folder"),
        ("loop", "links lead back"),
        ("x" * 300, "choose a shorter name"),
        ("nul\0", "not a path"),
    ],
)
def test_sources_that_never_ask_the_hub(tmp_path, monkeypatch, source, told):
    fake = SimpleNamespace(load_dataset=lambda *a, **k: pytest.fail("asked"))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert told in error_of(commongen.examples, source, "train")


@pytest.mark.parametrize("name", ["train.jsonl", "train_src.txt", "train.jsonl.gz"])
def test_files_of_a_split_that_are_none(tmp_path, name):
    (tmp_path / "train_trg.txt").write_text("x")
    os.mkfifo(tmp_path / name)
    assert "a pipe or a device" in error_of(commongen.examples, str(tmp_path), "train")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert "is a directory" in error_of(commongen.examples, str(tmp_path), "train")


@pytest.mark.parametrize(
    "line",
    [
        "3", "[1]", "null", "[" * 10**5, '{"concepts": ' + "9" * 5000 + "}",
        '{"concepts": ["\\ud800"], "scene": "a"}', '{"concepts": {"dog": 1}, "scene": "a"}',
        '{"concepts": ["dog"], "scene": [3]}', '{"concepts": ["' + "x" * 10**5 + ' y"]}',
    ],
)  # fmt: skip
def test_lines_of_another_shape(tmp_path, line):
    (tmp_path / "train.jsonl").write_text(line + "\n")
    said = error_of(commongen.examples, str(tmp_path), "train")
    assert "train.jsonl:1, " in said and len(said) < 500


def test_hub_failures_are_told_in_one_line(monkeypatch):
    def unreachable(name, split):
        raise ConnectionError("no\nnetwork")

    fake = SimpleNamespace(load_dataset=unreachable)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert "ConnectionError: no network" in error_of(commongen.examples, "some/data", "dev")
    fake.load_dataset = lambda name, split: [{"text": "A dog."}]
    assert "columns text" in error_of(commongen.examples, "some/data", "dev")
    fake.load_dataset = lambda name, split: []
    assert "empty" in error_of(commongen.examples, "some/data", "dev")
