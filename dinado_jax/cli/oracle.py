"""`dinado oracle check` calls an oracle as a run does, and shows what it says; `list` prints names;
`train` makes one of labelled texts.
"""

import argparse
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.data.records import has_objects
from dinado_jax.errors import InputError, escape
from dinado_jax.utils import streams
from dinado_jax.utils.files import (
    new_folder,
    parse_json,
    read_lines,
    validate,
)

if TYPE_CHECKING:
    from dinado_jax.classifiers.make import Made
    from dinado_jax.oracles.judge import Oracle, OracleResult

_PROMPT = "dog chase kite ="  # any oracle can judge it, the lexical one too
_TEXTS = ("A dog chased the kites.", "And another one!")
_ALONE = 20  # texts that are also judged one at a time
_WIDTH = 70  # characters of a text


def add(commands: Commands) -> None:
    """Adds the command."""
    oracle = commands.add_parser("oracle", help="try an oracle, or train a classifier as one")
    kinds = oracle.add_subparsers(dest="what", required=True, metavar="WHAT")
    text = "call an oracle on a few texts; print their labels and the time that it takes"
    command = add_command(kinds, "check", _check, text)
    name = "a name, package.module:function, FILE.py:function, classifier:DIR or an expression, as "
    name += "of rollout.oracle"
    command.add_argument("oracle", metavar="ORACLE", help=name)
    command.add_argument("--text", action="append", metavar="TEXT", help="may be given repeatedly")
    command.add_argument(
        "--prompt", action="append", metavar="TEXT", help="one of all texts, or one for each"
    )
    command.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="a text per line, or .jsonl: objects with text and prompt, as RUN/generate/base.jsonl",
    )
    add_command(kinds, "list", _list, "print the names that expressions may use")
    _add_train(kinds)


def _add_train(kinds: Commands) -> None:
    text = "train a classifier of texts, calibrate it and say how good it is; by default two, on "
    text += "different halves of the texts: one to train a control with, one to judge it by"
    command = add_command(kinds, "train", _train, text)
    data = ".jsonl, .csv or .tsv with the columns text and label, and prompt or source if texts "
    command.add_argument("data", type=Path, metavar="DATA", help=data + "follow one")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new folder: DIR/a and DIR/b"
    )
    command.add_argument("--label", default="", metavar="LABEL", help="that texts have or lack")
    trunk = command.add_mutually_exclusive_group()
    trunk.add_argument(
        "--base", default="", metavar="BASE", help="train only a head, on the states of this base"
    )
    trunk.add_argument(
        "--tokenizer", default="", metavar="BASE", help="read the tokens of this base"
    )
    command.add_argument("--single", action="store_true", help="one of all texts, in DIR itself")
    command.add_argument("--epochs", type=int, default=30, metavar="N", help="at most (30)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of everything (0)")


def _train(args: argparse.Namespace) -> None:
    from dinado_jax.classifiers.folder import save_classifier
    from dinado_jax.classifiers.labelled import divide, read_labelled
    from dinado_jax.classifiers.make import Kind, make_classifier
    from dinado_jax.utils.arguments import POSITIVE, require_integer, require_seed

    epochs = require_integer("--epochs", args.epochs, *POSITIVE)
    texts, label = read_labelled(args.data, args.label)
    kind, names = Kind(args.base, args.tokenizer), ("",) if args.single else ("a", "b")
    with new_folder(args.out) as folder:
        for name, parts in zip(names, divide(texts, len(names), require_seed(args.seed))):
            made = make_classifier(parts, label, kind, epochs, args.seed)
            (folder / name).mkdir(exist_ok=True)
            save_classifier(folder / name, made.classifier, made.figures, args.base)
            streams.print_result(_figures(args.out / name, made))
            if _below_baseline(made.figures):
                streams.print_status(
                    f"warning: {escape(str(args.out / name))} is right less often than TF-IDF with "
                    f"logistic regression: give more texts{'' if args.base else ', or --base BASE'}"
                )
    first, *others = (f"classifier:{args.out / name}" for name in names)
    use = [f"rollout.oracle={first}", *(f"evaluate.oracle={other}" for other in others)]
    streams.print_result(f"use: {escape(shlex.join(use))}")


def _figures(folder: Path, made: "Made") -> str:
    """A line on each thing that is known of a classifier."""
    found = made.figures
    return "\n".join(
        [
            f"{escape(str(folder))}: {found['train']} texts to train, {found['calibrate']} to "
            f"calibrate, {found['test']} to test, {found['share']:.0%} of these with the label "
            f"{escape(made.classifier.label)}",
            f"  accuracy           {found['accuracy']:.3f}  (TF-IDF and logistic regression: "
            f"{found['baseline_accuracy']:.3f})",
            f"  calibration error  {found['calibration_error']:.3f}  (before a temperature of "
            f"{made.classifier.temperature:.2f}: {found['calibration_error_before']:.3f}; where "
            f"all are right, chance makes it {found['chance_calibration_error']:.3f})",
            f"  Brier score        {found['brier_score']:.3f}",
        ]
    )


