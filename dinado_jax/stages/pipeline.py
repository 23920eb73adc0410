"""All stages of a run in order, each done once."""

import importlib.util
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dinado_jax import tasks
from dinado_jax.config.load import differences, from_dict
from dinado_jax.config.schema import Config, Parallel
from dinado_jax.data.text_files import read_text_lines
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.distributed.processes import assert_same, is_main
from dinado_jax.errors import InputError
from dinado_jax.evaluation.report import check_summary, plain
from dinado_jax.evaluation.samples import read_samples
from dinado_jax.language_model import Controlled
from dinado_jax.models.architectures import configured_model, load_model
from dinado_jax.models.hf_folder import CONFIG, locate
from dinado_jax.objectives.table import phases
from dinado_jax.oracles.judge import check_oracle, resolve
from dinado_jax.stages.artifacts import held_out, trained_model
from dinado_jax.stages.evaluate import evaluate
from dinado_jax.stages.generate import generate
from dinado_jax.stages.input_digests import input_digests, stage_input_digests
from dinado_jax.stages.rollout import rollout
from dinado_jax.stages.run_folder import STAGES, RunFolder
from dinado_jax.stages.sft import sft
from dinado_jax.stages.train import train
from dinado_jax.training.cost_estimate import check_base
from dinado_jax.utils import streams
from dinado_jax.utils.files import exists, read_json, write_json
from dinado_jax.utils.progress import print_once

_WORK = dict(zip(STAGES, (sft, rollout, train, generate, evaluate), strict=True))


def check(config: Config, names: Iterable[str], hub: bool = False) -> None:
    """InputError for what is wrong with the inputs of these stages, as far as that shows without
    computation, devices and, unless `hub`, the network."""
    names, task = set(names), config.task
    resolve(config.rollout.oracle)
    if "sft" in names and config.sft.pretrain_path:
        read_text_lines(config.sft.pretrain_path)
    if "sft" in names and config.base.path and not _on_the_hub(config.base.path):
        load_model(locate(config.base.path))
    data = task.name == "commongen" and (hub or not _on_the_hub(task.source))
    if names & {"sft", "rollout", "train"} and data:
        tasks.examples(task, "train", config.seed)
    if names & {"generate", "evaluate"} and (data or config.evaluate.prompt_file):
        held_out(config)
    bleu = "evaluate" in names and task.name == "commongen"
    if bleu and importlib.util.find_spec("sacrebleu") is None:
        raise InputError(
            "task commongen reports BLEU-4, and sacrebleu is not installed: pip install '.[eval]'"
        )


def _on_the_hub(name: str) -> bool:
    """Whether a name can only be one of the hub."""
    return not (name.startswith((".", "/", "~")) or exists(Path(name)))


def _check(config: Config, names: set[str], run: RunFolder) -> None:
    """Fails now, in one line, for what would otherwise fail after hours of training."""
    check(config, names, hub=True)
    _rehearse(config, names)
    plan, sft, train = make_plan(config.parallel), config.sft, config.train
    if "sft" in names and sft.steps + sft.pretrain_steps:
        plan.check_batch("sft", sft.batch, sft.accumulate)
    if "train" in names:
        parts = max(objective.parts for _, objective in phases(train))
        plan.check_batch("train", train.batch, train.accumulate * parts)
    made = run.path / "sft" / "base"
    if "sft" in names:
        check_base(config, configured_model(config.base))
    elif names and exists(made / CONFIG):
        check_base(config, configured_model(replace(config.base, path=str(made))))


def _rehearse(config: Config, names: set[str]) -> None:
    """Asks an oracle of the user's own about two rows, if stages are to do that ask it."""
    oracle = resolve(config.rollout.oracle)
    if config.rollout.oracle == "lexical" or not names & {"rollout", "train", "generate"}:
        return
    rows = tasks.examples(config.task, "train", config.seed, 2)
    # References are texts as the oracle will see them.
    check_oracle(oracle, [row.prompt for row in rows], [row.references[0] for row in rows])


def run_folder(config: Config, path: Path | None = None) -> RunFolder:
    return RunFolder(path or Path(config.run.folder) / config.name, config)


