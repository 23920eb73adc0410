"""Stage sft: a base that speaks the task's language, from a checkpoint or from scratch."""

import dataclasses
import zlib
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import jax

from dinado_jax import tasks, text
from dinado_jax.base import Base, load_gpt2, new_config, save_base
from dinado_jax.checkpoint import Checkpoints
from dinado_jax.config import Config
from dinado_jax.data import Epochs
from dinado_jax.errors import InputError
from dinado_jax.files import read_sealed, write_sealed
from dinado_jax.models.gpt2 import GPT2, init_params
from dinado_jax.objectives.sft import likelihood
from dinado_jax.optim import optimizer
from dinado_jax.parallel import Plan, make_plan
from dinado_jax.processes import assert_same, barrier, is_main
from dinado_jax.progress import MetricsLog
from dinado_jax.stages.folder import RunFolder
from dinado_jax.tasks.keywords import Example
from dinado_jax.tasks.mined import mine
from dinado_jax.tasks.text import read_text_lines as read_lines
from dinado_jax.train import init_state, make_step, restore_or_init, run_steps
from dinado_jax.weights import fingerprint

_SEAL = "seal.json"
_BPE_LINES = 100_000  # lines a new tokenizer is trained on


def _initial(
    config: Config, folder: Path, corpus: list[str], examples: list[Example], plan: Plan
) -> tuple:
    """Model, placed parameters and tokenizer to begin with; a tokenizer is made once."""
    if config.base.path:
        base = _loaded(config, config.base.path, plan.shard)
        return base.model, base.params, base.codec
    made = folder / "tokenizer"
    if is_main() and not made.exists():
        pairs = (f"{example.prompt} {ref}" for example in examples for ref in example.references)
        read_text_lines = [*islice(pairs, _BPE_LINES), *corpus[:_BPE_LINES]]
        unfinished = folder / "tokenizer.partial"
        text.train_codec(read_text_lines, config.base.vocab_size).save(unfinished)
        write_sealed(unfinished / _SEAL, {"tokenizer": fingerprint(unfinished)})
        unfinished.replace(made)
    barrier("the tokenizer is made")
    again = f"delete the folder {folder} and run again"
    if read_sealed(made / _SEAL, again).get("tokenizer") != fingerprint(made):
        raise InputError(f"{made} has changed since it was made: put it back, or {again}")
    codec = text.load_codec(made)
    gpt2 = dataclasses.replace(new_config(config.base), vocab_size=len(codec.tokenizer))
    return GPT2(gpt2), plan.init_sharded(partial(init_params, gpt2, config.seed)), codec


def _pairs(codec: text.Codec, examples: list[Example], max_length: int) -> text.Sequences:
    pairs = [(example.prompt, ref) for example in examples for ref in example.references]
    prompts = codec.prompts([prompt for prompt, _ in pairs])
    targets = codec.targets([reference for _, reference in pairs])
    return text.sequences(prompts, targets, codec.eos_id, max_length)


def sft(config: Config, run: RunFolder) -> dict:
    """Trains on pairs mined from plain text (if any), then on the task's own; leaves sft/base.

    Returns the stage's figures.
    """
    folder, plan = run.stage_folder("sft"), make_plan(config.parallel)
    corpus = read_lines(config.sft.pretrain_path) if config.sft.pretrain_path else []
    examples = tasks.examples(config.task, "train", config.seed)
    model, params, codec = _initial(config, folder, corpus, examples, plan)
    length = min(config.sft.max_length, model.config.n_positions)
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
            state = run_steps(
                name,
                make_step(terms, transform, plan),
                state,
                None,
                batches.at,
                steps,
                plan=plan,
                accumulate=config.sft.accumulate,
                run=config.run,
                checkpoints=checkpoints,
                log=MetricsLog(folder / f"{name}.jsonl", int(state.step)),
            )
        params = state.trainable
        figures[f"{name}_rows"] = len(batches.rows)
    params = plan.gather_to_host(params)
    if is_main():
        save_base(folder / "base", model, params, codec)
    barrier("the base is saved")
    return {**figures, "base": fingerprint(folder / "base")}


def trained_base(config: Config, run: RunFolder, place: Callable[[dict], dict]) -> Base:
    """The base the sft stage left, in the configured precision, placed from the host.

    InputError if it is not the one that stage left.
    """
    folder = run.path / "sft" / "base"
    base_fingerprint(run)  # refuses a base that has changed since
    return _loaded(config, folder, place)


def base_fingerprint(run: RunFolder) -> str:
    """The fingerprint of the base that the sft stage left. InputError if it is not done."""
    record = run.finished("sft")
    if record is None:
        raise InputError(f"stage sft is not done in {run.path}: run `dinado sft` or `dinado run`")
    return record["figures"]["base"]


def _loaded(config: Config, path: str | Path, place: Callable[[dict], dict]) -> Base:
    settings = config.base
    return load_gpt2(
        path,
        dtype=settings.dtype,
        param_dtype=settings.param_dtype,
        remat=settings.remat,
        place=place,
    )
