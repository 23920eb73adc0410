"""Runs the stages of a run in order, each once."""

import importlib.util
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from dinado_jax.config.load import differences
from dinado_jax.config.schema import Config, Parallel
from dinado_jax.data.hub import names_data_set
from dinado_jax.distributed.processes import assert_same, is_main
from dinado_jax.errors import InputError, quote
from dinado_jax.evaluation import stage_figures
from dinado_jax.evaluation.of_model import Evaluation
from dinado_jax.evaluation.report.terminal import plain
from dinado_jax.evaluation.samples import read_samples
from dinado_jax.evaluation.stage_figures import Figures
from dinado_jax.evaluation.summary import read_summary
from dinado_jax.hmm.folder import load_of_base
from dinado_jax.language_model import Controlled
from dinado_jax.models.architectures import configured_model, load_model
from dinado_jax.models.hf_folder import CONFIG, locate, on_the_hub
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.objectives.table import phases
from dinado_jax.oracles.judge import FEATURES, LABELS, TRIAL_TEXTS, check_oracle
from dinado_jax.oracles.table import NamedOracle
from dinado_jax.stages.artifacts import trained_model
from dinado_jax.stages.context import Context
from dinado_jax.stages.evaluate import evaluate
from dinado_jax.stages.generate import generate
from dinado_jax.stages.input_digests import input_digests, stage_input_digests
from dinado_jax.stages.rollout import rollout
from dinado_jax.stages.run_folder import STAGES, check_format
from dinado_jax.stages.settings import stored_config
from dinado_jax.stages.sft import sft
from dinado_jax.stages.train import train
from dinado_jax.stages.works import works
from dinado_jax.training.cost_estimate import check_base
from dinado_jax.utils import streams, tensorboard
from dinado_jax.utils.files import exists, read_json, write_json
from dinado_jax.utils.outlook import reach, work_of
from dinado_jax.utils.progress import print_progress

_WORK: dict[str, Callable[[Context], Figures]] = dict(
    zip(STAGES, (sft, rollout, train, generate, evaluate), strict=True)
)
_EVALUATE = "delete its evaluate folder, if any, and run `dinado evaluate`"

_TRIED = 1000  # prompts of a file that a built-in oracle is asked about


def check(config: Config, names: Iterable[str], judge: bool = False) -> None:
    """Checks the inputs of these stages without computation, devices or network access.

    Args:
      judge: whether to call the oracle on two samples, too.

    Raises:
      InputError: for the first fault.
    """
    context, names = Context.of(config), set(names)
    _check_inputs(context, names, hub=False)
    if judge:
        _try_oracle(context, names)


def _check_inputs(context: Context, names: set[str], hub: bool) -> None:
    """Raises InputError for a fault of the inputs of these stages.

    Args:
      hub: whether to load inputs from the hub too.
    """
    config, task = context.config, context.task
    if context.oracle_name or names - {"sft"}:  # that stage reads none
        _ = context.oracle
    _ = context.features
    if "evaluate" in names:
        _ = context.second_oracle
    if "sft" in names and config.sft.pretrain_path:
        _ = context.corpus_digest
    if "sft" in names and config.base.path and not on_the_hub(config.base.path):
        folder = locate(config.base.path)
        model = load_model(folder)
        if config.base.prompt_template:
            load_codec(folder, model.vocab_size).with_template(config.base.prompt_template)
    data = task.source and (hub or not names_data_set(task.source))
    if names & {"sft", "rollout", "train"} and data:
        _ = context.train_examples
    if names & {"generate", "evaluate"} and (data or config.evaluate.prompt_file):
        _ = context.held_out
    if "generate" in names and config.decode.hmm:
        made = context.run.path / "sft" / "base"
        there = made if "sft" not in names and exists(made / CONFIG) else None
        load_of_base(config.decode.hmm, there, config.decode.hmm_head)
    _check_packages(context, names)


def _check_packages(context: Context, names: set[str]) -> None:
    """Raises InputError for an optional package that is needed and not installed."""
    config, needed = context.config, []
    if names & {"sft", "train"} and config.run.report_to == "tensorboard":
        what = f"run.report_to = {quote(config.run.report_to)}"
        needed.append((what, tensorboard.PACKAGE, tensorboard.EXTRA))
    for metric in context.task.metrics if "evaluate" in names else ():
        what = f"task {config.task.name} reports {metric.label}"
        needed.append((what, metric.package, metric.extra))
    for what, package, extra in needed:
        if package and importlib.util.find_spec(package) is None:
            raise InputError(f"{what}, and {package} is not installed: pip install '.[{extra}]'")


def _check(context: Context, names: set[str]) -> None:
    """Raises InputError for anything that would otherwise fail only after hours of training."""
    config = context.config
    _check_inputs(context, names, hub=True)
    _try_oracle(context, names)
    plan, sft, train = context.plan, config.sft, config.train
    if "sft" in names and sft.steps + sft.pretrain_steps:
        plan.check_batch("sft", sft.batch, sft.accumulate)
    if "train" in names:
        parts = max(objective.parts for _, objective in phases(train))
        plan.check_batch("train", train.batch, train.accumulate * parts)
    made = context.run.path / "sft" / "base"
    if "sft" in names:
        check_base(config, configured_model(config.base))
    elif names and exists(made / CONFIG):
        check_base(config, configured_model(replace(config.base, path=str(made))), tuned=True)


