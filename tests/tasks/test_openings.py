"""Openings of sentences."""

from support.refusal import error_of

from dinado_jax.config import schema
from dinado_jax.tasks.table import make_task

SPLITS = ("train", "dev", "test")


def openings(split, count=None):
    found = make_task(schema.Task(name="openings")).examples(split, 0, count)
    assert all(example.references == () for example in found)
    return [example.prompt for example in found]


def test_the_openings_are_all_different_and_divided_among_the_splits():
    train, dev, test = map(openings, SPLITS)
    assert (len(train), len(dev), len(test)) == (2400, 300, 300)
    assert len({*train, *dev, *test}) == 3000
    assert openings("train", count=5) == train[:5]
    assert all(prompt == prompt.strip() and prompt[0].isupper() for prompt in test)


def test_there_is_no_other_split():
    assert "give one of train, dev, test" in error_of(openings, "valid")
