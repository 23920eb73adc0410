"""Stage rollout: samples of the base, judged by the oracle, with the task's references."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from dinado_jax import tasks, text
from dinado_jax.base import Base, LanguageModel
from dinado_jax.config import Config, Sampling
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, check_prompts, sampled
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError
from dinado_jax.oracles.judge import Oracle, Verdict, judge, refuse_silence, resolve
from dinado_jax.parallel import make_plan, own_devices, spread
from dinado_jax.processes import agree_on, count, first, index, meet, together
from dinado_jax.progress import Progress, say
from dinado_jax.rollouts import (
    Part,
    Rollouts,
    along_targets,
    before,
    join,
    mixture_weight,
    success_rate,
)
from dinado_jax.stages.folder import RunFolder, remove_parts
from dinado_jax.stages.sft import trained_base
from dinado_jax.tasks.keywords import Example


@dataclasses.dataclass(frozen=True)
class Collected:
    """Rollouts with their texts, and how many samples the oracle failed on (left out)."""

    rollouts: Rollouts
    prompts: list[str]
    texts: list[str]
    failures: int


def training_prompts(config: Config, start: int, count: int) -> list[str]:
    """Prompts number start .. start + count - 1 of an endless shuffled cycle of training ones."""
    examples = tasks.examples(config.task, "train", config.seed)
    distinct = np.array(list(dict.fromkeys(example.prompt for example in examples)))
    cycles = range(start // len(distinct), (start + count - 1) // len(distinct) + 1)
    shuffled = [np.random.default_rng((config.seed, 7, c)).permutation(distinct) for c in cycles]
    offset = start % len(distinct)
    return np.concatenate(shuffled)[offset : offset + count].tolist()


def collect(
    what: str,
    model: LanguageModel,
    prompts: Sequence[str],
    decode: Sampling,
    *,
    samples: int,
    oracle: str,
    key: jax.Array,
    folder: Path,
    mark: str,
    mesh: Mesh | None,
    first_id: int = 0,
    where: Sequence[str] | None = None,
) -> Collected:
    """Samples a model on prompts, judges the texts of each batch while the devices draw the next,
    and scores all under the base. All processes call it together, share the prompts, and get all.

    Args:
      folder: keeps what is judged, a file per batch: a call that was stopped goes on from there.
      mark: what the samples depend on besides the prompts; files of another mark are not used.
      mesh: the devices of this process to decode on.
      where: what messages call each prompt; "prompt 0" and so on when absent.
      first_id: the first prompt's number, which its random stream hangs on.
    """
    codec, judged_by = model.base.codec, resolve(oracle)
    agree_on("prompts", json.dumps(prompts))
    prompt_ids = codec.prompts(prompts)
    method = Method(decode.temperature, decode.top_k, decode.top_p)
    new = decode.max_new_tokens
    sampler = Sampler(model.policy, method, codec.eos_id, new, samples, mesh)
    check_prompts(model.policy, prompt_ids, new, where)
    mark = hashlib.sha256(json.dumps([mark, what, list(prompts)]).encode()).hexdigest()
    ids = first_id + np.arange(len(prompts))
    folder.mkdir(parents=True, exist_ok=True)
    own = np.argsort([len(prompt) for prompt in prompt_ids], kind="stable")[index() :: count()]
    left = own[~np.isin(own, _judged(folder, mark) // samples)]
    batches = iter(())
    if len(left):
        mine = [prompt_ids[i] for i in left]
        batches = sampled(sampler, model.variables, mine, key, decode.batch, ids[left])
    begun, complaint = (len(own) - len(left)) * samples, ""
    with Progress(what, len(own) * samples, "sample", begun) as progress:
        for numbers, drawn in together(batches):
            prompt = left[numbers // samples]
            said = codec.decode([row[:n] for row, n in zip(drawn.tokens, drawn.length)])
            verdict = judge(judged_by, [prompts[i] for i in prompt], said)
            complaint = _complained(complaint, verdict)
            row = prompt * samples + numbers % samples
            begin = [prompt_ids[i] for i in prompt]
            part = _part(model.base, begin, drawn, verdict, ids[prompt], row, decode.batch, mesh)
            part.save(folder / f"{prompt.min():08d}.npz", mark)
            progress.advance(len(row))
    meet(what)
    number = len(prompts) * samples
    rows = _whole(folder, mark, number, codec.eos_id, judged_by)
    said = codec.decode(
        [
            tokens[start:end]
            for tokens, start, end in zip(rows.tokens, rows.prompt_length, rows.length)
        ]
    )
    asked = [prompts[i] for i in rows.row // samples]
    return Collected(_rollouts(rows), asked, said, number - len(rows))


def _complained(before: str, verdict: Verdict) -> str:
    """Shows the first message of an oracle that raised; files keep its type alone."""
    if verdict.message and not before:
        say(f"the oracle failed on {verdict.failures} samples of a batch: {verdict.message}")
    return before or verdict.message


def _part(base, prompts, drawn, verdict, ids, row, batch, mesh) -> Part:
    """One batch, scored under the base."""
    new = [tokens[:n] for tokens, n in zip(drawn.tokens, drawn.length)]
    rows = text.sequences(prompts, new, base.codec.eos_id, base.model.config.n_positions)
    log_base = score(base.policy, base.variables, rows, batch, mesh)
    log_proposal = along_targets(rows, drawn.log_probs)
    return Part(
        **vars(rows),
        label=verdict.labels,
        log_base=log_base.sum(1),
        log_proposal=log_proposal.sum(1),
        log_prefix=before(log_base - log_proposal),
        prompt_id=ids.astype(np.int32),
        finished=drawn.finished,
        row=row,
        fault=verdict.faults,
    )


def _judged(folder: Path, mark: str) -> np.ndarray:
    """The numbers of the rows that are there."""
    return np.concatenate([np.array([], int), *(part.row for part in _parts(folder, mark))])


def _parts(folder: Path, mark: str) -> list[Part]:
    """What is in the folder; a damaged file, or one of another mark, is as good as none."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with contextlib.suppress(InputError):
            found.append(Part.load(path, mark))
    return found


