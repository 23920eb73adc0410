"""SHA-256 of what each stage reads besides its settings: a path may stay the same while its content
changes.
"""

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from dinado_jax.hmm.folder import saved_digest
from dinado_jax.models.hf_folder import fingerprint, locate
from dinado_jax.oracles.table import NamedOracle
from dinado_jax.stages.context import Context
from dinado_jax.stages.run_folder import READS, RunFolder
from dinado_jax.utils.files import file_digest, json_digest


def input_digests(name: str, context: Context) -> dict[str, str]:
    """Returns the SHA-256 of everything a stage reads, by a human-readable name.

    Earlier stages that are not done are left out.

    Raises:
      InputError: if some of it cannot be read.
    """
    return {**_from_outside(name, context), **stage_input_digests(name, context.run)}


def stage_input_digests(name: str, run: RunFolder) -> dict[str, str]:
    """Returns the SHA-256 of the results of the finished stages that a stage reads."""
    records = {earlier: run.finished(earlier) for earlier in READS[name]}
    return {f"the results of stage {stage}": one.digest for stage, one in records.items() if one}


def _from_outside(name: str, context: Context) -> dict[str, str]:
    found, config = {}, context.config
    if name == "sft":
        if config.base.path:
            found["base.path"] = fingerprint(locate(config.base.path))
        if config.sft.pretrain_path:
            found["sft.pretrain_path"] = context.corpus_digest
    generating = name in ("generate", "evaluate")
    if generating and context.prompt_file:
        found["evaluate.prompt_file"] = json_digest(list(context.prompt_file.values()))
    elif context.task.source:
        rows = context.held_out if generating else context.train_examples
        found["task.source"] = json_digest([[row.prompt, *row.references] for row in rows])
    if name == "generate" and config.decode.hmm:
        found["decode.hmm"] = saved_digest(config.decode.hmm, config.decode.hmm_head)
    if name != "sft":
        what = f"rollout.oracle (the source of {context.oracle.name})"
        found[what] = _source(context.oracle)
    if name in ("rollout", "train", "evaluate"):
        for feature in context.features:
            what = f"target.moments (the source of {feature.name})"
            found[what] = _source(feature)
    if name == "evaluate" and context.second_oracle is not None:
        what = f"evaluate.oracle (the source of {context.second_oracle.name})"
        found[what] = _source(context.second_oracle)
    return found


def _source(oracle: NamedOracle) -> str:
    """Returns the SHA-256 of an oracle's source: of the module that defines it, and of the one that
    its name gives, which may only make it, as a constraint. Of an expression it is that of its
    parts, of one that was given as an object that of its code, and of a classifier that of its
    files.
    """
    if oracle.code:
        return oracle.code
    if oracle.parts:
        return json_digest([_source(part) for part in oracle.parts])
    function = oracle.function
    defining = getattr(function, "__module__", None) or type(function).__module__
    names = dict.fromkeys([defining, oracle.name.partition(":")[0]])
    return "".join(_source_of(sys.modules.get(name)) for name in names)


def _source_of(root: types.ModuleType | None) -> str:
    """Returns the SHA-256 of a module and those it uses from its folder."""
    home = os.path.dirname(_file(root) or os.devnull)
    if root is None or root.__name__.partition(".")[0] == "dinado_jax":
        return ""  # built in: identified by its name
    found, waiting = {}, [root]
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if path and path not in found and (module is root or path.startswith(home + os.sep)):
            found[path] = file_digest(Path(path))
            waiting += _used(module)
    return json_digest(
        sorted([os.path.relpath(path, home), digest] for path, digest in found.items())
    )


def _file(module: types.ModuleType | None) -> str:
    path = getattr(module, "__file__", None)
    return os.path.realpath(path) if path and os.path.isfile(path) else ""


def _used(module: types.ModuleType) -> Iterator[types.ModuleType]:
    """Yields the modules among a module's globals, and those that its other globals come from."""
    for value in list(vars(module).values()):
        if not isinstance(value, types.ModuleType):
            value = sys.modules.get(str(getattr(value, "__module__", None)))
        if isinstance(value, types.ModuleType):
            yield value
