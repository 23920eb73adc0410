"""Stage sft: a base that speaks the task's language, from a checkpoint or from scratch."""

import dataclasses
import functools
import zlib
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax

from dinado_jax.adapters.make import sft_adapter
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.config.schema import Sft
from dinado_jax.data.batching import Epochs
from dinado_jax.data.sequences import Sequences, sequences, windows
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.distributed.processes import assert_same, barrier, is_main
from dinado_jax.errors import InputError
from dinado_jax.evaluation.stage_figures import SftFigures
from dinado_jax.language_model import save_base
from dinado_jax.models.architectures import new_model
from dinado_jax.models.codec import Codec
from dinado_jax.models.dropout import Dropout
from dinado_jax.models.hf_folder import fingerprint
from dinado_jax.models.params import init_params
from dinado_jax.models.protocol import BaseModel
from dinado_jax.models.tokenizer import load_codec, train_codec
from dinado_jax.objectives.sft import likelihood, with_noise
from dinado_jax.stages.artifacts import load_base
from dinado_jax.stages.context import Context
from dinado_jax.stages.dropout import make_dropout, sample_text
from dinado_jax.tasks.protocol import Example, Task
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import Loop, Phase, restore_or_init
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.step import Step, TrainState, init_state, make_step
from dinado_jax.utils.files import read_sealed, write_sealed
from dinado_jax.utils.progress import MetricsLog, print_once

_SEAL = "seal.json"
_BPE_LINES = 100_000  # lines a new tokenizer is trained on
_PASSES = 30  # over the rows of a phase: with more a base learns them by heart


def _initial(context: Context, folder: Path, corpus: list[str]) -> tuple[BaseModel, dict, Codec]:
    """Returns the model, its placed parameters and the tokenizer to begin with.

    The tokenizer of a new model is trained once, and loaded when the stage is continued.
    """
    config, plan, examples = context.config, context.plan, context.train_examples
    if config.base.path:
        base = load_base(config.base, config.base.path, plan.shard)
        return base.model, base.params, base.codec
    made = folder / "tokenizer"
    if is_main() and not made.exists():
        pairs = (f"{example.prompt} {ref}" for example in examples for ref in example.references)
        lines = [*islice(pairs, _BPE_LINES), *corpus[:_BPE_LINES]]
        unfinished = folder / "tokenizer.partial"
        train_codec(lines, config.base.vocab_size).save(unfinished)
        write_sealed(unfinished / _SEAL, {"tokenizer": fingerprint(unfinished)})
        unfinished.replace(made)
    barrier("the tokenizer is made")
    again = f"delete the folder {folder} and run again"
    if read_sealed(made / _SEAL, again).get("tokenizer") != fingerprint(made):
        raise InputError(f"{made} has changed since it was made: put it back, or {again}")
    codec = load_codec(made).with_template(config.base.prompt_template)
    model = new_model(dataclasses.replace(config.base, vocab_size=len(codec.tokenizer)))
    return model, plan.init_sharded(partial(init_params, model, config.seed)), codec


def _rows(codec: Codec, examples: list[Example], max_length: int, task: Task) -> Sequences:
    """The references after their prompts. Those too long are cut into windows, where the task says
    so, or counted and left out.
    """
    pairs = [(example.prompt, ref) for example in examples for ref in example.references]
    if not pairs:
        raise InputError("this task has no references to train on: set sft.steps=0")
    prompts = codec.prompts([prompt for prompt, _ in pairs])
    targets = codec.targets([reference for _, reference in pairs])
    if task.windows:
        return windows(prompts, targets, codec.eos_id, max_length)
    rows = sequences(prompts, targets, codec.eos_id, max_length)
    if left_out := len(pairs) - len(rows):
        print_once(
            f"sft: {left_out} of {len(pairs)} examples are longer than {max_length} tokens, left "
            "out (sft.max_length, and at most the context of the base)"
        )
    return rows


