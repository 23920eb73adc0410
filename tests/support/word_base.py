"""A base of random parameters with a tokenizer of a few words, and controls of it."""

import dataclasses
from pathlib import Path

import jax

from dinado_jax.config import schema
from dinado_jax.controls.control_file import Origin
from dinado_jax.controls.make import make_control
from dinado_jax.language_model import Base, Controlled, save_base
from dinado_jax.loading import load_base
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import train_codec
from dinado_jax.oracles.table import resolve
from support import tiny

LINES = [
    "dog cat fox = the dog saw a cat and the fox .",
    "caf\u00e9 = a fox is in the caf\u00e9 .",
] * 3
KINDS = {
    "merge": {"kind": "merge"},
    "soft": {"kind": "soft"},
    "nado": {"kind": "nado"},
    "clamped": {"kind": "hard", "direction": "merge"},
    "projected": {"kind": "hard", "direction": "soft", "form": "projected"},
    "state": {"kind": "merge", "state": True},
}


def write(folder: Path, seed: int = 0) -> Path:
    codec = train_codec(LINES, 300)
    vocabulary = len(codec.tokenizer)
    config = GPT2Config(vocab_size=vocabulary, n_positions=24, n_embd=8, n_layer=1, n_head=2)
    model = GPT2(config)
    save_base(folder, model, tiny.noisy(init_params(model, seed), 0.3), codec)
    return folder


def write_ending(folder: Path, prompts: list[str]) -> Path:
    """A base whose greedy texts of some of the prompts end within 6 tokens: they end where those of
    another have the token that most of these come to repeat."""
    base = load_base(str(write(folder / "whole", 5)))
    tokens = [one.tokens for one in base.generate(prompts, temperature=0.0, max_new_tokens=6)]
    last = [int(row[-1]) for row in tokens]
    stop = max(last, key=last.count)
    table = base.params["wte"]["embedding"]
    table = table.at[base.codec.eos_id].set(1.5 * table[stop])
    params = {**base.params, "wte": {"embedding": table}}
    save_base(folder / "ending", base.model, params, base.codec)
    return folder / "ending"


def settings(kind: str) -> schema.Config:
    control = schema.Control(layers=1, **KINDS[kind])
    config = schema.Config(control=control, delta=schema.Delta(rank=2, alpha=6.0))
    return dataclasses.replace(config, rollout=schema.Rollout(oracle="lexical", max_new_tokens=12))


def controlled(base: Base, kind: str) -> Controlled:
    """As if it had been trained: far from the base."""
    config = settings(kind)
    control = make_control(config, base.model)
    params = tiny.noisy(control.init(jax.random.key(1), base.params, 0.1), 0.3)
    automata_of = resolve("lexical").automata_of if kind == "state" else None
    origin = Origin(config, {"success_rate": 0.5, "efficiency": None})
    return Controlled(base, control, params, automata_of=automata_of, origin=origin)
