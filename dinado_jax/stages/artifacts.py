"""What one stage leaves for others: the base, the control and the prompts of a run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from dinado_jax import tasks
from dinado_jax.config.schema import Config
from dinado_jax.controls.make import make_control
from dinado_jax.distributed.partitioning import (
    Plan,
    local_mesh,
    replicate,
)
from dinado_jax.distributed.processes import broadcast
from dinado_jax.errors import InputError
from dinado_jax.language_model import (
    Base,
    Controlled,
    load_gpt2,
)
from dinado_jax.stages.run_folder import RunFolder
from dinado_jax.tasks.keyword.format import Example
from dinado_jax.tasks.keyword.lexical import lexical
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.utils.files import read_lines


def training_prompts(config: Config, start: int, count: int) -> list[str]:
    """Prompts number start .. start + count - 1 of an endless shuffled cycle of training ones."""
    examples = tasks.examples(config.task, "train", config.seed)
    distinct = np.array(list(dict.fromkeys(example.prompt for example in examples)))
    cycles = range(start // len(distinct), (start + count - 1) // len(distinct) + 1)
    shuffled = [np.random.default_rng((config.seed, 7, c)).permutation(distinct) for c in cycles]
    offset = start % len(distinct)
    return np.concatenate(shuffled)[offset : offset + count].tolist()


def trained_base(config: Config, run: RunFolder, place: Callable[[dict], dict]) -> Base:
    """The base the sft stage left, in the configured precision, placed from the host.

    InputError if it is not the one that stage left.
    """
    folder = run.path / "sft" / "base"
    base_fingerprint(run)  # refuses a base that has changed since
    return load_base(config, folder, place)


def base_fingerprint(run: RunFolder) -> str:
    """The fingerprint of the base that the sft stage left. InputError if it is not done."""
    record = run.finished("sft")
    if record is None:
        raise InputError(f"stage sft is not done in {run.path}: run `dinado sft` or `dinado run`")
    return record["figures"]["base"]


def load_base(config: Config, path: str | Path, place: Callable[[dict], dict]) -> Base:
    settings = config.base
    return load_gpt2(
        path,
        dtype=settings.dtype,
        param_dtype=settings.param_dtype,
        remat=settings.remat,
        place=place,
    )


def trained_model(config: Config, run: RunFolder, plan: Plan) -> Controlled:
    """The base under the control that the train stage left, whole on this process's devices."""
    base = trained_base(config, run, partial(replicate, local_mesh(plan)))
    control = make_control(config, base.model)
    like = jax.eval_shape(lambda: control.init(jax.random.key(0), base.params, 0.5))
    folder = run.path / "train" / "control"
    params = None
    if broadcast(run.finished("train") is not None):
        with Checkpoints(folder, base_fingerprint(run)) as final:
            params = final.restore(plan.abstract(like))
    if params is None:
        raise InputError(f"no trained control in {run.path}: run the train stage first")
    return Controlled(base, control, plan.gather(plan.shard(params)))


def held_out(config: Config) -> list[Example]:
    """The examples to generate for: a prompt file's, or the split's.

    InputError for no such file or split, and for prompts that the lexical oracle cannot judge.
    """
    settings = config.evaluate
    if settings.prompt_file:
        prompts = read_prompt_file(Path(settings.prompt_file))
        if config.rollout.oracle == "lexical":
            _check_keywords(prompts)
        return [Example(prompt, ()) for prompt in prompts.values()]
    return tasks.examples(config.task, settings.split, config.seed, settings.prompts)


def read_prompt_file(path: Path) -> dict[str, str]:
    """The prompts of a file by where they stand, "FILE:LINE"."""
    lines = enumerate(map(str.strip, read_lines(path)), start=1)
    prompts = {f"{path}:{number}": line for number, line in lines if line}
    if not prompts:
        raise InputError(f"{path} holds no prompt: write one per line")
    return prompts


def _check_keywords(prompts: dict[str, str]) -> None:
    for where, prompt in prompts.items():
        try:
            lexical([prompt], [""])
        except InputError as error:
            raise InputError(f"{where}, {error}") from None
