"""`dinado hmm train`: a hidden Markov model of a base, which can guide it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.distributed import signals
from dinado_jax.errors import escape
from dinado_jax.utils import streams
from dinado_jax.utils.files import exists

if TYPE_CHECKING:
    from dinado_jax.distributed.partitioning import Plan
    from dinado_jax.hmm.folder import Saved
    from dinado_jax.language_model import Base


def add(commands: Commands) -> None:
    """Adds the command."""
    hmm = commands.add_parser("hmm", help="distil a hidden Markov model that guides a base")
    kinds = hmm.add_subparsers(dest="what", required=True, metavar="WHAT")
    text = "train a hidden Markov model on samples of a base; the same command continues"
    command = add_command(kinds, "train", _train, text)
    base = "a base, or the folder of a run: its tuned base, and its prompts of training"
    command.add_argument("base", metavar="BASE_OR_RUN", help=base)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the model")
    command.add_argument(
        "--prompts", type=Path, metavar="FILE", help="that samples continue, one per line or .jsonl"
    )
    for name, default, what in (
        ("states", 128, "of the model"),
        ("samples", 20_000, "texts of the base"),
        ("epochs", 20, "of EM"),
        ("batch", 256, "rows at once"),
        ("seed", 0, "of everything"),
    ):
        help = f"{what} ({default})"
        command.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    command.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="of a text (32; of a run, what it decodes)"
    )
    command.add_argument(
        "--reads-prompt", action="store_true", help="a model of prompts and texts, not of texts"
    )
    head = "also train a head that predicts the HMM's state from the base's hidden state"
    command.add_argument("--head", action="store_true", help=head)


def _train(args: argparse.Namespace) -> None:
    from dinado_jax.distributed import processes
    from dinado_jax.stages.distil import Distillation, distil

    processes.connect()
    signals.install_handlers()
    base, prompts, plan = _of_run(args) if _is_run(args.base) else _of_base(args)
    new_tokens = base.max_new_tokens if args.max_new_tokens is None else args.max_new_tokens
    settings = Distillation(
        states=args.states,
        samples=args.samples,
        max_new_tokens=new_tokens,
        epochs=args.epochs,
        reads_prompt=args.reads_prompt,
        head=args.head,
        batch=args.batch,
        seed=args.seed,
    )
    made = distil(base, prompts, settings, args.out, plan)
    if processes.is_main():
        streams.print_result(_figures(args.out, made))


def _is_run(path: str) -> bool:
    return exists(Path(path) / "config.json") and exists(Path(path) / "sft")


def _of_run(args: argparse.Namespace) -> "tuple[Base, list[str], Plan]":
    import dataclasses
    from functools import partial

    from dinado_jax.distributed.partitioning import replicate
    from dinado_jax.stages.artifacts import trained_base, training_prompts
    from dinado_jax.stages.context import Context
    from dinado_jax.stages.pipeline import run_config

    config = run_config(args.base)
    context = Context.of(config, Path(args.base))
    base = trained_base(context, partial(replicate, context.mesh))
    base = dataclasses.replace(base, max_new_tokens=config.decode.max_new_tokens)
    prompts = _read(args) or training_prompts(context, 0, config.rollout.prompts)
    return base, prompts, context.plan


def _of_base(args: argparse.Namespace) -> "tuple[Base, list[str], Plan]":
    from functools import partial

    from dinado_jax.config.schema import Parallel
    from dinado_jax.distributed.partitioning import local_mesh, make_plan, replicate
    from dinado_jax.loading import load_base

    plan = make_plan(Parallel())
    base = load_base(args.base, place=partial(replicate, local_mesh(plan)))
    return base, _read(args) or [""], plan


def _read(args: argparse.Namespace) -> list[str]:
    from dinado_jax.tasks.prompts import read_prompts

    return read_prompts(args.prompts) if args.prompts else []


def _figures(folder: Path, made: "Saved") -> str:
    """What is known of a model, and how it is used."""
    found, hmm = made.figures, made.hmm
    gap = found["held_out"] - found["held_out_of_base"]
    lines = [
        f"{escape(str(folder))}: {hmm.states} states, {hmm.vocab_size:,} tokens, "
        f"{made.epochs} epochs",
        f"  nats per token of other samples  {found['held_out']:.3f}  (the base: "
        f"{found['held_out_of_base']:.3f}, so {gap:.3f} are lost)",
    ]
    use = f"use: decode.guarantee=true decode.hmm={escape(str(folder))}"
    if hmm.head is not None:
        of_head = found["held_out_of_head"]
        lines.append(f"  by the states that the head predicts  {of_head:.3f}")
        use += " decode.hmm_head=true"
    return "\n".join([*lines, use])
