"""Openings of sentences: built in, or from a file of one's own."""

from support.refusal import error_of

from dinado_jax.config import schema
from dinado_jax.tasks.table import make_task

SPLITS = ("train", "dev", "test")


def openings(split, source="", count=None):
    task = make_task(schema.Task(name="openings", source=str(source)))
    found = task.examples(split, 0, count)
    assert all(example.references == () for example in found)
    return [example.prompt for example in found]


def test_the_built_in_openings_are_all_different_and_divided_among_the_splits():
    train, dev, test = map(openings, SPLITS)
    assert (len(train), len(dev), len(test)) == (2400, 300, 300)
    assert len({*train, *dev, *test}) == 3000
    assert openings("train", count=5) == train[:5]
    assert all(prompt == prompt.strip() and prompt[0].isupper() for prompt in test)


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("".join(f"Opening {i} of\n\n" for i in range(20)))
    assert openings("dev", file) == ["Opening 8 of", "Opening 18 of"]
    assert openings("test", file, 1) == ["Opening 9 of"]
    assert len(openings("train", file)) == 16


def test_what_is_refused(tmp_path):
    few = tmp_path / "few.txt"
    few.write_text("The\nA\n")
    assert "2 openings: give ten or more" in error_of(openings, "train", few)
    assert "none.txt, no such file" in error_of(openings, "train", tmp_path / "none.txt")
    assert "give one of train, dev, test" in error_of(openings, "valid")