def sft(context: Context) -> SftFigures:
    """Trains on pairs mined from plain text (if any), then on the task's own; writes sft/base."""
    config, plan, task = context.config, context.plan, context.task
    settings, folder = config.sft, context.run.stage_folder("sft")
    examples, corpus = context.train_examples, context.read_corpus()
    mine = task.mine or (lambda *_: [])  # load_config refuses to pretrain for a task without
    model, params, codec = _initial(context, folder, corpus)
    parameters, rows = sum(leaf.size for leaf in jax.tree.leaves(params)), {}
    adapter, frozen, trainable = None, None, params
    if adapted := sft_adapter(settings, model):
        adapter, model = adapted
        start = partial(adapter.init, jax.random.key(config.seed))
        frozen, trainable = params, plan.init_sharded(start, params)
    length = min(settings.max_length, model.context_length)
    dropout = None
    del params  # of the whole model the state has a copy
    for name, steps, pairs in (
        ("pretrain", settings.pretrain_steps, lambda: mine(corpus, examples, config.seed)),
        ("sft", settings.steps, lambda: examples),
    ):
        if not steps:
            continue
        batches = Epochs(_rows(codec, pairs(), length, task), settings.batch, config.seed)
        assert_same(f"rows of {name}", str(zlib.crc32(batches.rows.tokens.tobytes())))
        _warn_of_passes(name, steps * settings.batch, len(batches.rows))
        batch_at = batches.at
        if name == "sft" and settings.dropout != "none":
            text = partial(sample_text, corpus, batches.rows, codec, length, config.seed)
            whole = _whole(adapter, frozen, trainable, plan)
            dropout = make_dropout(settings, model, whole, text, plan, folder)
            del whole
            batch_at = with_noise(batches.at, config.seed)
        with Checkpoints(folder / f"checkpoints_{name}") as checkpoints:
            state = restore_or_init(checkpoints, plan, partial(_init, settings, steps), trainable)
            del trainable
            done = int(state.step)
            log = MetricsLog(folder / f"{name}.jsonl", done, context.board(name, done))
            loop = Loop(plan, settings.accumulate, config.run, checkpoints, log)
            step = _step(model, adapter, dropout, settings, steps, plan)
            phase = Phase(name, step, batch_at, 0, steps)
            trainable = loop.fit(phase, state, frozen).trainable
        rows[f"{name}_rows"] = len(batches.rows)
    params = plan.gather_to_host(_whole(adapter, frozen, trainable, plan))
    if is_main():
        save_base(folder / "base", model, params, codec)
    barrier("the base is saved")
    rates = None if dropout is None else dict(dropout.rates)
    return SftFigures(parameters, fingerprint(folder / "base"), **rows, dropout_rates=rates)


def _warn_of_passes(name: str, read: int, rows: int) -> None:
    if read > _PASSES * rows:
        key = "sft.pretrain_steps" if name == "pretrain" else "sft.steps"
        print_once(
            f"warning: {name} reads its {rows:,} rows {read / rows:.0f} times, which a base learns "
            f"by heart: lower {key}, or give more examples"
        )


def _whole(adapter: Adapter | None, frozen: Any, trainable: Any, plan: Plan) -> Any:
    """The model's parameters, with those of an adapter merged."""
    return trainable if adapter is None else plan.init_sharded(adapter.merge, frozen, trainable)


def _init(settings: Sft, steps: int, trainable: Any) -> TrainState:
    return init_state(trainable, optimizer(settings, steps))


@functools.lru_cache(8)
def _step(
    model: BaseModel,
    adapter: Adapter | None,
    dropout: Dropout | None,
    settings: Sft,
    steps: int,
    plan: Plan,
) -> Step:
    """A compiled step. Training that continues in the same process does not compile it again."""
    terms = partial(likelihood, model, adapter, dropout=dropout)
    return make_step(terms, optimizer(settings, steps), plan)
