"""Collects rollouts: samples of a model, judged by the oracle and scored under the base."""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from dinado_jax.config.schema import Sampling
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, check_prompts, iter_samples
from dinado_jax.decoding.score import score
from dinado_jax.distributed.processes import (
    assert_same,
    barrier,
    is_main,
    lockstep,
    process_count,
    process_index,
)
from dinado_jax.errors import InputError
from dinado_jax.language_model import Base, LanguageModel
from dinado_jax.oracles.judge import (
    Oracle,
    OracleResult,
    judge,
    require_labels,
)
from dinado_jax.rollouts.arrays import Rollouts, RolloutShard, concatenate
from dinado_jax.rollouts.weighting import (
    align_to_targets,
    exclusive_cumsum,
    log_mixture_weight,
)
from dinado_jax.tasks.protocol import Example
from dinado_jax.utils.progress import Progress, print_once

_PART_FILE = re.compile(r"\d{8,}\.npz(\.partial)?")


@dataclasses.dataclass(frozen=True)
class Collected:
    """Rollouts with their texts, and how many samples the oracle failed on (left out)."""

    rollouts: Rollouts
    prompts: list[str]
    texts: list[str]
    failures: int


def collect(
    what: str,
    model: LanguageModel,
    prompts: Sequence[str],
    decode: Sampling,
    *,
    samples: int,
    oracle: Oracle,
    key: jax.Array,
    folder: Path,
    fingerprint: str,
    mesh: Mesh | None,
    first_id: int = 0,
    where: Sequence[str] | None = None,
) -> Collected:
    """Samples a model on prompts, judges the texts of each batch while the devices draw the next,
    and scores all under the base. All processes call it together, share the prompts, and get all.

    Args:
      folder: keeps what is judged, a file per batch: a call that was stopped goes on from there.
      fingerprint: what the samples depend on besides the prompts; files of another fingerprint are
        not used.
      mesh: the devices of this process to decode on.
      where: what messages call each prompt; "prompt 0" and so on when absent.
      first_id: the first prompt's number, which its random stream depends on.
    """
    codec = model.base.codec
    assert_same("prompts", json.dumps(prompts))
    prompt_ids = codec.prompts(prompts)
    method = Method(decode.temperature, decode.top_k, decode.top_p)
    new = decode.max_new_tokens
    sampler = Sampler(model.policy, method, codec.eos_id, new, samples, mesh)
    check_prompts(model.policy, prompt_ids, new, where)
    fingerprint = hashlib.sha256(
        json.dumps([fingerprint, what, list(prompts)]).encode()
    ).hexdigest()
    ids = first_id + np.arange(len(prompts))
    folder.mkdir(parents=True, exist_ok=True)
    own = np.argsort([len(prompt) for prompt in prompt_ids], kind="stable")[
        process_index() :: process_count()
    ]
    left = own[~np.isin(own, _judged(folder, fingerprint) // samples)]
    batches = iter(())
    if len(left):
        mine = [prompt_ids[i] for i in left]
        batches = iter_samples(sampler, model.variables, mine, key, decode.batch, ids[left])
    begun, complaint = (len(own) - len(left)) * samples, ""
    with Progress(what, len(own) * samples, "sample", begun) as progress:
        for numbers, drawn in lockstep(batches):
            prompt = left[numbers // samples]
            said = codec.decode([row[:n] for row, n in zip(drawn.tokens, drawn.length)])
            result = judge(oracle, [prompts[i] for i in prompt], said)
            complaint = _complained(complaint, result)
            row = prompt * samples + numbers % samples
            begin = [prompt_ids[i] for i in prompt]
            part = _part(model.base, begin, drawn, result, ids[prompt], row, decode.batch, mesh)
            part.save(folder / f"{prompt.min():08d}.npz", fingerprint)
            progress.advance(len(row))
    barrier(what)
    number = len(prompts) * samples
    rows = _whole(folder, fingerprint, number, codec.eos_id, oracle)
    said = codec.decode(
        [
            tokens[start:end]
            for tokens, start, end in zip(rows.tokens, rows.prompt_length, rows.length)
        ]
    )
    asked = [prompts[i] for i in rows.row // samples]
    return Collected(_rollouts(rows), asked, said, number - len(rows))


def _complained(before: str, result: OracleResult) -> str:
    """Shows the first message of an oracle that raised; files keep its type alone."""
    if result.message and not before:
        print_once(f"the oracle failed on {result.failures} samples of a batch: {result.message}")
    return before or result.message


def _part(base, prompts, drawn, result, ids, row, batch, mesh) -> RolloutShard:
    """One batch, scored under the base."""
    new = [tokens[:n] for tokens, n in zip(drawn.tokens, drawn.length)]
    rows = sequences(prompts, new, base.codec.eos_id, base.model.config.n_positions)
    log_base = score(base.policy, base.variables, rows, batch, mesh)
    log_proposal = align_to_targets(rows, drawn.log_probs)
    return RolloutShard(
        **vars(rows),
        label=result.labels,
        log_base=log_base.sum(1),
        log_proposal=log_proposal.sum(1),
        log_prefix=exclusive_cumsum(log_base - log_proposal),
        prompt_id=ids.astype(np.int32),
        finished=drawn.finished,
        row=row,
        error=result.errors,
    )


def _judged(folder: Path, fingerprint: str) -> np.ndarray:
    """The numbers of the rows that are there."""
    return np.concatenate([np.array([], int), *(part.row for part in _parts(folder, fingerprint))])


def _parts(folder: Path, fingerprint: str) -> list[RolloutShard]:
    """What is in the folder; a damaged file, or one of another fingerprint, is as good as none."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with contextlib.suppress(InputError):
            found.append(RolloutShard.load(path, fingerprint))
    return found


def _whole(folder: Path, fingerprint: str, number: int, fill: int, oracle: Oracle) -> RolloutShard:
    """All parts in the order of their rows, without those that the oracle failed on."""
    rows = concatenate(_parts(folder, fingerprint), fill)
    order = np.argsort(rows.row)
    if not np.array_equal(rows.row[order], np.arange(number)):
        raise InputError(
            f"{len(rows)} rows are here, {number} were to be judged: all processes must see one "
            "run folder, put run.folder on a file system they share"
        )
    if (rows.error != "").all():
        discard_shards(folder)  # an oracle that is fixed judges all of them
    require_labels(oracle, OracleResult(rows.label, rows.error))
    kept = order[rows.error[order] == ""]
    return RolloutShard(
        **{f.name: getattr(rows, f.name)[kept] for f in dataclasses.fields(RolloutShard)}
    )


def _rollouts(rows: RolloutShard) -> Rollouts:
    return Rollouts(**{f.name: getattr(rows, f.name) for f in dataclasses.fields(Rollouts)})


def as_mixture(
    rollouts: Rollouts, q: LanguageModel, alpha: float, batch: int, mesh: Mesh | None = None
) -> Rollouts:
    """Plain samples of base and q, a share `alpha` of them the base's, as draws of the mixture
    alpha p + (1 - alpha) q: p / proposal is then at most 1 / alpha (defensive importance
    sampling)."""
    base = q.base
    under_p, under_q = (score(m.policy, m.variables, rollouts, batch, mesh) for m in (base, q))
    log_ratio = under_q - under_p
    return dataclasses.replace(
        rollouts,
        log_proposal=rollouts.log_base - log_mixture_weight(log_ratio.sum(1), alpha),
        log_prefix=log_mixture_weight(exclusive_cumsum(log_ratio), alpha),
    )


def collect_references(
    base: Base,
    prompts: Sequence[str],
    examples: Sequence[Example],
    oracle: Oracle,
    batch: int,
    folder: Path,
    fingerprint: str,
    mesh: Mesh | None,
) -> Rollouts:
    """The references of the prompts' examples as rollouts without a proposal, judged alike. All
    processes call it together, share them, and get all; folder, fingerprint and mesh as in
    `collect`.

    References too long for the base, and those on which the oracle fails, are left out. InputError
    if none are left.
    """
    codec, limit = base.codec, base.model.config.n_positions
    number = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    pairs = [(e.prompt, ref) for e in examples if e.prompt in number for ref in e.references]
    asked = codec.prompts([prompt for prompt, _ in pairs])
    given = codec.targets([reference for _, reference in pairs])
    fit = [i for i, (p, t) in enumerate(zip(asked, given)) if len(p) + len(t) <= limit]
    if not fit:
        raise InputError(
            f"no reference fits in {limit} tokens: raise base.n_positions, or set "
            "rollout.references=false"
        )
    pairs, asked, given = ([values[i] for i in fit] for values in (pairs, asked, given))
    folder.mkdir(parents=True, exist_ok=True)
    own = np.arange(len(fit))[process_index() :: process_count()]
    left = own[~np.isin(own, _judged(folder, fingerprint))]
    batches, complaint = (left[i : i + batch] for i in range(0, len(left), batch)), ""
    with Progress("references", len(own), "row", len(own) - len(left)) as progress:
        for row in lockstep(batches):
            result = judge(oracle, *zip(*(pairs[i] for i in row)))
            complaint = _complained(complaint, result)
            rows = sequences([asked[i] for i in row], [given[i] for i in row], codec.eos_id, limit)
            RolloutShard(
                **vars(rows),
                label=result.labels,
                log_base=score(base.policy, base.variables, rows, batch, mesh).sum(1),
                log_proposal=np.full(len(row), np.nan, np.float32),
                log_prefix=np.zeros((len(row), rows.tokens.shape[1] - 1), np.float32),
                prompt_id=np.array([number[pairs[i][0]] for i in row], np.int32),
                finished=np.ones(len(row), bool),
                row=row,
                error=result.errors,
            ).save(folder / f"{row.min():08d}.npz", fingerprint)
            progress.advance(len(row))
    barrier("references")
    return _rollouts(_whole(folder, fingerprint, len(fit), codec.eos_id, oracle))


def save_once(rollouts: Rollouts, path: Path, fingerprint: str = "") -> None:
    """What process 0 has collected, for all."""
    if is_main():
        rollouts.save(path, fingerprint)
    barrier(f"{path.name} is kept")


def discard_shards(parts: Path) -> None:
    """Forgets parts, once all processes have read them: all at once, whatever comes between."""
    barrier(f"{parts.name} are read")
    if is_main():
        forgotten = parts.with_name(f"forgotten_{parts.name}")
        shutil.rmtree(forgotten, ignore_errors=True)
        parts.rename(forgotten)
        remove_shards(forgotten)


def remove_shards(folder: Path) -> None:
    """Removes a folder of parts; a file in it that no stage wrote stays, and the folder with it."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name == "base":  # of a mixture
            remove_shards(entry)
        elif _PART_FILE.fullmatch(entry.name):
            entry.unlink()
    if not sorted(folder.iterdir()):
        shutil.rmtree(folder)
