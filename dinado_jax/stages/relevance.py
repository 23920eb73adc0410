"""Which settings play a part in a run: a value given for one that does not is refused by name.

A setting plays a part where another value of it would change the result of the run, its speed or
its memory. `ALWAYS` and `RULES` name every key of the schema once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from dinado_jax.config import schema
from dinado_jax.config.schema import Config
from dinado_jax.controls.make import KINDS
from dinado_jax.objectives.table import OBJECTIVES, phases
from dinado_jax.tasks.table import TASKS, make_task


class Rule(NamedTuple):
    """Settings that play a part only in some runs."""

    keys: str
    plays: Callable[[Config], bool]
    # For messages. {readers} and {others} are the tasks or objectives that read the setting, and
    # those that do not.
    only: str


ALWAYS = """
name seed task.name base.path base.param_dtype base.dtype base.remat
base.prompt_template sft.steps sft.pretrain_steps
control.kind rollout.oracle rollout.prompts rollout.samples rollout.references
rollout.max_new_tokens rollout.batch
train.steps train.batch train.accumulate train.learning_rate train.warmup train.decay
train.weight_decay train.beta2 train.clip train.rounds train.warmup_direction
decode.max_new_tokens decode.batch decode.strength decode.reject
evaluate.samples evaluate.prompt_file parallel.mode parallel.fsdp parallel.devices
run.folder run.log_every run.save_every
"""


def _direction(config: Config) -> str:
    """Returns nado | soft | merge."""
    control = config.control
    return control.direction if control.kind == "hard" else control.kind


def _has_delta(config: Config) -> bool:
    direction = _direction(config)
    return direction == "merge" or (direction == "soft" and config.control.trunk == "low_rank")


def _has_low_rank(config: Config) -> bool:
    # Free changes win where both match.
    return _has_delta(config) and bool(config.delta.low_rank) and ".*" not in config.delta.full


def _has_new_blocks(config: Config) -> bool:
    direction = _direction(config)
    return direction == "nado" or (direction == "soft" and config.control.trunk == "small")


def _reads_states(config: Config) -> bool:
    """Whether a loss needs the frozen base: not the warm-up of a control that decodes alone."""
    control = config.control
    alone = control.kind == "merge" or (
        control.kind == "hard" and control.direction == "merge" and control.form == "clamped"
    )
    # Then it is cheaper from the states that enter the first layer of the delta.
    shared = _has_delta(config) and config.delta.from_layer > 0
    return _after_warmup(config) or not alone or shared


def _after_warmup(config: Config) -> bool:
    """Whether any step is left to the objective."""
    return config.train.warmup_direction < config.train.steps


def _of_task(setting: str) -> Callable[[Config], bool]:
    """Whether the task reads a setting of its section."""
    return lambda config: setting in make_task(config.task).settings_read


def _of_objectives(setting: str) -> Callable[[Config], bool]:
    """Whether an objective that has any steps, that of a warm-up included, reads a setting."""

    def plays(config: Config) -> bool:
        begin, read = 0, set()
        for end, objective in phases(config.train):
            read |= objective.settings_read(config.control.kind) if begin < end else set()
            begin = end
        return setting in read

    return plays


_weighs = _of_objectives("weights")
_weighs_references = _of_objectives("reference_weight")


def _has_bellman(config: Config) -> bool:
    train = config.train
    some = max(train.warmup_direction, train.bellman_start) < train.steps
    return config.control.kind != "hard" and some


def _sampling(name: str) -> tuple[Rule, ...]:
    """Returns the rules of a section, rollout or decode."""

    def temperature(config: Config) -> bool:
        settings = getattr(config, name)
        return settings.temperature == 0 or settings.top_k != 1

    def top_k(config: Config) -> bool:
        settings = getattr(config, name)
        fewer = config.base.path or settings.top_k < config.base.vocab_size
        return settings.temperature > 0 and bool(fewer)

    def top_p(config: Config) -> bool:
        settings = getattr(config, name)
        return settings.temperature > 0 and settings.top_k != 1

    return (
        Rule(f"{name}.temperature", temperature, f"with {name}.top_k=1 nothing is drawn"),
        Rule(
            f"{name}.top_k",
            top_k,
            f"it is for {name}.temperature above 0, and for less than the vocabulary",
        ),
        Rule(
            f"{name}.top_p",
            top_p,
            f"it is for {name}.temperature above 0 and another {name}.top_k than 1",
        ),
    )


RULES = (
    Rule("task.source", _of_task("source"), "it is for task.name={readers}"),
    Rule("task.train_examples", _of_task("train_examples"), "it is for task.name={readers}"),
    Rule(
        "base.vocab_size base.n_positions base.n_embd base.n_layer base.n_head",
        lambda c: not c.base.path,
        "it is for a new model, the checkpoint of base.path has its own",
    ),
    Rule(
        """
        sft.batch sft.accumulate sft.learning_rate sft.warmup sft.decay sft.weight_decay sft.beta2
        sft.clip sft.max_length
        """,
        lambda c: c.sft.steps + c.sft.pretrain_steps > 0,
        "it is for sft.steps or sft.pretrain_steps above 0",
    ),
    Rule(
        "sft.pretrain_path",
        lambda c: c.sft.pretrain_steps > 0 or not c.base.path,
        "it is for sft.pretrain_steps above 0, and for the tokenizer of a new model",
    ),
    Rule(
        "delta.rank delta.alpha",
        _has_low_rank,
        "it is for low-rank changes, which control.kind, control.trunk or delta.* leave out",
    ),
    Rule(
        "delta.low_rank delta.full delta.from_layer",
        _has_delta,
        "it is for merge, and for control.trunk=low_rank of soft",
    ),
    Rule(
        "control.direction control.form",
        lambda c: c.control.kind == "hard",
        "it is for control.kind=hard",
    ),
    Rule("control.trunk", lambda c: _direction(c) == "soft", "it is for soft"),
    Rule(
        "control.layers",
        _has_new_blocks,
        "it is for nado, and for control.trunk=small of soft",
    ),
    Rule(
        "control.norm_bias",
        lambda c: c.control.kind != "nado",
        "nado has no norm beside its head",
    ),
    *_sampling("rollout"),
    Rule(
        "train.objective",
        _after_warmup,
        "it is for the steps that train.warmup_direction leaves of train.steps",
    ),
    Rule(
        "train.refresh_prompts train.refresh_samples train.mixture",
        lambda c: c.train.rounds > 1,
        "it is for train.rounds of 2 or more",
    ),
    Rule(
        "train.margin",
        _of_objectives("margin"),
        "it is for train.objective={readers}, after the warm-up",
    ),
    Rule(
        "train.bellman",
        _has_bellman,
        "it is for other kinds than hard, after train.warmup_direction and train.bellman_start",
    ),
    Rule(
        "train.bellman_start",
        lambda c: (
            c.control.kind != "hard"
            and c.train.bellman > 0
            and c.train.warmup_direction < min(c.train.bellman_start, c.train.steps)
        ),
        "it is for other kinds than hard, train.bellman above 0 and steps after the warm-up",
    ),
    Rule(
        "train.weights",
        _weighs,
        "it is for a warm-up, and for objectives that weigh rollouts of this control.kind",
    ),
    Rule(
        "train.weight_clip",
        lambda c: c.train.weights == "importance" and _weighs(c),
        "it is for train.weights=importance, where the objective weighs rollouts",
    ),
    Rule(
        "train.reference_weight",
        lambda c: c.rollout.references and _weighs_references(c),
        "it is for rollout.references=true, in a warm-up or another objective than {others}",
    ),
    Rule(
        "train.balance",
        _of_objectives("balance"),
        "it is for other objectives than {others}, after the warm-up",
    ),
    Rule(
        "train.detach",
        _of_objectives("detach"),
        "it is for {readers}, a norm of its own (not nado), after the warm-up",
    ),
    Rule("train.base_states", _reads_states, "a warm-up alone does not read them"),
    *_sampling("decode"),
    Rule(
        "decode.target_rate",
        lambda c: c.decode.strength > 0,
        "it is for decode.strength above 0",
    ),
    Rule(
        "evaluate.split evaluate.prompts",
        lambda c: not c.evaluate.prompt_file,
        "evaluate.prompt_file stands for it",
    ),
)


def unused_settings(config: Config, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields those of the keys that play no part under a configuration, and what they are for."""
    rules = {key: rule for rule in RULES for key in rule.keys.split()}
    for key in keys:
        if key in rules and not rules[key].plays(config):
            yield key, _only(rules[key].only, key)


def _only(text: str, key: str) -> str:
    if "{" not in text:
        return text
    section, _, setting = key.partition(".")
    reads = {"task": _task_reads, "train": _objective_reads}[section](setting)
    readers = [name for name, does in reads.items() if does]
    others = [name for name, does in reads.items() if not does]
    return text.format(readers=_listed(readers), others=_listed(others))


def _task_reads(setting: str) -> dict[str, bool]:
    return {name: setting in make(schema.Task()).settings_read for name, make in TASKS.items()}


def _objective_reads(setting: str) -> dict[str, bool]:
    """Whether each objective reads a setting of `train`, for any kind of control."""
    return {
        name: any(setting in make(schema.Train()).settings_read(kind) for kind in KINDS)
        for name, make in OBJECTIVES.items()
    }


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
