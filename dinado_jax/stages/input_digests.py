"""What each stage reads besides its settings, as SHA-256 of content: paths may stay the same while
what lies there changes."""

import hashlib
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinado_jax import tasks
from dinado_jax.config.schema import Config
from dinado_jax.data.text_files import read_text_lines
from dinado_jax.models.hf_folder import fingerprint, locate
from dinado_jax.oracles.judge import Oracle, resolve
from dinado_jax.stages.artifacts import held_out
from dinado_jax.stages.run_folder import READS, RunFolder
from dinado_jax.utils.files import file_digest


def input_digests(name: str, config: Config, run: RunFolder) -> dict[str, str]:
    """SHA-256 of everything a stage reads, by a name for people. InputError if some of it is gone.

    Earlier stages that are not done are left out.
    """
    return {**_from_outside(name, config), **stage_input_digests(name, run)}


def stage_input_digests(name: str, run: RunFolder) -> dict[str, str]:
    """SHA-256 of the results of earlier stages that a stage reads, of those that are done."""
    digests = {
        f"the results of stage {earlier}": run.results_digest(earlier) for earlier in READS[name]
    }
    return {what: digest for what, digest in digests.items() if digest}


def _from_outside(name: str, config: Config) -> dict[str, str]:
    found = {}
    settings = config.evaluate
    if name == "sft":
        if config.base.path:
            found["base.path"] = fingerprint(locate(config.base.path))
        if config.sft.pretrain_path:
            found["sft.pretrain_path"] = _hash(read_text_lines(config.sft.pretrain_path))
    if name in ("generate", "evaluate") and settings.prompt_file:
        found["evaluate.prompt_file"] = _hash([each.prompt for each in held_out(config)])
    elif config.task.source:
        split = settings.split if name in ("generate", "evaluate") else "train"
        rows = tasks.examples(config.task, split, config.seed)
        found["task.source"] = _hash([[row.prompt, *row.references] for row in rows])
    if name != "sft":
        oracle = config.rollout.oracle
        found[f"rollout.oracle (the source of {oracle})"] = _source(resolve(oracle))
    return found


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _source(oracle: Oracle) -> str:
    """SHA-256 of the source of an oracle: of its module, and of those beside it that it uses."""
    root = sys.modules.get(getattr(oracle, "__module__", None) or type(oracle).__module__)
    home = os.path.dirname(_file(root) or os.devnull)
    if root is None or root.__name__.partition(".")[0] == "dinado_jax":
        return ""  # ours go by name
    found, waiting = {}, [root]
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if path and path not in found and (module is root or path.startswith(home + os.sep)):
            found[path] = file_digest(Path(path))
            waiting += _used(module)
    return _hash(sorted([os.path.relpath(path, home), digest] for path, digest in found.items()))


def _file(module: types.ModuleType | None) -> str:
    path = getattr(module, "__file__", None)
    return os.path.realpath(path) if path and os.path.isfile(path) else ""


def _used(module: types.ModuleType) -> Iterator[types.ModuleType]:
    """Modules that a module has among its globals, by themselves or by something of theirs."""
    for value in list(vars(module).values()):
        if not isinstance(value, types.ModuleType):
            value = sys.modules.get(str(getattr(value, "__module__", None)))
        if isinstance(value, types.ModuleType):
            yield value
