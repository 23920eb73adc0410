"""A controlled model in one call: the stages of a run from Python, with an oracle of any form."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinado_jax.adapters.make import reserve_positions
from dinado_jax.config.schema import Config
from dinado_jax.controls.make import KINDS
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.distributed.processes import process_count
from dinado_jax.errors import InputError, quote
from dinado_jax.language_model import Base, Controlled
from dinado_jax.models.architectures import load_model
from dinado_jax.models.hf_folder import locate, own_name
from dinado_jax.oracles.callables import named_oracle
from dinado_jax.stages.pipeline import controlled_model, run_stages
from dinado_jax.stages.run_folder import RunFolder
from dinado_jax.stages.settings import python_config
from dinado_jax.tasks.prompts import read_prompts, write_prompts
from dinado_jax.utils.arguments import POSITIVE, known_keywords, require_integer, require_texts
from dinado_jax.utils.files import exists

_PROMPTS = "prompts.jsonl"
_STAGES = ("sft", "rollout", "train")  # sft without steps copies the base
_SAMPLES = 8  # consecutive ones of each prompt
# Settings that belong to an argument of `fit`.
_ARGUMENTS = {
    "name": "folder",
    "run.folder": "folder",
    "seed": "seed",
    "task": "prompts",
    "base.path": "base",
    "rollout.oracle": "oracle",
    "control.kind": "control",
}
_UNREAD = ("sft", "decode", "evaluate")


@known_keywords('settings of the run are given as settings={"train.steps": 300}')
def fit(
    base: Base | str | Path,
    oracle: str | Callable[..., Any],
    prompts: Sequence[str],
    *,
    control: str = "merge",
    rollouts: int = 8000,
    settings: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
) -> Controlled:
    """Trains a control under which the texts of a base satisfy an oracle, without tuning the base:

        model = dinado_jax.fit("gpt2", lambda text: "red" in text.split(), ["The house is"])

    Args:
      base: what `load` returns, or what it takes: a folder, a .gguf file, a name on the hub.
      oracle: a function of a text, of a prompt and a text, or of a list of each, see
        `oracles/callables.py`; one of `dinado_jax.constraints`; or a name, as in rollout.oracle. It
        says of each text whether it is as wanted, or how probably, in [0, 1].
      prompts: to train on, as they are written: such as the model is for.
      control: its kind, merge, soft, nado or hard, see docs/choosing.md.
      rollouts: texts that the oracle judges in each round of training (train.rounds). The prompts
        take turns, 8 texts each.
      settings: of the run, {"train.steps": 300}, see config/schema.py. The defaults are the demo's,
        for small bases; configs/demo_smollm2.toml has some for pretrained ones. By default a text
        has at most as many new tokens as the base draws where nothing else is asked for, or as its
        context has room for (rollout.max_new_tokens).
      folder: of the run. The same call continues what is there. None: a temporary one, which is
        removed.
      seed: in [0, 2^32).

    Returns:
      The base under the control, as `load_run` does.

    Raises:
      InputError: for a fault of an argument, named in one line; if `folder` has a run of other
        prompts, settings or base, or of another oracle as far as `oracles/code_digest.py` sees:
        code, constants and plain values count, not the models, files and modules that it uses; and
        if the oracle leaves nothing to learn.
      Diverged: for a loss that is not finite.
    """
    if process_count() > 1:
        raise InputError("dinado_jax.fit runs in one process: on several, use `dinado run`")
    texts, settings = require_texts("prompt", prompts), _checked(settings or {})
    if control not in tuple(KINDS):
        raise InputError(f"control is {quote(control)}: give one of {', '.join(KINDS)}")
    named = named_oracle(oracle, texts)
    given = None if isinstance(oracle, str) else named
    known = _known(base)
    with _run_folder(folder) as path:
        own = {"control.kind": control, "rollout.oracle": named.name, "seed": seed}
        own["task.source"] = str(path / _PROMPTS)
        config = python_config(_defaults(known, rollouts) | own, settings, given)
        config = _with_room(config, settings, known, texts)
        _keep_prompts(texts, RunFolder(path, config))
        run_stages(config, _STAGES, path, given)
        model = controlled_model(config, path, given)
    return replace(model, base=replace(model.base, folder=known.folder, name=known.name))


def _checked(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the settings. InputError for one that `fit` does not read."""
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise InputError(
            f'settings is {quote(settings)}: give a dict by section.key, {{"train.steps": 300}}'
        )
    for key in settings:
        section = key.partition(".")[0]
        if argument := _ARGUMENTS.get(key) or _ARGUMENTS.get(section):
            raise InputError(f"{key} in settings is for the argument {argument}: leave it out")
        if section in _UNREAD and key != "decode.max_new_tokens":
            raise InputError(
                f"{key} in settings has no effect, fit neither tunes a base nor generates: leave "
                "it out"
            )
    return settings


def _known(base: Base | str | Path) -> Base:
    """Returns a base that is on disk; without its parameters, if it is not loaded.

    Raises:
      InputError: if it is not there, or its parameters are others than there.
    """
    if not isinstance(base, (Base, str, Path)):
        raise InputError(f"base is {quote(base)}: give what dinado_jax.load returns, or a folder")
    if not isinstance(base, Base):
        folder = locate(str(base))
        return Base(load_model(folder), {}, folder, name=own_name(str(base)))
    base.saved_folder()
    return base


def _defaults(base: Base, rollouts: int) -> dict[str, Any]:
    """The settings that follow from the base, and from the number of rollouts."""
    rollouts = require_integer("rollouts", rollouts, *POSITIVE)
    samples = min(_SAMPLES, rollouts)
    return {
        "name": "fit",
        "task.name": "prompts",
        "task.held_out": 0.0,
        "base.path": str(base.folder),
        "base.dtype": base.model.dtype,
        "base.param_dtype": base.model.param_dtype,
        "base.prompt_template": base.prompt_template,
        "sft.steps": 0,
        "rollout.prompts": rollouts // samples,
        "rollout.samples": samples,
        "train.refresh_prompts": rollouts // samples,
        "train.refresh_samples": samples,
    }


def _with_room(config: Config, settings: Mapping[str, Any], base: Base, texts: list[str]) -> Config:
    """Chooses max_new_tokens where `settings` do not. InputError for prompts that are too long."""
    codec = base.codec.with_template(config.base.prompt_template)
    prompts = TokenizedPrompts(codec.prompts(texts))
    check_prompts(base.policy, prompts, 1)
    rollout, decode = config.rollout, config.decode
    if "rollout.max_new_tokens" not in settings:
        model = reserve_positions(base.model, config)
        room = model.context_length - max(map(len, prompts.tokens))
        rollout = replace(rollout, max_new_tokens=min(base.max_new_tokens, room))
    if "decode.max_new_tokens" not in settings:
        decode = replace(decode, max_new_tokens=rollout.max_new_tokens)
    return replace(config, rollout=rollout, decode=decode)


@contextlib.contextmanager
def _run_folder(folder: str | Path | None) -> Iterator[Path]:
    """Yields the folder, or a temporary one."""
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="dinado_fit_") as made:
        yield Path(made)


def _keep_prompts(texts: list[str], run: RunFolder) -> None:
    """Writes the prompts into the run's folder. InputError if there are others."""
    file = run.stage_folder("") / _PROMPTS
    if not exists(file):
        write_prompts(file, texts)
    elif read_prompts(file) != texts:
        raise InputError(
            f"{file} has other prompts than those given: give those, or another folder, or delete "
            f"the folder {run.path}"
        )
