"""Folders of CoCoA-MT and of Fisher: what is read, left out aloud, and refused in a line."""

import gzip
import random

import pytest
from support import fuzz
from support.refusal import error_of

from dinado_jax.config import schema
from dinado_jax.errors import InputError
from dinado_jax.tasks.table import make_task

SEGMENTS = [
    (
        f"Are you {i}?",
        f"[F]Sind Sie[/F] {i}, mit [F]Ihrem[/F] Hund?",
        f"[F]Bist du[/F] {i}, mit [F]deinem[/F] Hund?",
    )
    for i in range(20)
]
ENDS = {"": ".en", ".formal.annotated": ".de", ".informal.annotated": ".de"}
SPOKEN = [(f"hola {i}", *(f"hello {i} {j}" for j in range(4))) for i in range(20)]


def write_cocoa(folder, split="train", rows=SEGMENTS, ends=ENDS, pair="en-de"):
    place = folder / split / pair
    place.mkdir(parents=True, exist_ok=True)
    stem = f"formality-control.{split}.telephony.{pair}"
    for (kind, end), lines in zip(ends.items(), zip(*rows)):
        (place / f"{stem}{kind}{end}").write_text("\n".join(lines) + "\n")
    return place, stem


def write_fisher(folder, name="fisher_train", rows=SPOKEN, references=4):
    sources, *texts = zip(*rows)
    (folder / f"{name}.oracle.es").write_text("\n".join(sources) + "\n")
    for number, lines in enumerate(texts[:references]):
        end = f".{number}" if references > 1 else ""
        (folder / f"{name}.en{end}").write_text("\n".join(lines) + "\n")
    return folder


def task(name, folder, **settings):
    return make_task(schema.Task(name=name, source=str(folder), **settings))


def examples(name, folder, split="train", **settings):
    return task(name, folder, **settings).examples(split, 0)


def test_cocoa(tmp_path):
    write_cocoa(tmp_path)
    train, dev = (examples("cocoa", tmp_path, split) for split in ("train", "dev"))
    assert [e.prompt for e in dev] == ["Are you 9? =", "Are you 19? ="] and len(train) == 18
    assert train[0].references == ("Sind Sie 0, mit Ihrem Hund?", "Bist du 0, mit deinem Hund?")
    assert "no files of the test split of en-de" in error_of(examples, "cocoa", tmp_path, "test")
    write_cocoa(tmp_path, "test", SEGMENTS[:3], dict.fromkeys(ENDS, ""))
    assert len(examples("cocoa", tmp_path, "test")) == 3
    assert task("cocoa", tmp_path).oracle == "formal_de"
    assert task("cocoa", tmp_path, languages="en-es").oracle == "formal_es"
    for extra in ("formal.de", "informal.feminine.de", "formal.feminine.de"):
        stem = tmp_path / "train" / "en-de" / "formality-control.train.telephony.en-de"
        stem.with_name(f"{stem.name}.{extra}").write_text("not read\n")
    assert examples("cocoa", tmp_path) == train


def test_matched_accuracy_of_texts(tmp_path):
    write_cocoa(tmp_path)
    write_cocoa(tmp_path, "test", [("Go?", "[F]Gehen Sie[/F]?", "[F]Gehst du[/F]?")])
    _, accuracy, counted = task("cocoa", tmp_path).metrics
    prompts = ["Are you 0? =", "Are you 1? =", "Are you 2? =", "Go? =", "unknown ="]
    texts = ["Sind Sie da?", "Bist du da?", "mit Ihrem Hund", "Hund?", "Sind Sie da?"]
    references = [()] * 5
    assert accuracy.measure(prompts, texts, references) == pytest.approx(2 / 3)
    assert counted.measure(prompts, texts, references) == pytest.approx(3 / 5)


def test_lines_that_are_not_whole_are_counted(tmp_path, capsys):
    odd = [
        (" ", "a", "b"), ("a", "", "b"), ("a", "b", "[F][/F]"), ("a", "[F]b", "c"),
        ("a", "b", "c[/F]"),
    ]  # fmt: skip
    place, stem = write_cocoa(tmp_path, rows=[*SEGMENTS, *odd])
    assert len(examples("cocoa", tmp_path)) == 18
    said = capsys.readouterr().err
    assert f"{place / stem}.en: 5 of 25 lines have no source or no reference" in said


def test_fisher(tmp_path, capsys):
    rows = [*SPOKEN, ("", "a", "a", "a", "a"), ("eh", "", "", "", ""), ("ah", "ah", "", "ah", "oh")]
    write_fisher(tmp_path, rows=rows)
    write_fisher(tmp_path, "callhome_train", [("hola 0", "hey"), ("sí", "yes")], 1)
    found = examples("fisher", tmp_path)
    assert "fisher_train.oracle.es: 2 of 23 lines have no source" in capsys.readouterr().err
    write_fisher(tmp_path, "callhome_evltest", references=1)
    examples("fisher", tmp_path)
    said = capsys.readouterr().err
    assert "callhome_evltest.en, callhome_evltest.oracle.es are not read, because" in said
    known = {each.prompt: each.references for each in found}
    assert len(known) == len(found) == 22 and known["sí ="] == ("yes",)
    assert known["hola 0 ="] == ("hey", "hello 0 0", "hello 0 1", "hello 0 2", "hello 0 3")
    assert known["ah ="] == ("ah", "oh")
    write_fisher(tmp_path, "fisher_test", references=0)
    assert {each.references for each in examples("fisher", tmp_path, "test")} == {()}
    assert "no files of the dev split" in error_of(examples, "fisher", tmp_path, "dev")
    write_fisher(tmp_path, "fisher_dev", references=0)
    assert "fisher_dev has no references" in error_of(examples, "fisher", tmp_path, "dev")