def _try_oracle(context: Context, names: set[str]) -> None:
    """Calls a user-defined oracle and features on two samples, if one of these stages uses them; a
    built-in one is asked whether it can judge the prompts of files.
    """
    if names & {"rollout", "train"} and context.task.source:
        for prompt in dict.fromkeys(row.prompt for row in context.train_examples[:_TRIED]):
            context.oracle.check_prompts({context.task.source: prompt})
    judging = []
    if names & {"rollout", "train", "generate"} and not context.oracle.built_in:
        judging.append((context.oracle_calls, LABELS))
    if names & {"rollout", "train", "evaluate"}:
        features = [each.function for each in context.features if not each.built_in]
        judging += [(each, FEATURES) for each in features]
    second = context.second_oracle if "evaluate" in names else None
    if second is not None and not second.built_in:
        judging.append((second.function, LABELS))
    if not judging:
        return
    # A built-in task makes as many examples as asked for: two at once, all of them in seconds.
    source, seed = context.task.source, context.config.seed
    rows = context.train_examples[:2] if source else context.task.examples("train", seed, 2)
    # References resemble the texts that the oracle will see.
    prompts = [row.prompt for row in rows]
    texts = [next(iter(row.references), text) for row, text in zip(rows, TRIAL_TEXTS)]
    for each, answers in judging:
        check_oracle(each, prompts, texts, answers)


def run_stages(
    config: Config,
    names: tuple[str, ...],
    path: Path | None = None,
    given: NamedOracle | None = None,
) -> None:
    """Runs the named stages, except those that are done.

    Args:
      path: the run's folder; None for run.folder/name.
      given: the oracle, if it was given as an object.

    Raises:
      InputError: if a stage's predecessor is missing or was done with another configuration.
    """
    assert_same("settings", json.dumps([config.as_dict(), names]))
    context = Context.of(config, path, given)
    run = context.run
    check_format(run.path)
    _check(context, {name for name in names if run.finished(name) is None})
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
                input_digests(name, context) if name in names else stage_input_digests(name, run)
            )
            run.check_inputs(name, inputs)
    print_progress(_own_settings(context))
    unfinished = [name for name in names if run.finished(name) is None]
    prompts = len(context.held_out) if "generate" in unfinished else 0
    with run.locked(), work_of(works(config, names, prompts)):
        for name in names:
            _do(context, name)


def _own_settings(context: Context) -> str:
    """Lists the settings of a run that differ from the defaults."""
    own, path = differences(context.config), context.run.path
    rest = "--print-config prints all of them, config.json keeps them"
    if not own:
        return f"{path}: all settings are the defaults ({rest})"
    return "\n  ".join([f"{path}: other settings than the defaults ({rest})", *own])


def _do(context: Context, name: str) -> None:
    """Runs a stage unless it is done, and prints a line about it."""
    run, inputs = context.run, input_digests(name, context)
    assert_same(f"inputs of {name}", json.dumps(inputs))
    run.check_inputs(name, inputs)
    fresh, label = run.finished(name) is None, reach(f"stage {name}")
    if fresh and label != name:
        print_progress(label)
    if fresh and is_main():
        run.stage_folder(name)
        write_json(run.path / "config.json", context.config.as_dict())
    record = run.run(name, lambda: _WORK[name](context), inputs)
    figures = stage_figures.as_dict(record.figures)
    figures = {key: value for key, value in figures.items() if not isinstance(value, dict)}
    done = f"done in {record.seconds:.0f} s" if fresh else "already done"
    print_progress(f"{name}: {done}  {json.dumps(figures)}")


def show_report(config: Config, path: Path | None = None) -> int:
    """Prints the report of a finished run and the paths of its files; returns the number of its
    warnings.

    Raises:
      InputError: if the run has no summary yet.
    """
    context = Context.of(config, path)
    folder = context.run.path
    if not exists(folder / "summary.json"):
        raise InputError(f"no summary.json in {folder}: {_EVALUATE}")
    summary = read_summary(folder / "summary.json", _EVALUATE)
    samples = [read_samples(folder / "generate" / f"{n}.jsonl") for n in ("base", "control")]
    streams.print_result(plain(summary, context.metrics, *samples))
    streams.print_result(f"\n{folder / 'summary.json'}\n{folder / 'report.html'}")
    return len(summary.warnings)


def load_run(path: str | Path) -> Controlled:
    """Loads the controlled model of a run whose train stage is done: base, control and tokenizer.

    Raises:
      InputError: if the folder holds no such run, or a damaged one.
    """
    config, path = run_config(path), Path(path)
    for name in ("sft", "train"):
        if not exists(path / name / "done.json"):
            raise InputError(
                f"stage {name} of {path} is not done: run the {name} stage first, or `dinado run`"
            )
    model, summary = controlled_model(config, path), path / "summary.json"
    if model.origin is None or not exists(summary):
        return model
    read = read_summary(summary, _EVALUATE)
    figures = Evaluation.of(read.base, read.control, read.floors).as_dict()
    return replace(model, origin=replace(model.origin, figures=figures))


def run_config(path: str | Path) -> Config:
    """Reads the settings of a run. InputError if the folder holds no run, or a damaged one."""
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
    fix = "write it again, `dinado run CONFIG --print-config --json` prints it"
    check_format(path)
    return stored_config(read_json(saved, fix), str(saved))


def controlled_model(config: Config, path: Path, given: NamedOracle | None = None) -> Controlled:
    """Loads the base under the trained control of a run, on one device.

    Args:
      path: the run's folder.
      given: the oracle, if it was given as an object.
    """
    one_device = replace(config, parallel=Parallel(devices=1))
    model = trained_model(Context.of(one_device, path, given))
    base = replace(model.base, max_new_tokens=config.decode.max_new_tokens)
    return replace(model, base=base)


def _is_run(folder: Path) -> bool:
    """Whether the folder has a config.json and at least one stage folder."""
    stages = any(exists(folder / name / "config.json") for name in STAGES)
    return stages and exists(folder / "config.json")