def run_stages(config: Config, names: tuple[str, ...], path: Path | None = None) -> None:
    """Does the named stages that are not done yet; finished ones are left as they are.

    InputError if a stage's predecessor is missing or was done with another configuration.
    """
    assert_same("settings", json.dumps([config.as_dict(), names]))
    run = run_folder(config, path)
    left = {name for name in names if run.finished(name) is None}
    _check(config, left, run)
    for name in names:
        for earlier in STAGES[: STAGES.index(name)]:
            if earlier not in names and run.finished(earlier) is None:
                raise InputError(
                    f"stage {name} needs stage {earlier}, which is not done in {run.path}: "
                    f"run `dinado {earlier}` or `dinado run` first"
                )
    for name in STAGES[: STAGES.index(names[-1]) + 1]:
        if run.started(name) is not None:
            inputs = (
                input_digests(name, config, run)
                if name in names
                else stage_input_digests(name, run)
            )
            run.check_inputs(name, inputs)
    print_once(_told(run))
    with run.locked():
        for name in names:
            _done(run, name)


def _told(run: RunFolder) -> str:
    """What a run is about to do, for people: the settings that are its own."""
    own = differences(run.config)
    rest = "--print-config prints all of them, config.json keeps them"
    if not own:
        return f"{run.path}: all settings are the defaults ({rest})"
    return "\n  ".join([f"{run.path}: other settings than the defaults ({rest})", *own])


def _done(run: RunFolder, name: str) -> None:
    """Does a stage unless it is done, and says so."""
    inputs = input_digests(name, run.config, run)
    assert_same(f"inputs of {name}", json.dumps(inputs))
    run.check_inputs(name, inputs)
    fresh = run.finished(name) is None
    if fresh and is_main():
        run.stage_folder(name)
        write_json(run.path / "config.json", run.config.as_dict())
    record = run.run(name, _WORK[name], inputs)
    figures = {k: v for k, v in record["figures"].items() if not isinstance(v, dict)}
    done = f"done in {record['seconds']:.0f} s" if fresh else "already done"
    print_once(f"{name}: {done}  {json.dumps(figures)}")


def show_report(config: Config, path: Path | None = None) -> None:
    """Prints the plain report of a finished run and where its files are.

    InputError if the run has no summary yet.
    """
    folder = run_folder(config, path).path
    again = "delete its evaluate folder, if any, and run `dinado evaluate`"
    if not exists(folder / "summary.json"):
        raise InputError(f"no summary.json in {folder}: {again}")
    summary = read_json(folder / "summary.json", again)
    check_summary(summary, str(folder / "summary.json"), again)
    samples = [read_samples(folder / "generate" / f"{n}.jsonl") for n in ("base", "control")]
    streams.print_result(plain(summary, *samples))
    streams.print_result(f"\n{folder / 'summary.json'}\n{folder / 'report.html'}")


def load_run(path: str | Path) -> Controlled:
    """The controlled model of a run whose train stage is done: base, control and tokenizer.

    InputError if the folder holds no such run, or a damaged one.
    """
    path = Path(path)
    if not exists(path):
        raise InputError(f"{path}, no such folder: give the folder of a run, such as runs/demo")
    if not path.is_dir():
        raise InputError(f"{path} is a file: give the folder of a run, such as runs/demo")
    if not _is_run(path):
        above = next((folder for folder in path.absolute().parents if _is_run(folder)), None)
        inside = sorted(folder for folder in path.iterdir() if _is_run(folder))
        if above:
            raise InputError(f"{path} is part of the run {above}: give that folder")
        if inside:
            raise InputError(f"{path} holds {len(inside)} runs: give one of them, as {inside[0]}")
        raise InputError(
            f"{path} is no run folder (no config.json and stages in it): give one, as runs/demo"
        )
    saved = path / "config.json"
    fix = "write it again, `dinado run CONFIG --print-config` prints it"
    config = from_dict(read_json(saved, fix), str(saved))
    for name in ("sft", "train"):
        if not exists(path / name / "done.json"):
            raise InputError(
                f"stage {name} of {path} is not done: run the {name} stage first, or `dinado run`"
            )
    model = trained_model(config, RunFolder(path, config), make_plan(Parallel(devices=1)))
    base = replace(model.base, max_new_tokens=config.decode.max_new_tokens)
    return replace(model, base=base)


def _is_run(folder: Path) -> bool:
    """A run's own configuration is beside the folders of its stages."""
    stages = any(exists(folder / name / "config.json") for name in STAGES)
    return stages and exists(folder / "config.json")
