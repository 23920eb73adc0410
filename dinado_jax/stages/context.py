"""What the stages of one command share; each part is resolved or read once."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh

from dinado_jax.automata.compiled import AutomataOf
from dinado_jax.config.schema import Config
from dinado_jax.data.text_files import read_text_lines
from dinado_jax.distributed.partitioning import Plan, local_mesh, make_plan
from dinado_jax.errors import InputError, quote
from dinado_jax.oracles.calls import Limited, Once
from dinado_jax.oracles.expression import find_oracle
from dinado_jax.oracles.judge import Oracle, is_success, judge, require_labels
from dinado_jax.oracles.moments import no_oracle
from dinado_jax.oracles.table import ORACLES, NamedOracle
from dinado_jax.stages.run_folder import RunFolder
from dinado_jax.tasks.protocol import Example, Metric, Task
from dinado_jax.tasks.table import make_task
from dinado_jax.utils.files import json_digest, read_lines
from dinado_jax.utils.tensorboard import Board

_NO_ORACLE = "none"


@dataclasses.dataclass(frozen=True)
class Context:
    """The shared state of a run: each part is resolved, read or placed on devices on first use, and
    cached.
    """

    run: RunFolder
    given: NamedOracle | None = None  # as an object, which rollout.oracle cannot name

    @classmethod
    def of(
        cls, config: Config, folder: Path | None = None, given: NamedOracle | None = None
    ) -> "Context":
        """Makes the context of a command.

        Args:
          folder: of the run; None for run.folder/name.
          given: the oracle, if it was given as an object.
        """
        return cls(RunFolder(folder or Path(config.run.folder) / config.name, config), given)

    @property
    def config(self) -> Config:
        return self.run.config

    @functools.cached_property
    def task(self) -> Task:
        """The task that the configuration names."""
        return make_task(self.config.task)

    @functools.cached_property
    def oracle(self) -> NamedOracle:
        """The oracle that the configuration names; otherwise the task's own, or none with
        target.moments.

        Raises:
          InputError: if it names none, or there is no such oracle.
        """
        if self.given is not None:
            return self.given
        name = self.oracle_name
        if not name:
            raise InputError(
                f"rollout.oracle is empty, and task {self.config.task.name} has no oracle of its "
                f'own: give {", ".join(ORACLES)}, "package.module:function" or an expression such '
                "as contains('dog') & length <= 12 (`dinado oracle list`)"
            )
        return NamedOracle(name, no_oracle) if name == _NO_ORACLE else find_oracle(name)

    @functools.cached_property
    def oracle_calls(self) -> Oracle:
        """The oracle as the stages call it: once for each text, in no more time than it may take.
        InputError if there is no such oracle, or it cannot be stopped.
        """
        function, seconds = self.oracle.function, self.config.rollout.oracle_seconds
        return Once(Limited(function, seconds) if seconds else function)

    @property
    def oracle_name(self) -> str:
        """The name of `oracle`, which need not be installed; "" if there is none."""
        if self.given is not None:
            return self.given.name
        if self.config.target.moments and not self.config.rollout.oracle:
            return _NO_ORACLE
        return self.config.rollout.oracle or self.task.oracle

    @functools.cached_property
    def features(self) -> tuple[NamedOracle, ...]:
        """The features of target.moments. InputError if there is no such function."""
        moments = self.config.target.moments
        return tuple(find_oracle(moment.feature, "feature") for moment in moments)

    @property
    def automata_of(self) -> AutomataOf | None:
        """What a control with state reads of a prompt; None for one without, whose oracle need not
        be installed.
        """
        return self.oracle.automata_of if self.config.control.state else None

    @functools.cached_property
    def plan(self) -> Plan:
        """The partitioning of arrays over the devices of all processes."""
        return make_plan(self.config.parallel)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices of this process, on which it decodes."""
        return local_mesh(self.plan)

    @functools.cached_property
    def train_examples(self) -> list[Example]:
        """The task's examples to train on. InputError if they cannot be read."""
        return self.task.examples("train", self.config.seed)

    @functools.cached_property
    def held_out(self) -> list[Example]:
        """The examples to generate for: of a prompt file, or of a split of the task.

        Raises:
          InputError: if they cannot be read, or the oracle cannot judge a prompt.
        """
        settings = self.config.evaluate
        if settings.prompt_file:
            return [Example(prompt, ()) for prompt in self.prompt_file.values()]
        return self.task.examples(settings.split, self.config.seed, settings.prompts)

    @functools.cached_property
    def prompt_file(self) -> dict[str, str]:
        """The prompts of evaluate.prompt_file by "FILE:LINE"; {} without a file."""
        if not self.config.evaluate.prompt_file:
            return {}
        path = Path(self.config.evaluate.prompt_file)
        lines = enumerate(map(str.strip, read_lines(path)), start=1)
        prompts = {f"{path}:{number}": line for number, line in lines if line}
        if not prompts:
            raise InputError(f"{path} holds no prompt: write one per line")
        for function in (self.oracle, *self.features):
            function.check_prompts(prompts)
        return prompts

    def board(self, name: str, resume_step: int) -> Board | None:
        """Where the log of that name is reported to, if run.report_to asks for that."""
        if self.config.run.report_to == "none":
            return None
        return Board(self.run.path / "tensorboard" / name, resume_step)

    def read_corpus(self) -> list[str]:
        """Reads the lines of sft.pretrain_path ([] without one). InputError if that fails.

        They are not cached: plain text may be large, and only one stage trains on it.
        """
        path = self.config.sft.pretrain_path
        return read_text_lines(path) if path else []

    @functools.cached_property
    def corpus_digest(self) -> str:
        """SHA-256 of the lines of `read_corpus`."""
        return json_digest(self.read_corpus())

    @functools.cached_property
    def second_oracle(self) -> NamedOracle | None:
        """That of evaluate.oracle, if there is one.

        Raises:
          InputError: if there is no such oracle, or it is the first one, or a classifier of it
            trained the control: what a control exploits in one, the same one cannot see.
        """
        name = self.config.evaluate.oracle
        if not name:
            return None
        found = find_oracle(name)
        if found.classifiers & self.oracle.classifiers:
            raise InputError(
                f"evaluate.oracle = {quote(name)} is the classifier of rollout.oracle = "
                f"{quote(self.oracle.name)}: give one that was trained on other texts, as "
                "`dinado oracle train` writes two"
            )
        if found.name == self.oracle.name:
            raise InputError(
                f"evaluate.oracle = {quote(name)} is rollout.oracle, and would say the same: give "
                "another one, or leave it out"
            )
        return found

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of the task, and the success rate by evaluate.oracle."""
        if not self.config.evaluate.oracle:
            return self.task.metrics
        return (*self.task.metrics, _success_by(self))

    @property
    def reported_metrics(self) -> tuple[tuple[Metric, bool], ...]:
        """The metrics of the task, and whether each can be computed in this run."""
        referenced = all(example.references for example in self.held_out)
        return tuple(
            (
                metric,
                (not metric.oracle or self.oracle.mentions(metric.oracle))
                and (referenced or not metric.needs_references),
            )
            for metric in self.metrics
        )

    @functools.cached_property
    def base_fingerprint(self) -> str:
        """Identifies the base that the sft stage wrote, by content.

        Raises:
          InputError: if the stage is not done, or its base has changed since.
        """
        return self.run.record("sft").digest


def _success_by(context: Context) -> Metric:
    """The success rate by evaluate.oracle; samples on which it fails are left out."""

    def measure(
        prompts: Sequence[str], texts: Sequence[str], references: Sequence[tuple[str, ...]]
    ) -> float:
        oracle = context.second_oracle
        assert oracle is not None
        result = judge(oracle.function, prompts, texts)
        require_labels(oracle.function, result)
        return float(is_success(result.labels[~result.failed]).mean())

    return Metric(
        "success_by_second_oracle",
        "success by evaluate.oracle",
        "{:.1%}",
        measure,
        meaning="How often an oracle says yes that the control was not trained with.",
    )
