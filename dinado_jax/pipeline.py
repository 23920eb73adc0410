"""All stages of a run in order, each done once."""

import dataclasses
import importlib.util
import json
from pathlib import Path

from dinado_jax.base import Controlled
from dinado_jax.config import Config, Parallel, from_dict
from dinado_jax.errors import InputError
from dinado_jax.files import read_json, write_json
from dinado_jax.oracles.judge import resolve
from dinado_jax.parallel import make_plan
from dinado_jax.processes import agree_on, first
from dinado_jax.progress import say
from dinado_jax.report import plain
from dinado_jax.stages.evaluate import evaluate, read_samples
from dinado_jax.stages.folder import STAGES, RunFolder
from dinado_jax.stages.generate import generate, held_out
from dinado_jax.stages.rollout import rollout
from dinado_jax.stages.sft import sft
from dinado_jax.stages.train import train, trained_model

_WORK = dict(zip(STAGES, (sft, rollout, train, generate, evaluate), strict=True))


def _check(config: Config, names: set[str]) -> None:
    """Fails now, in one line, for what would otherwise fail after hours of training."""
    resolve(config.rollout.oracle)
    plan, sft, train = make_plan(config.parallel), config.sft, config.train
    if "sft" in names and sft.steps + sft.pretrain_steps:
        plan.check("sft", sft.batch, sft.accumulate)
    if "train" in names:
        parts = 1 if train.objective in ("published", "prefixes") else 2
        plan.check("train", train.batch, train.accumulate * parts)
    if names & {"generate", "evaluate"}:
        held_out(config)
    bleu = "evaluate" in names and config.task.name == "commongen"
    if bleu and importlib.util.find_spec("sacrebleu") is None:
        raise InputError(
            "task commongen reports BLEU-4, and sacrebleu is not installed: pip install '.[eval]'"
        )


def run_folder(config: Config, path: Path | None = None) -> RunFolder:
    return RunFolder(path or Path(config.run.folder) / config.name, config)


def run_stages(config: Config, names: tuple[str, ...], path: Path | None = None) -> None:
    """Does the named stages that are not done yet; finished ones are left as they are.

    InputError if a stage's predecessor is missing or was done with another configuration.
    """
    agree_on("settings", json.dumps([config.as_dict(), names]))
    run = run_folder(config, path)
    _check(config, {name for name in names if run.finished(name) is None})
    for name in names:
        for earlier in STAGES[: STAGES.index(name)]:
            if earlier not in names and run.finished(earlier) is None:
                raise InputError(
                    f"stage {name} needs stage {earlier}, which is not done in {run.path}: "
                    f"run `dinado {earlier}` or `dinado run` first"
                )
    with run.locked():
        for name in names:
            _done(run, name)


def _done(run: RunFolder, name: str) -> None:
    """Does a stage unless it is done, and says so."""
    fresh = run.finished(name) is None
    if fresh and first():
        run.stage(name)
        write_json(run.path / "config.json", run.config.as_dict())
    record = run.run(name, _WORK[name])
    figures = {k: v for k, v in record["figures"].items() if not isinstance(v, dict)}
    done = f"done in {record['seconds']:.0f} s" if fresh else "already done"
    say(f"{name}: {done}  {json.dumps(figures)}")


def show_report(config: Config, path: Path | None = None) -> None:
    """Prints the plain report of a finished run and where its files are.

    InputError if the run has no summary yet.
    """
    folder = run_folder(config, path).path
    again = "delete its evaluate folder, if any, and run `dinado evaluate`"
    if not (folder / "summary.json").exists():
        raise InputError(f"no summary.json in {folder}: {again}")
    summary = read_json(folder / "summary.json", again)
    samples = [read_samples(folder / "generate" / f"{n}.jsonl") for n in ("base", "control")]
    print(plain(summary, *samples))
    print(f"\n{folder / 'summary.json'}\n{folder / 'report.html'}")


def load_run(path: str | Path) -> Controlled:
    """The controlled model of a run whose train stage is done: base, control and tokenizer.

    InputError if the folder holds no such run, or a damaged one.
    """
    path = Path(path)
    saved = path / "config.json"
    mend = "write it anew, `dinado run CONFIG --print-config` prints it"
    if not saved.exists():
        raise InputError(f"{path} is no run folder (it has no config.json): give runs/NAME")
    config = from_dict(read_json(saved, mend), str(saved))
    plan = make_plan(Parallel(devices=1))
    model = trained_model(config, RunFolder(path, config), plan)
    base = dataclasses.replace(model.base, max_new_tokens=config.decode.max_new_tokens)
    return dataclasses.replace(model, base=base)
