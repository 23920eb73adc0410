"""Finds settings that have no effect under the given configuration, so that they can be rejected.

A setting has an effect if another value of it would change the result of the run, its speed or its
memory. `ALWAYS` and `RULES` name every key of the schema once.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from dinado_jax.adapters.make import has_adapter, has_positions
from dinado_jax.config import schema
from dinado_jax.config.schema import Config
from dinado_jax.controls.make import KINDS
from dinado_jax.objectives.table import OBJECTIVES, phases
from dinado_jax.tasks.table import TASKS, make_task


class Rule(NamedTuple):
    """Settings that have an effect only in some runs."""

    keys: str
    applies: Callable[[Config], bool]
    # For messages: when it applies. {readers} and {others} stand for the tasks or objectives that
    # read the setting, and those that do not.
    only: str


ALWAYS = """
name seed task.name base.path base.param_dtype base.dtype base.remat
base.prompt_template sft.steps sft.pretrain_steps
control.kind control.state rollout.oracle rollout.oracle_seconds rollout.prompts rollout.samples
rollout.references rollout.max_new_tokens rollout.batch target.moments
train.steps train.batch train.accumulate train.learning_rate train.warmup train.decay
train.weight_decay train.beta2 train.clip train.rounds train.held_out train.average
train.warmup_direction train.strict
decode.max_new_tokens decode.batch decode.strength decode.reject decode.guarantee
decode.particles evaluate.samples evaluate.prompt_file evaluate.oracle
parallel.mode parallel.fsdp parallel.devices run.folder run.log_every run.save_every
run.report_to
"""


def _has_sft(config: Config) -> bool:
    return config.sft.steps + config.sft.pretrain_steps > 0


def _guided(config: Config) -> bool:
    return config.sft.steps > 0 and config.sft.dropout == "guided"


def _has_delta(config: Config) -> bool:
    return has_adapter(config.control)


def _has_lora(config: Config) -> bool:
    return _has_delta(config) and config.delta.kind == "lora"


def _has_low_rank(config: Config) -> bool:
    # delta.full wins where both match.
    return _has_lora(config) and bool(config.delta.low_rank) and ".*" not in config.delta.full


def _has_new_blocks(config: Config) -> bool:
    direction = config.control.direction_kind
    return direction == "nado" or (direction == "soft" and config.control.trunk == "small")


def _reads_states(config: Config) -> bool:
    """Whether a loss needs the frozen base; the warm-up of a single-pass control does not."""
    control = config.control
    single_pass = control.kind == "merge" or (
        control.kind == "hard" and control.direction == "merge" and control.form == "clamped"
    )
    # A delta on upper layers reads the states that enter the first of them.
    shared = _has_lora(config) and config.delta.from_layer > 0
    return _after_warmup(config) or not single_pass or shared


def _after_warmup(config: Config) -> bool:
    """Whether any step follows the warm-up."""
    return config.train.warmup_direction < config.train.steps


def _plain_samples(config: Config) -> bool:
    return not config.decode.particles


def _of_task(setting: str) -> Callable[[Config], bool]:
    """Whether the task reads a setting of its section."""
    return lambda config: setting in make_task(config.task).settings_read


def _of_objectives(setting: str) -> Callable[[Config], bool]:
    """Whether an objective with any steps, or the warm-up, reads a setting."""

    def applies(config: Config) -> bool:
        begin, read = 0, set()
        for end, objective in phases(config.train):
            read |= objective.settings_read(config.control.kind) if begin < end else set()
            begin = end
        return setting in read

    return applies


_weights_rollouts = _of_objectives("weights")
_weights_references = _of_objectives("reference_weight")


def _has_bellman(config: Config) -> bool:
    train = config.train
    some = max(train.warmup_direction, train.bellman_start) < train.steps
    return _of_objectives("bellman")(config) and some


def _sampling(
    name: str, plain: Callable[[Config], bool] = lambda c: True, where: str = ""
) -> tuple[Rule, ...]:
    """Returns the rules of a section, rollout or decode.

    Args:
      plain: whether samples are drawn token by token from the distribution itself.
      where: the same, for messages.
    """
    of = operator.attrgetter(name)

    def top_k(config: Config) -> bool:
        fewer = config.base.path or of(config).top_k < config.base.vocab_size
        return of(config).temperature > 0 and bool(fewer)

    return (
        Rule(
            f"{name}.temperature",
            lambda c: plain(c) and (of(c).temperature == 0 or of(c).top_k != 1),
            f"only for {name}.top_k other than 1, which is greedy{where}",
        ),
        Rule(
            f"{name}.top_k",
            lambda c: plain(c) and top_k(c),
            f"only for {name}.temperature above 0, and less than the vocabulary{where}",
        ),
        Rule(
            f"{name}.top_p",
            lambda c: plain(c) and of(c).temperature > 0 and of(c).top_k != 1,
            f"only for {name}.temperature above 0 and {name}.top_k other than 1{where}",
        ),
    )


_NAMED = "only for .jsonl, .csv, .tsv or a data set"

RULES = (
    Rule("task.source", _of_task("source"), "only for task.name={readers}"),
    Rule("task.languages", _of_task("languages"), "only for task.name={readers}"),
    Rule("task.dev", _of_task("dev"), "only for task.name={readers}"),
    Rule("task.test", _of_task("test"), "only for task.name={readers}"),
    Rule(
        "task.held_out",
        _of_task("held_out"),
        "only for task.name={readers}, without files by task.dev and task.test",
    ),
    Rule("task.field", _of_task("field"), f"{_NAMED} of task.name=prompts and pairs"),
    Rule("task.target_field", _of_task("target_field"), f"{_NAMED} of task.name=pairs"),
    Rule("task.text_field", _of_task("text_field"), f"{_NAMED} of task.name=text"),
    Rule("task.document", _of_task("document"), "only for text files of task.name=text"),
    Rule("task.train_examples", _of_task("train_examples"), "only for task.name={readers}"),
    Rule(
        "base.vocab_size base.n_positions base.n_embd base.n_layer base.n_head",
        lambda c: not c.base.path,
        "only for a new model; base.path has its own",
    ),
    Rule(
        """
        sft.batch sft.accumulate sft.learning_rate sft.warmup sft.decay sft.weight_decay sft.beta2
        sft.clip sft.max_length sft.adapter
        """,
        _has_sft,
        "only for sft.steps or sft.pretrain_steps above 0",
    ),
    Rule(
        "sft.rank",
        lambda c: _has_sft(c) and c.sft.adapter == "lora",
        "only for sft.adapter=lora, and sft.steps or sft.pretrain_steps above 0",
    ),
    Rule(
        "sft.positions sft.shift",
        lambda c: _has_sft(c) and c.sft.adapter in ("prefix", "prompt"),
        "only for sft.adapter=prefix or prompt, and sft.steps or sft.pretrain_steps above 0",
    ),
    Rule(
        "sft.pretrain_path",
        lambda c: c.sft.pretrain_steps > 0 or not c.base.path or _guided(c),
        "only for sft.pretrain_steps above 0, the tokenizer of a new model or sft.dropout=guided",
    ),
    Rule("sft.dropout", lambda c: c.sft.steps > 0, "only for sft.steps above 0"),
    Rule(
        "sft.dropout_rate",
        lambda c: c.sft.steps > 0 and c.sft.dropout != "none",
        "only for sft.steps above 0 and sft.dropout other than none",
    ),
    Rule(
        "delta.rank delta.alpha",
        _has_low_rank,
        "only for low-rank changes; control.kind, control.trunk or delta.* exclude them",
    ),
    Rule(
        "delta.kind",
        _has_delta,
        "only for merge, and for soft with control.trunk=low_rank",
    ),
    Rule(
        "delta.low_rank delta.full delta.from_layer",
        _has_lora,
        "only for delta.kind=lora, and merge or soft with control.trunk=low_rank",
    ),
    Rule(
        "delta.positions delta.shift",
        has_positions,
        "only for delta.kind=prefix or prompt, and merge or soft with control.trunk=low_rank",
    ),
    Rule(
        "control.direction control.form",
        lambda c: c.control.kind == "hard",
        "only for control.kind=hard",
    ),
    Rule("control.trunk", lambda c: c.control.direction_kind == "soft", "only for soft"),
    Rule(
        "control.layers",
        _has_new_blocks,
        "only for nado, and for soft with control.trunk=small",
    ),
    Rule(
        "control.norm control.norm_bias",
        lambda c: c.control.kind != "nado",
        "nado has no separate norm",
    ),
    Rule(
        "control.norm_layers",
        lambda c: c.control.kind != "nado" and c.control.norm == "trunk",
        "only for control.norm=trunk",
    ),
    *_sampling("rollout"),
    Rule(
        "train.objective",
        _after_warmup,
        "only for steps after train.warmup_direction",
    ),
    Rule(
        "train.refresh_prompts train.refresh_samples",
        lambda c: c.train.rounds > 1 or (c.control.state and c.train.table_rounds > 0),
        "only for train.rounds of 2 or more, or train.table_rounds of 1 or more",
    ),
    Rule(
        "train.mixture train.roll_out",
        lambda c: c.train.rounds > 1,
        "only for train.rounds of 2 or more",
    ),
    Rule(
        "train.table_rounds",
        lambda c: c.control.state,
        "only for control.state=true",
    ),
    Rule(
        "train.particles",
        lambda c: c.control.state and _of_objectives("particles")(c),
        "only for control.state=true and train.objective={readers}, after the warm-up",
    ),
    Rule(
        "train.margin",
        _of_objectives("margin"),
        "only for train.objective={readers}, after the warm-up",
    ),
    Rule(
        "train.prefix_bound",
        lambda c: c.control.state and _of_objectives("bound")(c),
        "only for control.state=true and train.objective={readers}, after the warm-up",
    ),
    Rule(
        "train.state_learning_rate",
        lambda c: c.control.state,
        "only for control.state=true",
    ),
    Rule(
        "train.anchor train.bound",
        _of_objectives("bound"),
        "only for train.objective={readers}, after the warm-up",
    ),
    Rule(
        "train.bellman",
        _has_bellman,
        "only for kinds and objectives that read it, after train.warmup_direction and "
        "train.bellman_start",
    ),
    Rule(
        "train.bellman_start",
        lambda c: (
            _of_objectives("bellman")(c)
            and c.train.bellman > 0
            and c.train.warmup_direction < min(c.train.bellman_start, c.train.steps)
        ),
        "only for kinds and objectives that read train.bellman, train.bellman above 0 and steps "
        "after the warm-up",
    ),
    Rule(
        "train.weights",
        _weights_rollouts,
        "only for a warm-up, and objectives that weight rollouts for this control.kind",
    ),
    Rule(
        "train.weight_clip",
        lambda c: c.train.weights == "importance" and _of_objectives("weight_clip")(c),
        "only for train.weights=importance, where whole rows are weighted: in a warm-up, or by "
        "objective {readers}",
    ),
    Rule(
        "train.reference_weight",
        lambda c: c.rollout.references and _weights_references(c),
        "only for rollout.references=true, in a warm-up or an objective other than {others}",
    ),
    Rule(
        "train.balance",
        _of_objectives("balance"),
        "only for objectives other than {others}, after the warm-up",
    ),
    Rule(
        "train.detach",
        _of_objectives("detach"),
        "only for {readers} with a separate norm (not nado), after the warm-up",
    ),
    Rule("train.base_states", _reads_states, "the warm-up does not read them"),
    *_sampling("decode", _plain_samples, ", and decode.particles=0"),
    Rule("decode.hmm", lambda c: c.decode.guarantee, "only for decode.guarantee=true"),
    Rule("decode.hmm_head", lambda c: bool(c.decode.hmm), "only for a decode.hmm"),
    Rule(
        "decode.target_rate",
        lambda c: c.decode.strength > 0 and not c.target.moments and _plain_samples(c),
        "only for decode.strength above 0 and an oracle without target.moments, and "
        "decode.particles=0",
    ),
    Rule(
        "evaluate.strengths",
        lambda c: not c.evaluate.strengths or (_plain_samples(c) and not c.target.moments),
        "only for an oracle without target.moments, and decode.particles=0",
    ),
    Rule(
        "evaluate.split evaluate.prompts",
        lambda c: not c.evaluate.prompt_file,
        "evaluate.prompt_file replaces it",
    ),
)


def unused_settings(config: Config, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the keys that have no effect under a configuration, and when they would have."""
    rules = {key: rule for rule in RULES for key in rule.keys.split()}
    for key in keys:
        if key in rules and not rules[key].applies(config):
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
