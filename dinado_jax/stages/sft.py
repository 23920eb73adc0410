"""Stage sft: a base that speaks the task's language, from a checkpoint or from scratch."""

import dataclasses
import zlib
from functools import partial
from itertools import islice
from pathlib import Path

import jax

from dinado_jax import tasks
from dinado_jax.config.schema import Config
from dinado_jax.data.batching import Epochs
from dinado_jax.data.sequences import Sequences, sequences
from dinado_jax.data.text_files import read_text_lines
from dinado_jax.distributed.partitioning import Plan, make_plan
from dinado_jax.distributed.processes import assert_same, barrier, is_main
from dinado_jax.errors import InputError
from dinado_jax.language_model import save_base
from dinado_jax.models.architectures import new_model
from dinado_jax.models.hf_folder import fingerprint
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import Codec, load_codec, train_codec
from dinado_jax.objectives.sft import likelihood
from dinado_jax.stages.artifacts import load_base
from dinado_jax.stages.run_folder import RunFolder
from dinado_jax.tasks.keyword.format import Example
from dinado_jax.tasks.keyword.mining import mine
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import (
    Loop,
    Phase,
    init_state,
    make_step,
    restore_or_init,
)
from dinado_jax.training.optimizer import optimizer
from dinado_jax.utils.files import read_sealed, write_sealed
from dinado_jax.utils.progress import MetricsLog

_SEAL = "seal.json"
_BPE_LINES = 100_000  # lines a new tokenizer is trained on


def _initial(
    config: Config, folder: Path, corpus: list[str], examples: list[Example], plan: Plan
) -> tuple:
    """Model, placed parameters and tokenizer to begin with; a tokenizer is made once."""
    if config.base.path:
        base = load_base(config, config.base.path, plan.shard)
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
    codec = load_codec(made)
    model = new_model(dataclasses.replace(config.base, vocab_size=len(codec.tokenizer)))
    return model, plan.init_sharded(partial(init_params, model, config.seed)), codec


def _pairs(codec: Codec, examples: list[Example], max_length: int) -> Sequences:
    pairs = [(example.prompt, ref) for example in examples for ref in example.references]
    prompts = codec.prompts([prompt for prompt, _ in pairs])
    targets = codec.targets([reference for _, reference in pairs])
    return sequences(prompts, targets, codec.eos_id, max_length)


def sft(config: Config, run: RunFolder) -> dict:
    """Trains on pairs mined from plain text (if any), then on the task's own; leaves sft/base.

    Returns the stage's figures.
    """
    folder, plan = run.stage_folder("sft"), make_plan(config.parallel)
    corpus = read_text_lines(config.sft.pretrain_path) if config.sft.pretrain_path else []
    examples = tasks.examples(config.task, "train", config.seed)
    model, params, codec = _initial(config, folder, corpus, examples, plan)
    length = min(config.sft.max_length, model.context_length)
    phases = [
        (
            "pretrain",
            config.sft.pretrain_steps,
            lambda: _pairs(codec, mine(corpus, examples, config.seed), length),
        )
    ]
    phases += [("sft", config.sft.steps, lambda: _pairs(codec, examples, length))]
    figures = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}

    def terms(trainable, _, batch):
        return likelihood(model, trainable, batch)

    for name, steps, rows in phases:
        if not steps:
            continue
        transform = optimizer(config.sft, steps)
        batches = Epochs(rows(), config.sft.batch, config.seed)
        assert_same(f"rows of {name}", str(zlib.crc32(batches.rows.tokens)))
        with Checkpoints(folder / f"checkpoints_{name}") as checkpoints:
            state = restore_or_init(
                checkpoints, plan, partial(init_state, optimizer=transform), params
            )
            del params  # the state has its own
            log = MetricsLog(folder / f"{name}.jsonl", int(state.step))
            loop = Loop(plan, config.sft.accumulate, config.run, checkpoints, log)
            phase = Phase(name, make_step(terms, transform, plan), batches.at, 0, steps)
            state = loop.fit(phase, state, None)
        params = state.trainable
        figures[f"{name}_rows"] = len(batches.rows)
    params = plan.gather_to_host(params)
    if is_main():
        save_base(folder / "base", model, params, codec)
    barrier("the base is saved")
    return {**figures, "base": fingerprint(folder / "base")}
