"""The tasks by `task.name`."""

from collections.abc import Callable

from dinado_jax.config import schema
from dinado_jax.tasks.cocoa import cocoa
from dinado_jax.tasks.commongen import commongen
from dinado_jax.tasks.fisher import fisher
from dinado_jax.tasks.openings import openings
from dinado_jax.tasks.pairs import pairs
from dinado_jax.tasks.prompts import prompts
from dinado_jax.tasks.protocol import Task
from dinado_jax.tasks.text import text
from dinado_jax.tasks.toy import toy

TASKS: dict[str, Callable[[schema.Task], Task]] = {
    "toy": toy,
    "commongen": commongen,
    "openings": openings,
    "prompts": prompts,
    "pairs": pairs,
    "text": text,
    "cocoa": cocoa,
    "fisher": fisher,
}


def make_task(settings: schema.Task) -> Task:
    """Returns the task that a configuration names."""
    return TASKS[settings.name](settings)
