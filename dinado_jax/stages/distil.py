"""Distils a hidden Markov model from samples of a base: draws them, clusters, and runs EM.
If asked for, a head that predicts its state from the base's hidden state is trained at the end.

Everything is kept in one folder, and a stopped distillation continues: samples from the last batch
of them, EM from the last epoch, the head from its last checkpoint, bit for bit on a CPU.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dinado_jax.config.schema import Sampling
from dinado_jax.data.prompts import PromptSet
from dinado_jax.distributed import signals
from dinado_jax.distributed.partitioning import Plan, local_mesh
from dinado_jax.distributed.processes import barrier, is_main
from dinado_jax.errors import InputError, os_error
from dinado_jax.generation import names_of
from dinado_jax.hmm import em
from dinado_jax.hmm.folder import Saved, is_saved, load_saved, save_hmm
from dinado_jax.hmm.kmeans import Clustering, first_counts
from dinado_jax.hmm.model import Hmm, Rows
from dinado_jax.language_model import Base
from dinado_jax.models.hf_folder import fingerprint
from dinado_jax.oracles.moments import no_oracle
from dinado_jax.rollouts.arrays import Rollouts, select
from dinado_jax.rollouts.collect import Collector
from dinado_jax.stages.distil_head import next_token_loss, train_head
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.utils.arguments import POSITIVE, require_integer_field, require_seed
from dinado_jax.utils.files import exists, json_digest, make_folder, require_new
from dinado_jax.utils.progress import MetricsLog, Progress, print_once

_SAMPLES = "samples"  # the folder of the base's texts
_TOGETHER = 8  # samples of a prompt that are drawn from one prefill
_HELD_OUT = 20  # one of so many samples is not trained on, and measures the model
_PSEUDOCOUNT = 0.1  # of each distribution: no token is impossible
_FEWEST = 20  # tokens per state
_FEW = 200  # the same, below which a line warns


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How an HMM is made."""

    states: int = 128  # H
    samples: int = 20_000  # texts of the base
    max_new_tokens: int = 32
    epochs: int = 20  # of EM
    reads_prompt: bool = False  # the HMM is one of prompts and texts, not of texts alone
    head: bool = False  # that predicts the HMM's state from the base's hidden state
    batch: int = 256  # rows at once
    seed: int = 0

    def __post_init__(self):
        for name in ("max_new_tokens", "epochs", "batch"):
            require_integer_field(self, name, *POSITIVE)
        least = f"at least {_HELD_OUT}", lambda x: x >= _HELD_OUT
        require_integer_field(self, "samples", *least)
        require_integer_field(self, "states", "at least 2", lambda x: x >= 2)
        require_seed(self.seed)

    @property
    def identity(self) -> dict[str, Any]:
        """What a folder's content depends on: more epochs continue it, and a head may be added."""
        every = dataclasses.asdict(self).items()
        return {key: x for key, x in every if key not in ("epochs", "head")}


def distil(
    base: Base, prompts: Sequence[str], settings: Distillation, folder: Path, plan: Plan
) -> Saved:
    """Makes an HMM of a base, or continues to.

    Args:
      base: replicated on the devices of this process.
      prompts: that its samples continue, in turns.
      settings: how.
      folder: of the result; one of an earlier call with the same arguments continues.
      plan: of the devices.

    Raises:
      InputError: for too few samples for the states, for prompts that do not fit the base, and for
        a folder with other files, or with an HMM of another base or of other settings.
    """
    _check(base, settings)
    _require_own(folder)
    make_folder(folder)
    mark = fingerprint(base.saved_folder())
    identity = {**settings.identity, "prompts": json_digest(list(prompts))}
    known = _earlier(folder, mark, identity)
    complete = known is not None and known.epochs >= settings.epochs
    if known and complete and (known.hmm.head is not None or not settings.head):
        _delete_head_checkpoints(folder)
        return known
    drawn = _samples(base, prompts, settings, folder, json_digest([mark, identity]), plan)
    begin = np.zeros(len(drawn), np.int32) if settings.reads_prompt else drawn.prompt_length
    _check_enough(int((drawn.length - begin).sum()), settings)
    held_out = np.arange(len(drawn)) % _HELD_OUT == _HELD_OUT - 1
    train, other = (np.flatnonzero(each) for each in (~held_out, held_out))
    if known is None:
        first = _first(base, select(drawn, train), begin[train], settings, plan)
        known = Saved(first, mark, identity, 0, {})
    own, measured = _rows(select(drawn, train), begin[train]), _HeldOut.of(drawn, begin, other)
    known = _learn(known, own, measured, settings, folder, plan)
    if settings.head:
        known = _add_head(known, base, select(drawn, train), measured, settings, folder, plan)
    barrier("the HMM is written")
    _delete_head_checkpoints(folder)
    return known