def _below_baseline(figures: dict[str, float | int]) -> bool:
    """Whether a classifier is worse than its baseline by more than chance, two standard errors."""
    count = figures["test"]
    least = (count * figures["baseline_accuracy"] + 1) / (count + 2)  # of 1 too it has an error
    return figures["accuracy"] < least - 2 * math.sqrt(least * (1 - least) / count)


def _check(args: argparse.Namespace) -> None:
    prompts, texts = _rows(args)
    from dinado_jax.oracles.expression import find_oracle
    from dinado_jax.oracles.judge import judge, require_labels, require_two_lists

    named = find_oracle(args.oracle)
    named.check_prompts({f"prompt {i}": prompt for i, prompt in enumerate(prompts, start=1)})
    oracle = named.function
    require_two_lists(oracle)
    judge(oracle, prompts[:2], texts[:2])  # so that no time to compile is measured
    began = time.perf_counter()
    result = judge(oracle, prompts, texts)
    seconds = time.perf_counter() - began
    require_labels(oracle, result)
    streams.print_result(_table(oracle, prompts, texts, result, seconds))
    if result.failures:
        raise InputError(
            f"oracle {escape(args.oracle)} raised for {result.failures} of {len(texts)} texts, the "
            f"first {result.message}: a run leaves such samples out; return a label for every text"
        )


def _list(args: argparse.Namespace) -> None:
    from dinado_jax.oracles.expression import COMBINATIONS, ELEMENTS, KEYWORDS, LENGTH
    from dinado_jax.oracles.table import ORACLES, registered

    rows = {
        "oracles": [KEYWORDS, *ORACLES],
        "of packages": [f"{name} ({', '.join(each)})" for name, each in registered().items()],
        "elements": [*(f"{name}('..')" for name in ELEMENTS), f"{LENGTH} <= 20"],
        "combined": ["a & b", "a | b", "!a", *(f"{name}(a, b)" for name in COMBINATIONS)],
    }
    lines = [f"{name:11}  {', '.join(known) or 'none'}" for name, known in rows.items()]
    streams.print_result("\n".join(lines))


def _rows(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The prompts and texts that are asked for, as many of each."""
    texts, of_file = list(args.text or []), []
    if args.texts:
        if args.text:
            raise InputError("--text and --texts, two sources of texts: leave out one of them")
        texts, of_file = _read(args.texts)
    texts = texts or list(_TEXTS)
    if of_file and args.prompt:
        raise InputError(f"{args.texts} has prompts of its own: leave out --prompt")
    prompts = of_file or args.prompt or [_PROMPT]
    if len(prompts) == 1:
        prompts *= len(texts)
    if len(prompts) != len(texts):
        raise InputError(
            f"{len(prompts)} prompts for {len(texts)} texts: give one --prompt, or one per text"
        )
    return prompts, texts


def _read(path: Path) -> tuple[list[str], list[str]]:
    """Reads a file of texts, and its prompts if it has any."""
    rows = [(n, line) for n, line in enumerate(read_lines(path), start=1) if line.strip()]
    if not rows:
        raise InputError(f"{path} holds no text: write one per line")
    if not has_objects(path):
        return [line for _, line in rows], []
    fix = 'give one {"prompt": "..", "text": ".."} per line'
    objects = []
    for number, line in rows:
        where = f"{path}:{number}"
        objects.append(validate(parse_json(line, where, fix), {"text": str}, where, fix))
        if ("prompt" in objects[0]) != ("prompt" in objects[-1]):
            raise InputError(f"{where}, some lines have a prompt and others none: give all or none")
        if "prompt" in objects[0]:
            validate(objects[-1], {"prompt": str}, where, fix)
    return [row["text"] for row in objects], [row["prompt"] for row in objects if "prompt" in row]


def _table(
    oracle: "Oracle",
    prompts: Sequence[str],
    texts: Sequence[str],
    result: "OracleResult",
    seconds: float,
) -> str:
    """A line per text, with the label of the batch and the time of a call of its own."""
    from dinado_jax.oracles.judge import is_success, judge

    lines, alone = [f"{'label':>12} {'ms alone':>10}  text"], []
    other = 0
    for number, text in enumerate(texts):
        label = f"{result.labels[number]:.4g}" if not result.failed[number] else "failed"
        spent = ""
        if number < _ALONE:
            began = time.perf_counter()
            again = judge(oracle, [prompts[number]], [text])
            alone.append(time.perf_counter() - began)
            spent = f"{1000 * alone[-1]:.3g}"
            other += not (again.failed[0] or again.labels[0] == result.labels[number])
        lines.append(f"{label:>12} {spent:>10}  {escape(text)[:_WIDTH]}")
    known = result.labels[~result.failed]
    lines.append(
        f"{len(texts)} texts: {int(is_success(known).sum())} satisfy it (label above 0.5), "
        f"{result.failures} failed, mean label {known.mean():.3g}"
    )
    lines.append(
        f"time: {1000 * seconds:.3g} ms for all in one batch, {1000 * seconds / len(texts):.3g} ms "
        f"per text; {1000 * sum(alone) / len(alone):.3g} ms for a text alone"
    )
    if other:
        lines.append(
            f"warning: {other} labels differ when a text is judged alone: results will depend on "
            "rollout.batch; make each label depend on its own prompt and text"
        )
    return "\n".join(lines)