def _whole(folder: Path, mark: str, number: int, fill: int, oracle: Oracle) -> Part:
    """All parts in the order of their rows, without those that the oracle failed on."""
    rows = join(_parts(folder, mark), fill)
    order = np.argsort(rows.row)
    if not np.array_equal(rows.row[order], np.arange(number)):
        raise InputError(
            f"{len(rows)} rows are here, {number} were to be judged: all processes must see one "
            "run folder, put run.folder on a file system they share"
        )
    if (rows.fault != "").all():
        discard(folder)  # an oracle that is mended judges all of them
    refuse_silence(oracle, Verdict(rows.label, rows.fault))
    kept = order[rows.fault[order] == ""]
    return Part(**{f.name: getattr(rows, f.name)[kept] for f in dataclasses.fields(Part)})


def _rollouts(rows: Part) -> Rollouts:
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
        log_proposal=rollouts.log_base - mixture_weight(log_ratio.sum(1), alpha),
        log_prefix=mixture_weight(before(log_ratio), alpha),
    )


def judged_references(
    base: Base,
    prompts: Sequence[str],
    examples: Sequence[Example],
    oracle: str,
    batch: int,
    folder: Path,
    mark: str,
    mesh: Mesh | None,
) -> Rollouts:
    """The references of the prompts' examples as rollouts without a proposal, judged alike. All
    processes call it together, share them, and get all; folder, mark and mesh as in `collect`.

    References too long for the base, and those on which the oracle fails, are left out. InputError
    if none are left.
    """
    codec, limit, judged_by = base.codec, base.model.config.n_positions, resolve(oracle)
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
    own = np.arange(len(fit))[index() :: count()]
    left = own[~np.isin(own, _judged(folder, mark))]
    batches, complaint = (left[i : i + batch] for i in range(0, len(left), batch)), ""
    with Progress("references", len(own), "row", len(own) - len(left)) as progress:
        for row in together(batches):
            verdict = judge(judged_by, *zip(*(pairs[i] for i in row)))
            complaint = _complained(complaint, verdict)
            rows = text.sequences(
                [asked[i] for i in row], [given[i] for i in row], codec.eos_id, limit
            )
            Part(
                **vars(rows),
                label=verdict.labels,
                log_base=score(base.policy, base.variables, rows, batch, mesh).sum(1),
                log_proposal=np.full(len(row), np.nan, np.float32),
                log_prefix=np.zeros((len(row), rows.tokens.shape[1] - 1), np.float32),
                prompt_id=np.array([number[pairs[i][0]] for i in row], np.int32),
                finished=np.ones(len(row), bool),
                row=row,
                fault=verdict.faults,
            ).save(folder / f"{row.min():08d}.npz", mark)
            progress.advance(len(row))
    meet("references")
    return _rollouts(_whole(folder, mark, len(fit), codec.eos_id, judged_by))