def _require_own(folder: Path) -> None:
    """InputError for a folder that holds files, and not of an HMM."""
    if exists(folder) and not is_saved(folder) and not exists(folder / _SAMPLES):
        require_new(folder)


def _learn(
    known: Saved, rows: Rows, measured: "_HeldOut", settings: Distillation, folder: Path, plan: Plan
) -> Saved:
    """The epochs of EM that are missing, each written. A head is one of its own epoch only."""
    log = MetricsLog(folder / "metrics.jsonl", known.epochs)
    step, left = em.make_step(plan), settings.epochs - known.epochs
    with Progress("EM", left * len(rows), "row") as progress:
        while known.epochs < settings.epochs:

            def done(count: int) -> None:
                signals.raise_if_stopped()
                progress.advance(count)

            hmm = dataclasses.replace(known.hmm, head=None)
            hmm, total = em.epoch(step, plan, hmm, rows, settings.batch, _PSEUDOCOUNT, done)
            figures = {"loss": -total / rows.count, **measured.figures(hmm, settings.batch)}
            known = dataclasses.replace(known, hmm=hmm, epochs=known.epochs + 1, figures=figures)
            if is_main():
                save_hmm(folder, known)
            log.write(known.epochs, **figures)
    return known


def _add_head(
    known: Saved,
    base: Base,
    drawn: Rollouts,
    measured: "_HeldOut",
    settings: Distillation,
    folder: Path,
    plan: Plan,
) -> Saved:
    """Trains the head of the last epoch, and writes it with the HMM."""
    params, name = plan.shard(base.params), f"head_{known.epochs:04d}"
    with Checkpoints(folder / name, json_digest([known.base, known.settings])) as checkpoints:
        head = train_head(
            base.model,
            params,
            known.hmm,
            drawn,
            settings.seed,
            checkpoints,
            folder / f"{name}.jsonl",
            plan,
        )
    hmm = dataclasses.replace(known.hmm, head=head)
    loss = next_token_loss(base.model, base.params, hmm, measured.drawn, settings.batch)
    known = dataclasses.replace(known, hmm=hmm, figures={**known.figures, "held_out_of_head": loss})
    if is_main():
        save_hmm(folder, known)
    return known


def _delete_head_checkpoints(folder: Path) -> None:
    """Process 0 deletes them, including those that a stopped training left behind."""
    for each in sorted(folder.glob("head_[0-9][0-9][0-9][0-9]")):  # not its metrics
        if is_main():
            try:
                shutil.rmtree(each)
            except OSError as error:
                raise os_error(each, error) from error


def _earlier(folder: Path, mark: str, identity: dict[str, Any]) -> Saved | None:
    """What an earlier call with these arguments has left. InputError for one with others."""
    if not is_saved(folder):
        return None
    known = load_saved(folder)
    if known.base != mark:
        raise InputError(f"{folder} has an HMM of another base: name a new folder")
    for name, value in identity.items():
        if known.settings.get(name) != value:
            shown = "" if name == "prompts" else f", {name} = {known.settings.get(name)}"
            raise InputError(
                f"{folder} has an HMM of other {name}{shown}: name a new folder, or give the same"
            )
    return known