def test_a_carriage_return_inside_of_a_line_is_white_space(tmp_path):
    (tmp_path / "a_train.es").write_bytes(b"uno\r\ndos\r\n")
    (tmp_path / "a_train.en").write_bytes(b"one-\rno, one\r\ntwo")
    found = [(each.prompt, each.references) for each in examples("fisher", tmp_path)]
    assert found == [("uno =", ("one- no, one",)), ("dos =", ("two",))]


def test_files_may_be_compressed(tmp_path):
    write_fisher(tmp_path)
    whole = examples("fisher", tmp_path)
    for path in list(tmp_path.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert examples("fisher", tmp_path) == whole
    (tmp_path / "fisher_train.en.0").write_text("twice\n")
    assert "is there with .gz and without" in error_of(examples, "fisher", tmp_path)


def test_pairs_are_mined_from_lines_with_tabs(tmp_path, capsys):
    lines = ["Go.\tGeh.\tnot read", "Go.\tGehen Sie.", "no tab", "\tnothing", "Hi.\t ", "A\tB"]
    mine = task("cocoa", tmp_path).mine
    assert [(each.prompt, each.references) for each in mine(lines, [], 0)] == [
        ("Go. =", ("Geh.", "Gehen Sie.")),
        ("A =", ("B",)),
    ]
    assert "3 of 6 lines have no source and translation" in capsys.readouterr().err
    assert "none of its 1 lines has a source, a tab" in error_of(mine, ["no tab"], [], 0)


@pytest.mark.parametrize("name", ["cocoa", "fisher"])
def test_what_is_missing_is_said(tmp_path, name):
    assert "no such folder" in error_of(examples, name, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "no such folder" in error_of(examples, name, tmp_path / "file")
    assert "no files of the train split" in error_of(examples, name, tmp_path)
    assert "split 'all'" in error_of(examples, name, tmp_path, "all")
    assert task(name, "").fault.startswith("task.source is empty")


def test_files_that_do_not_belong_together_are_named(tmp_path):
    place, stem = write_cocoa(tmp_path)
    (place / f"{stem}.formal.annotated.de").write_text("one\n")
    assert "annotated.de has 1 lines, " in error_of(examples, "cocoa", tmp_path)
    (place / f"{stem}.formal.annotated.de").unlink()
    assert "has no file .formal.annotated" in error_of(examples, "cocoa", tmp_path)
    write_fisher(tmp_path)
    (tmp_path / "fisher_train.es").write_text("again\n")
    line = error_of(examples, "fisher", tmp_path)
    assert "fisher_train.es, fisher_train.oracle.es: keep one" in line


@pytest.mark.parametrize("name", ["cocoa", "fisher"])
def test_mutated_files_are_read_for_what_they_say_or_refused_in_a_line(tmp_path, name, capsys):
    outcomes = {"refused": 0, "read": 0}
    for number in range(300):
        rng, folder = random.Random(f"{name}:{number}"), tmp_path / str(number)
        folder.mkdir()
        write_cocoa(folder) if name == "cocoa" else write_fisher(folder)
        chosen = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        chosen.write_bytes(fuzz.of_bytes(rng, chosen.read_bytes()))
        if rng.random() < 0.05:
            fuzz.of_place(rng, chosen)
        capsys.readouterr()
        try:
            found = [*examples(name, folder)]
            found += examples(name, folder, "dev") if name == "cocoa" else []
        except InputError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert all(each.prompt.endswith(" =") and all(each.references) for each in found)
        said = capsys.readouterr().err
        left_out = int(said.partition(": ")[2].split()[0]) if said else 0
        # Sources that became equal are one example.
        assert 20 - left_out - 2 <= len(found) <= 20, (number, said)
    assert min(outcomes.values()) > 20, outcomes


def test_a_source_that_occurs_twice_is_of_one_split_and_counts_by_both_rows(tmp_path):
    twice = ("Are you 0?", "Haben [F]Sie[/F] 0?", "Hast [F]du[/F] 0?")
    write_cocoa(tmp_path, rows=[*SEGMENTS[:9], twice, *SEGMENTS[10:]])
    train, dev = (examples("cocoa", tmp_path, split) for split in ("train", "dev"))
    assert not {e.prompt for e in train} & {e.prompt for e in dev}
    assert len(train[0].references) == 4
    write_cocoa(tmp_path, "test", SEGMENTS[:1])
    _, accuracy, counted = task("cocoa", tmp_path).metrics
    texts = ["Sind Sie 0, mit Ihrem Hund?", "Haben Sie 0?"]
    for metric in (accuracy, counted):
        assert metric.measure([train[0].prompt] * 2, texts, [()] * 2) == 1


def test_two_files_of_one_part_are_refused_and_other_languages_are_not_read(tmp_path):
    place, stem = write_cocoa(tmp_path)
    (place / f"{stem}.formal.annotated.es").write_text("no\n")
    assert len(examples("cocoa", tmp_path)) == 18
    (place / f"{stem}.formal.annotated").write_text("no\n")
    said = error_of(examples, "cocoa", tmp_path)
    assert f"{stem}.formal.annotated and " in said and "are the same part: keep one" in said
