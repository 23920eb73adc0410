"""`dinado denoise`: a masked language model is trained, made a writer of pairs, and writes."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinado_jax.cli.exits import diverging
from dinado_jax.cli.fields import add_fields, given
from dinado_jax.cli.own_prompts import check_file, give
from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.denoising.settings import Decoding, Parts, Sizes
from dinado_jax.distributed import signals
from dinado_jax.errors import InputError, escape
from dinado_jax.training.settings import Training
from dinado_jax.utils import streams

if TYPE_CHECKING:
    from dinado_jax.denoising.ranking import Written
    from dinado_jax.distributed.partitioning import Plan
    from dinado_jax.models.bert_checkpoint import MaskedModel
    from dinado_jax.tasks.protocol import Example

_OWN = "training"  # the folder of a training within that of its results
_PAIRS = ".jsonl, .csv or .tsv with the columns prompt and target, or a CONFIG with a task"
_TRAINING = {
    "steps": "of the training", "batch": "rows of a step", "learning-rate": "peak",
    "warmup": "steps of linear increase", "weight-decay": "of matrices",
    "save-every": "steps between checkpoints", "seed": "of everything",
}  # fmt: skip
_SIZES = {
    "layers": "", "width": "", "heads": "", "positions": "tokens of the longest row, ends included",
    "vocabulary": "tokens of its tokenizer, at most",
}  # fmt: skip
_DECODING = {
    "steps": "passes over all positions, the last one greedy",
    "temperature": "of all steps but the last; 0 is greedy",
    "share": "of a text's positions that the steps between draw again",
    "order": "which positions these are, confidence (the least likely) or random",
    "lengths": "the likeliest ones of each prompt",
    "samples": "texts of each length",
}


def add(commands: Commands) -> None:
    """Adds the command."""
    denoise = commands.add_parser("denoise", help="a masked language model that writes")
    kinds = denoise.add_subparsers(dest="what", required=True, metavar="WHAT")
    _add_pretrain(kinds)
    _add_distil(kinds)
    _add_train(kinds)
    _add_write(kinds)


def _add_pretrain(kinds: Commands) -> None:
    text = "train a masked language model on texts or pairs; the same command continues"
    command = add_command(kinds, "pretrain", _pretrain, text)
    files = "a text per line, or pairs, whose sides then see each other"
    command.add_argument("texts", type=Path, nargs="+", metavar="FILE", help=files)
    command.add_argument(
        "--mask-rate", type=float, metavar="X", help="share of tokens that are masked (0.15)"
    )
    _add_model(command, "a masked language model to train further")


def _add_distil(kinds: Commands) -> None:
    text = "write pairs whose texts are an autoregressive model's, which are easier to learn"
    command = add_command(kinds, "distil", _distil, text)
    command.add_argument("pairs", type=Path, metavar="FILE", help=_PAIRS)
    command.add_argument(
        "--base", required=True, metavar="BASE", help="a model that has learned the pairs"
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="new pairs, .jsonl"
    )
    command.add_argument("--max-new-tokens", type=int, metavar="N", help="of a text (32)")
    command.add_argument("--batch", type=int, default=64, metavar="N", help="prompts at once (64)")


def _add_train(kinds: Commands) -> None:
    text = "train a denoiser on pairs of prompt and text; the same command continues"
    command = add_command(kinds, "train", _train, text)
    command.add_argument("pairs", type=Path, metavar="FILE", help=_PAIRS)
    _add_model(command, "the masked language model that encoder and decoder begin as")
    command.add_argument(
        "--max-length", type=int, metavar="N", help="tokens of the longest text (as positions have)"
    )
    for side in ("encoder", "decoder"):
        help = "the first ones of the model (all)"
        command.add_argument(f"--{side}-layers", type=int, metavar="N", help=help)
    command.add_argument(
        "--unrolls", type=int, metavar="N", help="passes of the loss from each corrupted text (2)"
    )


def _add_model(command: argparse.ArgumentParser, model: str) -> None:
    """Adds what both trainings read."""
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the model")
    command.add_argument("--model", metavar="MODEL", help=f"{model}, a folder or hub name")
    add_fields(command.add_argument_group("training"), Training(), _TRAINING)
    group = command.add_argument_group("a new model, without --model")
    add_fields(group, Sizes(), _SIZES)


def _add_write(kinds: Commands) -> None:
    text = "write a text for each prompt, all of its positions at once"
    command = add_command(kinds, "write", _write, text)
    command.add_argument("model", type=Path, metavar="DIR", help="of `dinado denoise train`")
    command.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    command.add_argument("--prompts", type=Path, metavar="FILE", help="one per line, or .jsonl")
    add_fields(command.add_argument_group("decoding"), Decoding(), _DECODING)
    command.add_argument(
        "--base", metavar="BASE", help="an autoregressive model that ranks the candidates"
    )
    command.add_argument("--oracle", metavar="ORACLE", help="that the texts should satisfy")
    command.add_argument("--batch", type=int, default=32, metavar="N", help="prompts at once (32)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="(0)")
    command.add_argument(
        "--json", action="store_true", help="a line each, with all candidates, the best first"
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write the texts to a file")


def _pretrain(args: argparse.Namespace) -> None:
    from dinado_jax.denoising.pretraining import pretrain
    from dinado_jax.distributed.processes import barrier, is_main

    plan, training = _begin(args), Training(**given(args, _TRAINING))
    lines = [line for file in args.texts for line in _lines(file)]
    masked = _masked(args, _texts(lines))
    rate = {} if args.mask_rate is None else {"mask_rate": args.mask_rate}
    with diverging():
        made = pretrain(lines, masked, training, folder=args.out / _OWN, plan=plan, **rate)
    if is_main():
        made.save(args.out)
        streams.print_result(f"use: dinado denoise train PAIRS --model {escape(str(args.out))}")
    barrier("the masked language model is saved")


def _distil(args: argparse.Namespace) -> None:
    from dinado_jax.denoising.distillation import distil
    from dinado_jax.loading import load_base

    if args.out.suffix != ".jsonl":
        raise InputError(f"--out {escape(str(args.out))}: pairs are written as .jsonl, name it so")
    check_file(args.out, args.pairs)
    examples, base = _examples(args.pairs), load_base(args.base)
    made = distil(base, examples, max_new_tokens=args.max_new_tokens, batch=args.batch)
    lines = [json.dumps({"prompt": one.prompt, "target": one.references[0]}) for one in made]
    give("\n".join(lines), args.out)


def _train(args: argparse.Namespace) -> None:
    from dinado_jax.denoising.folder import write_denoiser
    from dinado_jax.denoising.writer import fit_writer
    from dinado_jax.distributed.processes import barrier, is_main

    plan, training = _begin(args), Training(**given(args, _TRAINING))
    examples = _examples(args.pairs)
    masked = _masked(args, _texts(examples))
    parts = Parts(args.max_length, args.encoder_layers, args.decoder_layers)
    unrolls = {} if args.unrolls is None else {"unrolls": args.unrolls}
    folder = args.out / _OWN
    with diverging():
        writer = fit_writer(masked, examples, training, parts, folder=folder, plan=plan, **unrolls)
    if is_main():
        write_denoiser(args.out, writer.denoiser, writer.params, writer.codec)
        where = escape(str(args.out))
        streams.print_result(f"{writer!r}\nuse: dinado denoise write {where} --prompts FILE")
    barrier("the denoiser is saved")


def _begin(args: argparse.Namespace) -> "Plan":
    """The devices; the folder of the results is checked."""
    from dinado_jax.config.schema import Parallel
    from dinado_jax.distributed import processes
    from dinado_jax.distributed.partitioning import make_plan
    from dinado_jax.training.standalone import require_own

    processes.connect()
    signals.install_handlers()
    if args.model is not None and args.out.resolve() == Path(args.model).resolve():
        raise InputError(f"--out {escape(str(args.out))} is --model: name another folder")
    require_own(args.out, args.out / _OWN)
    return make_plan(Parallel())


def _masked(args: argparse.Namespace, texts: list[str]) -> "MaskedModel":
    """The model to begin with."""
    from dinado_jax.denoising.pretraining import new_masked
    from dinado_jax.models.bert_checkpoint import load_masked

    sizes = given(args, _SIZES)
    if args.model is None:
        return new_masked(texts, Sizes(**sizes), 0 if args.seed is None else args.seed)
    if sizes:
        flag = next(iter(sizes))
        raise InputError(f"--{flag} is of a new model, and --model has its own: leave out one")
    return load_masked(args.model)


def _lines(file: Path) -> "Sequence[str | Example]":
    """The texts of a file, or its pairs."""
    from dinado_jax.data.records import is_table
    from dinado_jax.utils.files import read_lines

    if is_table(file) or file.suffix == ".toml":
        return _examples(file)
    lines = read_lines(file, "give a text per line")
    if not any(map(str.strip, lines)):
        raise InputError(f"{file} is empty: give a text per line")
    return lines


def _texts(lines: "Sequence[str | Example]") -> list[str]:
    """The texts of lines, those of both sides of pairs."""
    found: list[str] = []
    for line in lines:
        found += [line] if isinstance(line, str) else [line.prompt, *line.references]
    return found


def _examples(file: Path) -> "list[Example]":
    """The pairs of a file, or those of the task of a configuration."""
    from dinado_jax.tasks.pairs import read_pairs

    if file.suffix != ".toml":
        return read_pairs(file)
    from dinado_jax.stages.settings import load_config
    from dinado_jax.tasks.table import make_task

    config = load_config(file, ())
    return make_task(config.task).examples("train", config.seed)


def _write(args: argparse.Namespace) -> None:
    from dinado_jax.denoising.writer import load_writer
    from dinado_jax.loading import load_base
    from dinado_jax.tasks.prompts import read_prompts

    settings = given(args, _DECODING)
    decoding = Decoding(**settings)
    for name, idle in decoding.idle.items():
        if name in settings:
            raise InputError(f"--{name} has no effect {idle}: leave it out")
    if args.out:
        check_file(args.out, args.prompts)
    prompts = [*(args.prompt or []), *(read_prompts(args.prompts) if args.prompts else [])]
    if not prompts:
        raise InputError("no prompts given: --prompt TEXT, or --prompts FILE with one per line")
    writer = load_writer(args.model)
    base = None if args.base is None else load_base(args.base)
    how = {"rerank": base, "oracle": args.oracle, "batch": args.batch, "seed": args.seed}
    written = writer.write(prompts, decoding, **how)
    # A text may have line ends, and every prompt has one line.
    lines = [_as_json(one) if args.json else " ".join(one.text.split()) for one in written]
    give("\n".join(lines), args.out)


def _as_json(one: "Written") -> str:
    """A line: prompt, text, and all candidates with their scores (nats) and labels."""
    candidates = []
    for each in one.candidates:
        label = {} if each.label is None else {"label": round(each.label, 4)}
        figures = {"score": round(each.score, 4), "tokens": len(each.tokens), **label}
        candidates.append({"text": each.text, **figures})
    return json.dumps({"prompt": one.prompt, "text": one.text, "candidates": candidates})