def _samples(
    base: Base,
    prompts: Sequence[str],
    settings: Distillation,
    folder: Path,
    identity: str,
    plan: Plan,
) -> Rollouts:
    """Draws the samples of the base, or those that are missing."""
    together = min(_TOGETHER, settings.samples)
    sets = -(-settings.samples // together)
    names = names_of(prompts)
    turns = [i % len(prompts) for i in range(sets)]
    asked = PromptSet([prompts[i] for i in turns], names=[names[i] for i in turns])
    how = Sampling(max_new_tokens=settings.max_new_tokens, batch=settings.batch)
    collector = Collector(no_oracle, how, identity, local_mesh(plan))
    key = jax.random.key(settings.seed)
    return collector.sample("samples", base, asked, together, key, folder / _SAMPLES).rollouts


def _check(base: Base, settings: Distillation) -> None:
    """InputError for settings of which no sample needs to be drawn to see that they do not fit."""
    if settings.max_new_tokens >= base.model.context_length:
        raise InputError(
            f"max_new_tokens = {settings.max_new_tokens} leaves no room for a prompt in the base's "
            f"{base.model.context_length} positions: lower it, --max-new-tokens N"
        )
    if not settings.reads_prompt:
        most = (settings.samples + _TOGETHER) * settings.max_new_tokens
        _require_enough(most, "gives at most", settings)


def _require_enough(tokens: int, gives: str, settings: Distillation) -> None:
    """InputError for too few tokens; `gives` is the verb of the message, such as "gave"."""
    per_state = tokens / settings.states
    if per_state < _FEWEST:
        raise InputError(
            f"--samples {settings.samples} {gives} {tokens:,} tokens, {per_state:.0f} for each of "
            f"{settings.states} states: at least {_FEWEST} are needed, draw more samples or ask "
            "for fewer states"
        )


def _check_enough(tokens: int, settings: Distillation) -> None:
    """InputError for too few tokens; a warning for few."""
    _require_enough(tokens, "gave", settings)
    per_state = tokens / settings.states
    if per_state < _FEW:
        print_once(
            f"warning: {tokens:,} tokens are {per_state:.0f} for each of {settings.states} states, "
            f"and fewer than {_FEW} make a poor model: draw more samples"
        )


def _first(
    base: Base,
    drawn: Rollouts,
    begin: np.ndarray,
    settings: Distillation,
    plan: Plan,
) -> Hmm:
    """The model that EM begins with."""
    print_once("clustering the hidden states of the base")
    how = Clustering(plan, settings.batch, settings.seed)
    counts = first_counts(
        base.model,
        plan.shard(base.params),
        drawn,
        begin,
        settings.states,
        base.codec.stop_ids,
        how,
    )
    found = jax.device_get(em.maximised(counts, counts, _PSEUDOCOUNT))
    return dataclasses.replace(found, reads_prompt=settings.reads_prompt)


def _rows(drawn: Rollouts, begin: np.ndarray) -> Rows:
    """The tokens that the HMM reads, from column 0 on."""
    length = drawn.length - begin
    column = np.minimum(begin[:, None] + np.arange(length.max()), drawn.tokens.shape[1] - 1)
    return Rows(np.take_along_axis(drawn.tokens, column, 1), length)


@dataclasses.dataclass(frozen=True)
class _HeldOut:
    """Samples that measure the model."""

    drawn: Rollouts
    rows: Rows  # as the HMM reads them
    first: np.ndarray  # int [N], the column of these in which the text begins
    log_base: float  # nats under the base, of all

    @classmethod
    def of(cls, drawn: Rollouts, begin: np.ndarray, index: np.ndarray) -> "_HeldOut":
        """Those numbered `index`."""
        own = select(drawn, index)
        first = own.prompt_length - begin[index]
        return cls(own, _rows(own, begin[index]), first, float(own.log_base.sum()))

    def figures(self, hmm: Hmm, batch: int) -> dict[str, float]:
        """Nats per token of texts by HMM and base: the difference estimates their KL."""
        log_probs = em.log_probs(hmm, self.rows, batch)
        of_text = np.arange(log_probs.shape[1])[None] >= self.first[:, None]
        tokens = int((self.rows.length - self.first).sum())
        log_hmm = float(np.where(of_text, log_probs, 0.0).sum(dtype=np.float64))
        return {"held_out": -log_hmm / tokens, "held_out_of_base": -self.log_base / tokens}
