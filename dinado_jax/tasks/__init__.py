"""Tasks: where prompts and references come from, chosen by `task.name`."""

from dinado_jax.config.schema import Task
from dinado_jax.tasks import commongen, toy
from dinado_jax.tasks.keyword.format import Example


def examples(task: Task, split: str, seed: int, count: int | None = None) -> list[Example]:
    """The examples of a split, at most `count`; train examples may repeat a prompt.

    InputError for a missing split or source.
    """
    if task.name == "toy":
        return toy.examples(split, count or task.train_examples, seed)
    return commongen.examples(task.source, split)[:count]
