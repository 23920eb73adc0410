"""Settings that contradict each other: each fault is one line that says how to fix it."""

import math
from collections.abc import Iterator

from dinado_jax.config.checks import CHAT, HIDDEN, PROMPT
from dinado_jax.config.schema import Base, Config
from dinado_jax.models.dropout import LEAST_RATE
from dinado_jax.objectives.table import phases
from dinado_jax.oracles.expression import find_oracle
from dinado_jax.oracles.table import NamedOracle
from dinado_jax.tasks.table import make_task

_MOST_PARAMETERS = 10**11  # 400 GB in float32
_MOST_TOKENS = 10**10  # of a batch, or of all rollouts of a round: 40 GB of ids alone


def contradictions(config: Config, given: NamedOracle | None = None) -> Iterator[str]:
    """Yields the faults of a configuration whose values are all in range.

    Args:
      given: the oracle, if it was given as an object.
    """
    yield from _of_objective(config)
    yield from _of_training(config)
    yield from _of_inputs(config)
    yield from _of_automata(config, given)
    yield from _of_particles(config)
    yield from _beyond_memory(config)
    if not config.base.path:  # otherwise the sizes are the checkpoint's
        yield from _of_a_new_base(config)


def _of_training(config: Config) -> Iterator[str]:
    sft, train, rollout = config.sft, config.train, config.rollout
    _, objective = phases(train)[-1]
    for name, section in (("sft", sft), ("train", train)):
        if section.batch % section.accumulate:
            yield (
                f"{name}.batch = {section.batch} is not divisible by {name}.accumulate = "
                f"{section.accumulate}: choose a multiple"
            )
    read = objective.settings_read(config.control.kind)
    # Rows are drawn by label and part of the batch, and each part is split into micro-batches.
    unit = math.lcm(4, 2 * train.accumulate, objective.parts * train.accumulate)
    if "balance" in read and train.batch % unit:
        yield (
            f"train.batch = {train.batch}: with objective {train.objective} and train.accumulate = "
            f"{train.accumulate} it must be a multiple of {unit}"
        )
    if train.warmup_direction > train.steps:
        yield (
            f"train.warmup_direction = {train.warmup_direction} is more than train.steps = "
            f"{train.steps}: lower it, 0 is no warm-up"
        )
    if train.held_out and train.held_out * rollout.prompts < 1:
        yield (
            f"train.held_out = {train.held_out} of rollout.prompts = {rollout.prompts} is less "
            "than one prompt: raise one of them, or set train.held_out=0"
        )
    for key, share in (("mixture", train.mixture), ("roll_out", train.roll_out)):
        if abs(share * train.refresh_samples - round(share * train.refresh_samples)) > 1e-6:
            yield (
                f"train.{key} = {share} of train.refresh_samples = {train.refresh_samples} is not "
                "a whole number of samples: change one of them"
            )
    if train.roll_out and train.mixture + train.roll_out >= 1:
        yield (
            f"train.mixture = {train.mixture} and train.roll_out = {train.roll_out} leave no "
            "sample that the control draws alone: lower one of them"
        )
    if train.mixture and (rollout.temperature != 1 or rollout.top_k or rollout.top_p < 1):
        yield (
            "train.mixture weights plain samples of base and control: leave rollout.temperature, "
            "rollout.top_k and rollout.top_p at their defaults, or set train.mixture=0"
        )
    if rollout.references and not objective.draws_references:
        if not train.reference_weight:
            yield (
                f"rollout.references = true, but objective {train.objective} draws no reference "
                "while train.reference_weight = 0: set train.reference_weight, or "
                "rollout.references=false"
            )
        else:
            yield (
                "rollout.references = true, but unbalanced labels draw no reference: set "
                "train.balance=true, or rollout.references=false"
            )


def _of_objective(config: Config) -> Iterator[str]:
    """Yields what the objective cannot train, or cannot train on."""
    train, rollout, control = config.train, config.rollout, config.control
    _, objective = phases(train)[-1]
    if control.direction_kind == "nado" and not objective.trains_nado:
        key = "control.direction" if control.kind == "hard" else "control.kind"
        yield (
            f"train.objective = {train.objective} needs a norm beside a direction that is not "
            f"nado's: set {key} to soft or merge, or choose another objective"
        )
    if control.kind == "hard" and not objective.trains_hard:
        yield (
            f"train.objective = {train.objective} learns R of every prefix, which control.kind = "
            "hard derives from q: choose another kind, or another objective"
        )
    for key, share in (("mixture", train.mixture), ("roll_out", train.roll_out)):
        if share and train.rounds > 1 and objective.on_policy:
            yield (
                f"train.objective = {train.objective} learns from samples of q alone: set "
                f"train.{key}=0, or choose another objective"
            )
    if min(rollout.samples, train.refresh_samples) < objective.least_samples:
        yield (
            f"train.objective = {train.objective} compares the samples of a prompt: set "
            f"rollout.samples and train.refresh_samples to {objective.least_samples} or more"
        )


