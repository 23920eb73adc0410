"""A base with recurrence: it scores and writes documents of any length.

recurrence = Recurrence(base.model, read=11, write=1, window=1024)
model = fit_recurrence(base, documents, recurrence, Training(steps=2000), folder="novels")
model.perplexity(held_out)
model.save("gpt2_novels")           # load_recurrent("gpt2_novels")
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from dinado_jax.decoding.methods import Method
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.distributed.processes import process_count
from dinado_jax.errors import InputError
from dinado_jax.language_model import Base, save_base
from dinado_jax.loading import load_base
from dinado_jax.models.architectures import ARCHITECTURES
from dinado_jax.models.codec import Codec
from dinado_jax.models.hf_folder import locate
from dinado_jax.recurrence.decoding import draw_windows
from dinado_jax.recurrence.folder import read_recurrence, write_recurrence
from dinado_jax.recurrence.module import Params, Recurrence
from dinado_jax.recurrence.scoring import document_nats
from dinado_jax.recurrence.settings import Training
from dinado_jax.recurrence.training import train
from dinado_jax.recurrence.windows import Documents, Streams
from dinado_jax.training.standalone import (
    keep_record,
    params_digest,
    plan_of,
    require_training,
    training_folder,
)
from dinado_jax.utils.arguments import (
    POSITIVE,
    known_keywords,
    require_instance,
    require_integer,
    require_seed,
    require_texts,
    up_to,
)
from dinado_jax.utils.files import new_folder


@dataclasses.dataclass(frozen=True, repr=False)
class LongText:
    """A text that `Recurrent.generate` has written."""

    text: str
    tokens: list[int]  # the stop token included
    log_probs: np.ndarray  # float32 [tokens] nats, as drawn
    finished: bool  # ended by a stop token

    def __repr__(self) -> str:
        return f"LongText({self.text[:60]!r}, {len(self.tokens)} tokens)"


@dataclasses.dataclass(frozen=True, repr=False)
class Recurrent:
    """A base and its recurrence."""

    base: Base
    recurrence: Recurrence
    params: Params

    def __repr__(self) -> str:
        own = self.recurrence
        return (
            f"Recurrent(windows of {own.window} tokens, layer {own.read} to {own.write}; "
            f"{self.base!r})"
        )

    @known_keywords()
    def nats(self, documents: Sequence[str], *, batch: int = 8) -> np.ndarray:
        """Scores documents of any length, with memory that does not depend on it.

        Args:
          documents: N texts, at least one.
          batch: documents at once.

        Returns:
          float64 [N, 2]: the negative log-likelihood of each (nats), its end included, and the
          tokens that were predicted.

        Raises:
          InputError: for what is no text, or none.
        """
        batch = require_integer("batch", batch, *POSITIVE)
        rows = documents_of(self.base.codec, documents, self.recurrence.window)
        return document_nats(self.recurrence, self.base.variables, self.params, rows, batch)

    @known_keywords()
    def perplexity(self, documents: Sequence[str], *, batch: int = 8) -> float:
        """exp(nats / tokens) of all documents together; see `nats`."""
        nats, tokens = self.nats(documents, batch=batch).sum(0)
        return float(np.exp(nats / tokens))

    @known_keywords()
    def generate(
        self,
        prompt: str = "",
        *,
        samples: int = 1,
        max_new_tokens: int = 1000,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[LongText]:
        """Continues a text of any length by any number of tokens, with a cache of one window.

        Args:
          prompt: a text.
          samples: independent continuations.
          max_new_tokens: of each.
          temperature: 0 is greedy.
          top_k: 0 is off.
          top_p: of the nucleus.
          seed: in [0, 2^32).

        Raises:
          InputError: for an argument out of range.
        """
        samples = require_integer("samples", samples, *up_to(10_000))
        steps = require_integer("max_new_tokens", max_new_tokens, *POSITIVE)
        codec, method = self.base.codec, Method(temperature, top_k, top_p)
        (row,) = codec.prompts([prompt])
        keys = jax.random.split(jax.random.key(require_seed(seed)), samples)
        own = self.recurrence, self.base.variables, self.params
        parts, ended = [], np.zeros(samples, bool)
        for drawn in draw_windows(*own, row, method, keys, steps):
            parts.append(drawn)
            ended |= np.isin(drawn.tokens, codec.stop_ids).any(1)
            if ended.all():
                break
        tokens, log_probs = (np.concatenate(each, 1) for each in zip(*parts))
        return [_long_text(codec, *each) for each in zip(tokens, log_probs)]

    def save(self, folder: str | Path) -> None:
        """Writes the base and, in it, a folder `recurrence`; for `load_recurrent`. A new folder, or
        an empty one; whole or not at all. InputError for a folder with files.
        """
        with new_folder(Path(folder)) as partial:
            save_base(partial, self.base.model, self.base.params, self.base.codec)
            write_recurrence(partial, self.recurrence, self.params)


def load_recurrent(folder: str | Path) -> Recurrent:
    """Loads what `Recurrent.save` has written. InputError as `load` and `read_recurrence`."""
    base = load_base(str(folder))
    recurrence, params = read_recurrence(locate(str(folder)), base.model)
    return Recurrent(base, recurrence, params)


@known_keywords("settings of the training are given as Training(steps=300)")
def fit_recurrence(
    base: Base,
    documents: Sequence[str],
    recurrence: Recurrence,
    training: Training | None = None,
    *,
    folder: str | Path | None = None,
    plan: Plan | None = None,
) -> Recurrent:
    """Trains a base, or a LoRA of it, with recurrence on long documents.

    Args:
      base: what `load` returns.
      documents: to train on.
      recurrence: of the base's model.
      training: how; `Training()` by default.
      folder: of the training. The same call continues what is there, bit for bit. None: a
        temporary one, which is removed.
      plan: of the devices, with mode jit; None for one.

    Raises:
      InputError: for a recurrence of another model, what is no text, too little text, another mode,
        and a folder of another training; as `plan_of`.
      Diverged: for a loss that is not finite.
    """
    require_instance("base", base, Base, "what load returns")
    require_instance("recurrence", recurrence, Recurrence, "Recurrence(base.model, ..)")
    if base.prompt_template:
        raise InputError("the base has a prompt template, documents have none: load it without")
    if process_count() > 1:
        raise InputError("fit_recurrence runs in one process: start a single one")
    if recurrence.model != base.model:
        raise InputError("the recurrence is of another model: make it of base.model")
    training = require_training(training, Training)
    plan = plan_of(training.batch, plan)
    if plan.mode != "jit":
        raise InputError(
            f"parallel.mode = {plan.mode}: the memories of rows go on from step to step, which "
            "only jit does, choose that"
        )
    rows = documents_of(base.codec, documents, recurrence.window)
    streams = Streams(rows, training.batch, training.windows, training.seed)
    with training_folder(folder) as path:
        keep_record(path, _record(base, rows, recurrence, training))
        params, own = train(recurrence, base.params, streams, training, path, plan)
    tuned = dataclasses.replace(base, params=jax.device_put(params), known=base.codec)
    return Recurrent(tuned, recurrence, jax.device_put(own))


def documents_of(codec: Codec, documents: Sequence[str], window: int) -> Documents:
    """Texts as windows, each text after an empty prompt and before its end. InputError for what is
    no text, or none.
    """
    texts = require_texts("document", documents)
    return Documents.of(codec.prompts([""] * len(texts)), codec.targets(texts), window)


def _long_text(codec: Codec, tokens: np.ndarray, log_probs: np.ndarray) -> LongText:
    """A row up to its first stop token."""
    stops = np.flatnonzero(np.isin(tokens, codec.stop_ids))
    end = int(stops[0]) + 1 if len(stops) else len(tokens)
    ids = tokens[:end].tolist()
    (text,) = codec.decode([ids])
    return LongText(text, ids, log_probs[:end], bool(len(stops)))


def _record(base: Base, rows: Documents, recurrence: Recurrence, training: Training) -> dict:
    """What a training is of, by name."""
    sizes = {name: getattr(recurrence, name) for name in ("read", "write", "window", "hidden")}
    return {
        "architecture": ARCHITECTURES[base.model.model_type].to_config(base.model),
        "base": params_digest(base.params),
        "documents": hashlib.sha256(rows.rows.tokens.tobytes()).hexdigest(),
        **sizes,
        **dataclasses.asdict(training),
    }
