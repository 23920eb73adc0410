"""The dropout of stage sft: a rate for every site, fixed before the first step."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dinado_jax.config.schema import Sft
from dinado_jax.data.batch import Batch
from dinado_jax.data.batching import take
from dinado_jax.data.sequences import Sequences, windows
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.distributed.processes import barrier, broadcast, is_main
from dinado_jax.models.codec import Codec
from dinado_jax.models.dropout import Dropout, uniform
from dinado_jax.models.protocol import BaseModel
from dinado_jax.training.fisher import fisher_scores, rank_schedule
from dinado_jax.utils.files import exists, read_sealed, write_sealed
from dinado_jax.utils.progress import print_once

RATES = "dropout.json"
_SHARE, _LEAST = 0.01, 128  # of the text that scores are of: the paper's share, and rows at least


def make_dropout(
    settings: Sft,
    model: BaseModel,
    params: dict,
    text: Callable[[], Batch],
    plan: Plan,
    folder: Path,
) -> Dropout:
    """Returns the dropout of a run that has any.

    Rates of guided dropout are computed once and kept in `folder`: a stage that continues reads
    them.

    Args:
      settings: of the stage.
      model: to fine-tune.
      params: those that fine-tuning begins with, sharded by the plan.
      text: returns the rows that guided dropout takes its scores of, see `sample_text`.
      plan: how the scores are computed.
      folder: of the stage.

    Raises:
      InputError: if the rates have changed since they were written.
    """
    if settings.dropout != "guided":
        return uniform(model.dropout_sites, settings.dropout_rate, settings.dropout == "gaussian")
    made = folder / RATES
    if not broadcast(exists(made)):
        rows = text()
        scores = fisher_scores(model, params, rows, plan)
        rates = rank_schedule(scores, settings.dropout_rate)
        if is_main():
            write_sealed(made, {"rows": len(rows.length), "scores": scores, "rates": rates})
        barrier("the rates of dropout are written")
    kept = read_sealed(made, f"delete the folder {folder} and run again")
    rates = {site: kept["rates"][site] for site in model.dropout_sites}
    most, least = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
    print_once(
        f"sft: guided dropout by the Fisher information of {kept['rows']} rows, from "
        f"{rates[most]:g} at {most} to {rates[least]:g} at {least} ({made})"
    )
    return Dropout(tuple(rates.items()))


def sample_text(corpus: list[str], rows: Sequences, codec: Codec, length: int, seed: int) -> Batch:
    """Rows of about 1% of the text that a base was trained on, and at least 128 if there are.

    The paper takes 1% of the pretraining text; the least number is chosen here.

    Args:
      corpus: lines of that text, which are rows without a prompt; [] for none.
      rows: of the task, which stand for it then.
      codec: of the base.
      length: tokens of the longest row; longer lines are cut.
      seed: of the choice.
    """

    def chosen(count: int) -> np.ndarray:
        some = min(count, max(_LEAST, round(_SHARE * count)))
        return np.sort(np.random.default_rng((seed, 13, 1)).permutation(count)[:some])

    if not corpus:
        return take(rows, chosen(len(rows)))
    lines = [corpus[index] for index in chosen(len(corpus))]
    bare = dataclasses.replace(codec, template=None)
    begun = bare.prompts([""] * len(lines))
    rows = windows(begun, bare.targets(lines), bare.eos_id, length)
    return take(rows, np.arange(len(rows)))