def _target(settings: Sampling) -> str:
    """What the weighted rollouts are samples of."""
    if settings.top_k or settings.top_p < 1:
        return "q* of the truncated base: tokens that rollouts never draw are never learned"
    return "q* of the base"


def rollout(config: Config, run: RunFolder) -> dict:
    """Samples the base on training prompts; leaves rollout/rollouts.npz.

    InputError when no sample succeeds: there is nothing to learn from.
    """
    folder = run.stage("rollout")
    mesh = own_devices(make_plan(config.parallel))
    base = trained_base(config, run, partial(spread, mesh))
    settings = config.rollout
    prompts = training_prompts(config, 0, settings.prompts)
    collected = collect(
        "rollout",
        base,
        prompts,
        settings,
        samples=settings.samples,
        oracle=config.rollout.oracle,
        key=jax.random.key(config.seed),
        folder=folder / "parts",
        mark=run.mark("rollout"),
        mesh=mesh,
    )
    rollouts = collected.rollouts
    figures = {
        "samples": len(rollouts),
        "successes": int((rollouts.label > 0).sum()),
        "success_rate": success_rate(rollouts),
        "finished": float(rollouts.finished.mean()),
        "oracle_failures": collected.failures,
        "target": _target(settings),
    }
    if not figures["successes"]:
        discard(folder / "parts")  # other settings draw others
        raise InputError(
            f"none of the {figures['samples']} rollouts satisfies the oracle: draw more with "
            "rollout.samples, train the base on the task with sft.steps, or ease the oracle"
        )
    if settings.references:
        examples = tasks.examples(config.task, "train", config.seed)
        oracle, batch, parts = settings.oracle, settings.batch, folder / "references_parts"
        mark = run.mark("rollout")
        references = judged_references(base, prompts, examples, oracle, batch, parts, mark, mesh)
        figures["references"] = len(references)
        figures["references_success_rate"] = float(references.label.mean())
        rollouts = join([rollouts, references], base.codec.eos_id)
    keep(rollouts, folder / "rollouts.npz")
    return figures


def keep(rollouts: Rollouts, path: Path, mark: str = "") -> None:
    """What process 0 has collected, for all."""
    if first():
        rollouts.save(path, mark)
    meet(f"{path.name} is kept")


def discard(parts: Path) -> None:
    """Forgets parts, once all processes have read them: all at once, whatever comes between."""
    meet(f"{parts.name} are read")
    if first():
        forgotten = parts.with_name(f"forgotten_{parts.name}")
        shutil.rmtree(forgotten, ignore_errors=True)
        parts.rename(forgotten)
        remove_parts(forgotten)
