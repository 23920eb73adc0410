"""Tasks: the keyword format, the toy grammar, concept data from files or a hub, plain text."""

import gzip
import json
import lzma
import os
import sys
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from dinado_jax.data import text_files as text
from dinado_jax.errors import InputError
from dinado_jax.tasks import commongen, toy
from dinado_jax.tasks.keyword import mining as mined
from dinado_jax.tasks.keyword.format import concepts_of, format_prompt
from dinado_jax.tasks.keyword.lexical import forms, lexical, words
from dinado_jax.tasks.protocol import Example


def error_of(function, *args) -> str:
    with pytest.raises(InputError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The keyword format


def test_prompt_and_its_inverse():
    assert format_prompt(["dog", "chase"]) == "dog chase ="
    assert concepts_of("dog chase =") == ("dog", "chase")
    assert concepts_of(format_prompt(("t-shirt",))) == ("t-shirt",)


@pytest.mark.parametrize("prompt", ["dog chase", "dog chase= ", "dog chase=", " =", "=", ""])
def test_malformed_prompts(prompt):
    assert repr(prompt) in error_of(concepts_of, prompt)


@pytest.mark.parametrize("concepts", [[], [""], ["ice cream"], ["dog "]])
def test_concepts_that_no_prompt_can_hold(concepts):
    error_of(format_prompt, concepts)


# Toy

# The tables of a prompt's concepts, in its order: every concept with the words captions use for it.
TABLES = (
    {noun.one: set(noun) for noun in toy.NOUNS},
    {verb.base: set(verb) for verb in toy.VERBS},
    {item: {item} for item in toy.OBJECTS},
)
CONCEPTS = TABLES[0] | TABLES[1] | TABLES[2]
RATE = toy.FOLLOW**3


def captions(split="train", count=4000, seed=0):
    return toy.examples(split, count, seed)


def test_toy_concepts_are_inflected_as_the_oracle_knows_and_never_share_a_form():
    assert [len(table) for table in TABLES] == [24, 16, 20] and len(CONCEPTS) == 60
    for concept, used in CONCEPTS.items():
        assert used <= forms(concept)
    shared = Counter(form for concept in CONCEPTS for form in forms(concept))
    assert [form for form, count in shared.items() if count > 1] == []


def test_toy_captions_hold_one_concept_of_each_class_and_no_accidental_forms():
    for example in captions():
        tokens = words(example.references[0])
        for table in TABLES:
            assert sum(token in forms(concept) for token in tokens for concept in table) == 1


def test_toy_captions_are_short_sentences_of_few_words():
    references = [example.references for example in captions()]
    assert {len(group) for group in references} == {1}
    lengths = Counter(len(reference.removesuffix(" .").split()) for (reference,) in references)
    assert min(lengths) == 7 and max(lengths) == 12
    assert all(reference.endswith(" .") for (reference,) in references)
    vocabulary = {word for (reference,) in references for word in reference.split()}
    assert set.union(*CONCEPTS.values()) <= vocabulary
    assert 190 <= len(vocabulary) <= 250


def test_toy_articles_agree_with_what_follows():
    for example in captions():
        tokens = example.references[0].split()
        for article, following in pairwise(tokens):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou")


def test_toy_captions_follow_their_prompts_rarely_and_evenly():
    sample = captions(count=8000)
    prompts = [example.prompt for example in sample]
    satisfied = np.array(lexical(prompts, [example.references[0] for example in sample]))
    assert satisfied.mean() == pytest.approx(RATE, abs=0.016)  # 4 standard errors
    assert 0.13 < RATE < 0.17
    for position, table in enumerate(TABLES):
        of = np.array([concepts_of(prompt)[position] for prompt in prompts])
        rates = np.array([satisfied[of == concept].mean() for concept in table])
        error = np.sqrt(RATE * len(table) / len(sample))
        assert np.abs(rates - RATE).max() < 4.5 * error


def test_toy_splits_divide_the_triples_and_cover_every_word():
    prompts = {
        "train": {example.prompt for example in captions(count=30_000)},
        "dev": {example.prompt for example in captions("dev", 1000)},
        "test": {example.prompt for example in captions("test", 1000)},
    }
    total = 24 * 16 * 20
    # 30,000 draws miss a hundredth of the training triples; what they hit is no one else's.
    assert 0.98 < len(prompts["train"]) / (0.8 * total) <= 1
    assert len(prompts["dev"]) == len(prompts["test"]) == total // 10
    assert len(set.union(*prompts.values())) == sum(map(len, prompts.values()))
    for split in prompts.values():
        for position, table in enumerate(TABLES):
            assert {concepts_of(prompt)[position] for prompt in split} == set(table)


def test_toy_evaluation_prompts_repeat_only_when_exhausted():
    assert len({example.prompt for example in captions("dev", 500)}) == 500
    counts = Counter(example.prompt for example in captions("dev", 2 * 768))
    assert set(counts.values()) == {2}


def test_toy_is_a_function_of_its_seed():
    assert captions(count=50) == captions(count=50)
    assert captions(count=50) != captions(count=50, seed=1)
    assert captions(count=0) == []


def test_toy_bad_input():
    assert "'valid'" in error_of(toy.examples, "valid", 1, 0)
    error_of(toy.examples, "train", -1, 0)
    error_of(toy.examples, "train", 1, -1)


# Concept data


def write(path, content):
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
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
    assert "common_gen row 0, no list of texts as" in error_of(
        commongen.examples, "common_gen", "train"
    )


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


# Plain text


def test_lines_of_a_file_and_of_a_folder(tmp_path):
    write(tmp_path / "b.txt.gz", "two\n\n  \nthree\n")
    write(tmp_path / "a.txt", "one\r\n")
    write(tmp_path / "c.txt.xz", "four é")
    for name in ("SOURCE.txt", "README.txt", "LICENSE.txt", "notes.md"):
        write(tmp_path / name, "not a text\n")
    assert text.read_text_lines(tmp_path / "b.txt.gz") == ["two", "three"]
    assert text.read_text_lines(str(tmp_path)) == ["one", "two", "three", "four é"]


def test_missing_empty_and_broken_text(tmp_path):
    assert "no such file" in error_of(text.read_text_lines, tmp_path / "none.txt")
    assert "no text" in error_of(text.read_text_lines, tmp_path)
    (tmp_path / "broken.gz").write_bytes(b"not gzip")
    assert "cannot be read" in error_of(text.read_text_lines, tmp_path / "broken.gz")
    (tmp_path / "broken.xz").write_bytes(lzma.compress(b"some text")[:-4])
    assert "cannot be read" in error_of(text.read_text_lines, tmp_path / "broken.xz")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    assert "UTF-8" in error_of(text.read_text_lines, tmp_path / "latin.txt")


# Examples mined from plain text


def test_mined_prompts_are_in_the_task_form_and_hold_for_their_line():
    examples = toy.examples("train", 400, 0)
    lines = [example.references[0] for example in toy.examples("test", 200, 1)]
    lines.insert(7, "Nothing of it here.")
    sizes = {len(concepts_of(example.prompt)) for example in examples}
    found = mined.mine(lines, examples, 0)
    assert [example.references for example in found] == [
        (line,) for line in lines if line != lines[7]
    ]
    assert all(lexical([e.prompt for e in found], [e.references[0] for e in found]))
    assert max(len(concepts_of(example.prompt)) for example in found) == max(sizes)
    assert found == mined.mine(lines, examples, 0) != mined.mine(lines, examples, 1)


def test_mined_concepts_are_those_prompts_name_most():
    """ "walking" is a form of both concepts, and two prompts name the verb."""
    prompts = ["walk dog =", "walk cat =", "walking man ="]
    examples = [Example(prompt, ("any",)) for prompt in prompts]
    concepts = {
        concept
        for example in mined.mine(["A man is walking his dogs."] * 50, examples, 0)
        for concept in concepts_of(example.prompt)
    }
    assert concepts == {"walk", "man", "dog"}


def test_text_without_any_concept_is_refused():
    assert "none of its 2 lines" in error_of(
        mined.mine, ["one", "two"], [Example("dog =", ("a dog",))], 0
    )
