"""What is in the folder of a run, finished or not: sizes, settings, rounds and warnings."""

import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinado_jax.config.load import different
from dinado_jax.config.schema import Config
from dinado_jax.controls.make import make_control
from dinado_jax.evaluation.stage_figures import TrainFigures, as_dict
from dinado_jax.evaluation.summary import read_summary
from dinado_jax.evaluation.warnings import training_warnings
from dinado_jax.models.architectures import load_model
from dinado_jax.models.params import abstract_params, by_path
from dinado_jax.scoring import Alternative
from dinado_jax.stages.pipeline import load_run, run_config
from dinado_jax.stages.run_folder import STAGES, StageRecord, read_stage_record
from dinado_jax.training.cost_estimate import abstract_control
from dinado_jax.utils.arguments import POSITIVE, require_integer
from dinado_jax.utils.files import exists


def inspect_run(path: Path) -> dict[str, Any]:
    """Reads a run, without arrays and without checking that its results are as they were written.

    Returns:
      A JSON object: "parameters" ({"base" and, of a control, "control": number by part}), "stages"
      (state, seconds, files, bytes), "settings" (those that differ from the defaults), "rounds"
      (figures of each) and "warnings".

    Raises:
      InputError: if the folder holds no run, or a damaged one.
    """
    config = run_config(path)
    records = {name: read_stage_record(path, name) for name in STAGES}
    train = records["train"]
    warnings = list(training_warnings(train.figures)) if train else []
    if exists(path / "summary.json"):
        again = "delete the folder evaluate and run `dinado evaluate`"
        warnings = list(read_summary(path / "summary.json", again).warnings)
    return {
        "parameters": _parameters(path, config) if records["sft"] else {},
        "stages": {name: _stage(path / name, record) for name, record in records.items()},
        "settings": _settings(config),
        "rounds": list(map(_without_nan, _rounds(train))),
        "warnings": warnings,
    }


def inspect_text(path: Path, prompt: str, text: str | None, count: int) -> dict[str, Any]:
    """Values a text token by token, by the control of a run whose stage train is done.

    Args:
      path: of the run.
      prompt: that the text continues.
      text: None: a sample of the control.
      count: of the tokens that q would rather have drawn at each place, at least 1.

    Returns:
      A JSON object: "prompt", "value" (V of the prompt) and "tokens", of each "token", "log_prob"
      under q, "log_prob_base" (nats), "value", R after it, and "alternatives", the same of others.

    Raises:
      InputError: as for `load_run`, and for a prompt or text that does not fit the context.
    """
    count = require_integer("alternatives", count, *POSITIVE)
    model, finished = load_run(path), True
    if text is None:
        (sample,) = model.generate([prompt], samples=1)
        text, finished = sample.text, sample.finished
    found = model.values(prompt, text, finished=finished)
    others = model.alternatives(prompt, text, finished=finished, count=count)
    numbers = (found.log_probs, found.log_probs_base, found.values[1:])
    along = zip(found.tokens, *(each.tolist() for each in numbers), others, strict=True)
    return {
        "prompt": prompt,
        "value": float(found.values[0]),
        "tokens": [
            {
                **dataclasses.asdict(Alternative(token, q, p, value)),
                "alternatives": list(map(dataclasses.asdict, instead)),
            }
            for token, q, p, value, instead in along
        ],
    }


def _settings(config: Config) -> dict[str, Any]:
    tree = config.as_dict()  # plain JSON values
    pairs = ((key, *key.rpartition(".")[::2]) for key in different(config))
    return {key: (tree[section] if section else tree)[name] for key, section, name in pairs}


def _stage(folder: Path, record: StageRecord | None) -> dict[str, Any]:
    sizes = [
        os.path.getsize(os.path.join(home, name))
        for home, _, names in os.walk(folder)
        for name in names
    ]
    state = "done" if record else "begun" if sizes else "not begun"
    seconds = record.seconds if record else None
    return {"state": state, "seconds": seconds, "files": len(sizes), "bytes": sum(sizes)}


def _rounds(train: StageRecord | None) -> list[dict[str, Any]]:
    if train is None:
        return []
    assert isinstance(train.figures, TrainFigures)
    return list(map(as_dict, train.figures.rounds))


def _without_nan(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in figures.items()
    }


def _parameters(path: Path, config: Config) -> dict[str, dict[str, int]]:
    """The number of parameters of base and control by part."""
    model = load_model(path / "sft" / "base")
    base = abstract_params(model)
    control = abstract_control(make_control(config, model), base)
    return {"base": _parts(base), "control": _parts(control)}


def _parts(params: Mapping[str, Any]) -> dict[str, int]:
    """Sums up parameters by the first name of their paths, all layers in one."""
    parts: Counter[str] = Counter()
    for name, leaf in by_path(params).items():
        parts[re.sub(r"\d+", "*", name.partition("/")[0])] += leaf.size
    return dict(parts)
