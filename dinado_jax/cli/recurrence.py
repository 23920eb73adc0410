"""`dinado recurrence`: a base that reads and writes texts longer than its context."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from dinado_jax.cli.exits import diverging
from dinado_jax.cli.fields import add_fields, given
from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.cli.tables import table
from dinado_jax.distributed import signals
from dinado_jax.errors import InputError, escape
from dinado_jax.recurrence.settings import Training
from dinado_jax.utils import streams
from dinado_jax.utils.arguments import require_integer
from dinado_jax.utils.files import exists

if TYPE_CHECKING:
    from dinado_jax.language_model import Base
    from dinado_jax.recurrence.module import Recurrence
    from dinado_jax.recurrence.recurrent import Recurrent

_TRAINING = {
    "steps": "of training", "batch": "documents side by side",
    "windows": "of a step, through which gradients pass",
    "rank": "of a LoRA of the base; 0: all its parameters", "learning-rate": "peak",
    "warmup": "steps of linear increase", "save-every": "steps between checkpoints",
    "seed": "of everything",
}  # fmt: skip
_WRITING = {
    "samples": (int, "independent texts (1)"),
    "max-new-tokens": (int, "of each (1000)"),
    "temperature": (float, "0 is greedy (1.0)"),
    "top-k": (int, "0 is off (0)"),
    "top-p": (float, "of the nucleus (1.0)"),
    "seed": (int, "of the draws (0)"),
}
_DOCUMENTS = "a text, one document; or a table, .jsonl, .csv or .tsv, with a document per row: text"


def add(commands: Commands) -> None:
    """Adds the commands."""
    recurrence = commands.add_parser(
        "recurrence", help="read and write beyond the context of a base"
    )
    kinds = recurrence.add_subparsers(dest="what", required=True, metavar="WHAT")

    text = "train a base on documents of any length; the same command continues"
    command = add_command(kinds, "train", _train, text)
    command.add_argument("base", metavar="BASE", help="a folder, hub name or package:folder")
    command.add_argument("documents", nargs="+", type=Path, metavar="FILE", help=_DOCUMENTS)
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="its model is DIR/model"
    )
    for name, what in (
        ("read", "layer whose incoming states are remembered (the last one)"),
        ("write", "layer that attends to the memory (1)"),
        ("window", "tokens between memories (the context of the base)"),
        ("devices", "of this machine (all)"),
    ):
        command.add_argument(f"--{name}", type=int, metavar="N", help=what)
    add_fields(command, Training(), _TRAINING)

    command = add_command(kinds, "score", _score, "the likelihood of documents under a model")
    command.add_argument("model", metavar="MODEL", help="DIR/model of `dinado recurrence train`")
    command.add_argument("documents", nargs="+", type=Path, metavar="FILE", help=_DOCUMENTS)
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add_command(kinds, "write", _write, "texts of any length by a model")
    command.add_argument("model", metavar="MODEL", help="DIR/model of `dinado recurrence train`")
    command.add_argument("--prompt", default="", metavar="TEXT", help="that they continue")
    for flag, (kind, help) in _WRITING.items():
        metavar = "X" if kind is float else "N"
        command.add_argument(f"--{flag}", type=kind, metavar=metavar, help=help)


def _train(args: argparse.Namespace) -> None:
    from dinado_jax.config.schema import Parallel
    from dinado_jax.distributed.partitioning import make_plan
    from dinado_jax.loading import load_base
    from dinado_jax.recurrence.recurrent import fit_recurrence
    from dinado_jax.training.standalone import require_own

    signals.install_handlers()
    training = Training(**given(args, _TRAINING))
    all_or_more = "0 (all) or more", lambda x: x >= 0
    devices = require_integer("devices", args.devices or 0, *all_or_more)
    require_own(args.out, args.out)
    documents = _read(args.documents)
    base = load_base(args.base)
    with diverging():
        model = fit_recurrence(
            base,
            [text for _, text in documents],
            _recurrence(base, args),
            training,
            folder=args.out,
            plan=make_plan(Parallel(devices=devices)),
        )
    folder = args.out / "model"
    if not exists(folder):
        model.save(folder)
    streams.print_result(
        f"{escape(str(folder))}: {training.steps} steps, {len(documents)} documents"
    )


def _recurrence(base: "Base", args: argparse.Namespace) -> "Recurrence":
    from dinado_jax.models.protocol import PrefixModel
    from dinado_jax.recurrence.folder import FOLDER
    from dinado_jax.recurrence.module import Recurrence

    model = base.model
    if exists(base.folder / FOLDER):
        raise InputError(
            f"{escape(args.base)} has a recurrence, which a new one would replace: give its base"
        )
    if not isinstance(model, PrefixModel):
        raise InputError(f"{escape(args.base)} has no recurrence: give a GPT-2 or a Llama")
    last = model.num_layers - 1
    write = min(1, last) if args.write is None else args.write
    # The last layer, or the last states where that is the layer that reads the memory.
    read = max(last, write + 1) if args.read is None else args.read
    window = model.context_length if args.window is None else args.window
    return Recurrence(model, read=read, write=write, window=window)


def _score(args: argparse.Namespace) -> None:
    documents = _read(args.documents)
    model = _load(args)
    figures = model.nats([text for _, text in documents])
    rows = [(name, *row) for (name, _), row in zip(documents, figures, strict=True)]
    nats, tokens = figures.sum(0)
    rows.append(("all", nats, tokens))
    found = [
        {
            "document": name,
            "tokens": int(tokens),
            "nats": nats,
            "perplexity": math.exp(nats / tokens),
        }
        for name, nats, tokens in rows
    ]
    if args.json:
        streams.print_result(json.dumps(found, indent=1))
        return
    lines = [tuple(found[0])]
    for row in found:
        shown = f"{row['tokens']:,}", f"{row['nats']:,.1f}", f"{row['perplexity']:.2f}"
        lines.append((escape(row["document"]), *shown))
    streams.print_result(table(lines))


def _write(args: argparse.Namespace) -> None:
    how = given(args, _WRITING)
    if how.get("temperature") == 0:
        for name in ("samples", "top_k", "top_p", "seed"):
            if name in how:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} has no effect with --temperature 0: leave it out")
    for made in _load(args).generate(args.prompt, **how):
        streams.print_result(json.dumps({"text": made.text, "finished": made.finished}))


def _load(args: argparse.Namespace) -> "Recurrent":
    from dinado_jax.recurrence.recurrent import load_recurrent

    return load_recurrent(args.model)


def _read(files: list[Path]) -> list[tuple[str, str]]:
    """The name and text of each document. InputError for what cannot be read, or is empty."""
    from dinado_jax.data.records import is_table, read_records
    from dinado_jax.utils.files import read_text

    found: list[tuple[str, str]] = []
    for path in files:
        if is_table(path):
            rows = read_records(path, {"text": str}, 'give {"text": "..."} per row')
            found += [(where, str(record["text"])) for where, record in rows]
        else:
            found.append((str(path), read_text(path)))
    for name, text in found:
        if not text.strip():
            raise InputError(f"{name} is empty: give a text")
    if not found:
        raise InputError(f"{', '.join(map(str, files))}: no documents there, give some")
    return found