def _of_inputs(config: Config) -> Iterator[str]:
    sft, task = config.sft, make_task(config.task)
    if config.parallel.fsdp > 1 and config.parallel.mode != "jit":
        yield (
            f"parallel.fsdp = {config.parallel.fsdp} requires parallel.mode=jit: set it, or "
            "parallel.fsdp=1"
        )
    if sft.pretrain_steps and not sft.pretrain_path:
        yield (
            "sft.pretrain_path is empty: give plain text, sft.pretrain_path=FILE, or leave it out "
            "with sft.pretrain_steps=0"
        )
    if sft.dropout == "guided" and sft.steps and not (config.base.path or sft.pretrain_steps):
        yield (
            "sft.dropout = guided: a new base has learned nothing that Fisher scores could "
            "measure, give base.path or sft.pretrain_steps, or choose another dropout"
        )
    if sft.dropout in ("uniform", "guided") and sft.dropout_rate < LEAST_RATE:
        yield (
            f"sft.dropout_rate = {sft.dropout_rate:g}: rates are multiples of 1/256, set "
            f"{LEAST_RATE:g} or more, or sft.dropout=none"
        )
    if sft.dropout == "gaussian" and sft.dropout_rate == 0:
        yield "sft.dropout_rate = 0: there is no noise, set more, or sft.dropout=none"
    if sft.pretrain_steps and task.mine is None:
        yield (
            f"sft.pretrain_steps = {sft.pretrain_steps}: task {config.task.name} makes no examples "
            "from plain text, set sft.pretrain_steps=0"
        )
    if task.fault:
        yield task.fault


def _of_automata(config: Config, given: NamedOracle | None) -> Iterator[str]:
    wanted = {"decode.guarantee": config.decode.guarantee, "control.state": config.control.state}
    own = "" if config.target.moments else make_task(config.task).oracle
    oracle = config.rollout.oracle or own
    known = given or (find_oracle(oracle) if any(wanted.values()) and oracle else None)
    missing = known.undecided if known else "no oracle"
    if known and missing not in ("", known.name):
        missing = f"{oracle}, of which {missing} has none"
    for key in [key for key, on in wanted.items() if on and missing]:
        yield (
            f"{key} = true needs an oracle with automata (lexical, or one of "
            f"dinado_jax.constraints), and this run has {missing}: set {key}=false, "
            "or choose such an oracle"
        )
    if config.base.prompt_template == HIDDEN and not any(wanted.values()):
        yield (
            f"base.prompt_template = {HIDDEN}: neither the base nor a control without state sees "
            "what a prompt asks for, set control.state=true, or decode.guarantee=true"
        )
    if config.decode.guarantee and config.decode.reject:
        yield (
            f"decode.reject = {config.decode.reject} may reject every token that decode.guarantee "
            "allows: set one of them to 0 or false"
        )


def _of_particles(config: Config) -> Iterator[str]:
    decode = config.decode
    for key, particles in (
        ("train.particles", config.train.particles),
        ("decode.particles", decode.particles),
    ):
        if particles == 1:
            yield f"{key} = 1: a particle alone is never replaced, give 2 or more, or 0 for none"
    if decode.particles and config.target.moments:
        yield (
            f"decode.particles = {decode.particles} chooses by the oracle, which target.moments "
            "change: set decode.particles=0"
        )
    if decode.particles and decode.reject:
        yield (
            f"decode.reject = {decode.reject} rules out texts that the oracle accepts, and the "
            "weights of decode.particles would be wrong: set one of them to 0"
        )


def _of_a_new_base(config: Config) -> Iterator[str]:
    base = config.base
    if base.prompt_template == CHAT:
        yield (
            f"base.prompt_template = {CHAT}: the tokenizer of a new model has no chat template, "
            f"write a text with {PROMPT} in it, or give an instruct model as base.path"
        )
    if (parameters := _parameters(base)) > _MOST_PARAMETERS:
        yield (
            f"base.n_layer = {base.n_layer}, base.n_embd = {base.n_embd} and base.vocab_size = "
            f"{base.vocab_size} make {parameters:,} parameters: at most {_MOST_PARAMETERS:,} "
            "fit, lower them"
        )
    if base.n_embd % base.n_head:
        yield (
            f"base.n_embd = {base.n_embd} is not divisible by base.n_head = {base.n_head}: "
            "choose a multiple"
        )
    for name, section in (("rollout", config.rollout), ("decode", config.decode)):
        if section.max_new_tokens >= base.n_positions:
            yield (
                f"{name}.max_new_tokens = {section.max_new_tokens} leaves no room for a prompt in "
                f"base.n_positions = {base.n_positions}: lower one or raise the other"
            )


def _parameters(base: Base) -> int:
    """Counts the parameters of a new model without biases and LayerNorms."""
    rows = 12 * base.n_layer * base.n_embd + base.vocab_size + base.n_positions
    return rows * base.n_embd


def _beyond_memory(config: Config) -> Iterator[str]:
    """Yields products of values that exceed the memory of any machine."""
    sft, rollout, train, decode = config.sft, config.rollout, config.train, config.decode
    for product in (
        {"sft.batch": sft.batch, "sft.max_length": sft.max_length},
        {
            "rollout.prompts": rollout.prompts,
            "rollout.samples": rollout.samples,
            "rollout.max_new_tokens": rollout.max_new_tokens,
        },
        {
            "train.refresh_prompts": train.refresh_prompts,
            "train.refresh_samples": train.refresh_samples,
            "rollout.max_new_tokens": rollout.max_new_tokens,
        },
        {
            "rollout.prompts": rollout.prompts,
            "train.particles": train.particles,
            "rollout.max_new_tokens": rollout.max_new_tokens,
        },
        {
            "evaluate.prompts": config.evaluate.prompts,
            "evaluate.samples": config.evaluate.samples,
            "decode.particles": max(1, decode.particles),
            "decode.max_new_tokens": decode.max_new_tokens,
        },
        {"rollout.batch": rollout.batch, "rollout.max_new_tokens": rollout.max_new_tokens},
        {"decode.batch": decode.batch, "decode.max_new_tokens": decode.max_new_tokens},
    ):
        if (tokens := math.prod(product.values())) > _MOST_TOKENS:
            factors = " times ".join(f"{key} = {value}" for key, value in product.items())
            yield f"{factors} is {tokens:,} tokens: at most {_MOST_TOKENS:,} fit, lower one"
