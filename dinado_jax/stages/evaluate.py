"""Stage evaluate: what control gained, what it cost, and what it could not have cost less than."""

import importlib.metadata
import platform
import time

import jax
import numpy as np

from dinado_jax.config.schema import Config
from dinado_jax.distributed.processes import is_main
from dinado_jax.evaluation import metrics
from dinado_jax.evaluation.report import write_report
from dinado_jax.evaluation.samples import read_samples
from dinado_jax.evaluation.warnings import summary_warnings
from dinado_jax.stages.artifacts import held_out
from dinado_jax.stages.run_folder import STAGES, RunFolder
from dinado_jax.tasks.keyword.lexical import coverage
from dinado_jax.utils.files import (
    write_json,
)
from dinado_jax.utils.progress import print_once

_PACKAGES = ("dinado-jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def _distinct(samples: list[dict], count: int, seed: int) -> float:
    """Distinct-2 over `count` of the texts, drawn with a fixed seed: it falls with their number."""
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    return metrics.distinct_n([samples[i]["text"] for i in chosen], 2)


def _groups(samples: list[dict]) -> np.ndarray:
    """The number of each sample's prompt among those present, from 0."""
    return np.unique([s["prompt_id"] for s in samples], return_inverse=True)[1]


def _mean(samples: list[dict], values: np.ndarray) -> tuple[float, float]:
    """Mean over samples and its standard error, prompts being the independent draws."""
    group = _groups(samples)
    per_prompt = np.bincount(group, values) / np.bincount(group)
    return float(values.mean()), metrics.mean_and_error(per_prompt)[1]


def _hits(samples: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Successes and samples of each prompt."""
    group = _groups(samples)
    return np.bincount(group, [s["label"] for s in samples]), np.bincount(group)


def _per_token(samples: list[dict]) -> float | None:
    """Log-probability under the base, nats per token."""
    tokens = sum(s["tokens"] for s in samples)
    return sum(s["log_prob_base"] for s in samples) / tokens if tokens else None


def _figures(samples: list[dict], references: list[tuple[str, ...]], keywords: bool) -> dict:
    """keywords: whether the prompts' keywords are what the oracle wants; coverage is theirs."""
    rate, error = _mean(samples, np.array([s["label"] for s in samples]))
    log_base, _ = _mean(samples, np.array([s["log_prob_base"] for s in samples]))
    figures = {
        "samples": len(samples),
        "success_rate": rate,
        "success_rate_error": error,
        "coverage": None,
        "log_prob_under_base": log_base,
        "log_prob_per_token": _per_token(samples),
        "tokens": float(np.mean([s["tokens"] for s in samples])),
        "finished": float(np.mean([s["finished"] for s in samples])),
    }
    if keywords:
        figures["coverage"] = float(np.mean([coverage(s["prompt"], s["text"]) for s in samples]))
    if references:
        chosen = [references[s["prompt_id"]] for s in samples]
        figures["bleu_4"] = metrics.bleu4([s["text"] for s in samples], chosen)
    return figures


def evaluate(config: Config, run: RunFolder) -> dict:
    """Reads the generate stage's samples; process 0 leaves summary.json and report.html in the run
    folder."""
    began = time.monotonic()
    run.stage_folder("evaluate")
    if not is_main():
        return {}
    base, control = (
        read_samples(run.path / "generate" / f"{name}.jsonl") for name in ("base", "control")
    )
    references = [example.references for example in held_out(config)]
    if config.task.name == "toy" or not all(references):
        references = []  # a lone made-up caption is no yardstick
    ratios = np.array([s["log_prob"] - s["log_prob_base"] for s in control])
    kl, kl_error = _mean(control, ratios)
    keywords = config.rollout.oracle == "lexical"
    summary = {
        name: _figures(samples, references, keywords)
        for name, samples in (("base", base), ("control", control))
    }
    summary["control"] |= {"kl_to_base": kl, "kl_to_base_error": kl_error}
    successes = [s for s in base if s["label"] > 0.5]
    equal = min(len(successes), len(control))
    summary["base"]["distinct_2"] = _distinct(base, equal, config.seed)
    summary["base"]["successes"] = len(successes)
    summary["base"]["log_prob_per_token_of_successes"] = _per_token(successes)
    summary["base"]["distinct_2_of_successes"] = _distinct(successes, equal, config.seed)
    summary["control"]["distinct_2"] = _distinct(control, equal, config.seed)
    rates = summary["control"]["success_rate"], summary["base"]["success_rate"]
    summary["kl_floor"] = metrics.kl_floor(*rates)
    summary["efficiency"] = metrics.efficiency(summary["kl_floor"], kl)
    spread = metrics.rate_distribution(*_hits(base))
    # Both are floors; where the base all but never succeeds, the grid of rates ends too early.
    by_prompt = metrics.kl_floor_by_prompt(rates[0], *spread)
    summary["kl_floor_by_prompt"] = max(by_prompt, summary["kl_floor"])
    summary["efficiency_by_prompt"] = metrics.efficiency(summary["kl_floor_by_prompt"], kl)
    records = {name: run.finished(name) for name in STAGES}
    summary["seconds"] = {name: rec["seconds"] for name, rec in records.items() if rec}
    summary["seconds"]["evaluate"] = round(time.monotonic() - began, 2)
    summary["stages"] = {name: rec["figures"] for name, rec in records.items() if rec}
    summary["warnings"] = summary_warnings(summary)
    for line in summary["warnings"]:
        print_once(f"warning: {line}")
    summary["config"] = config.as_dict()
    summary["versions"] = {name: importlib.metadata.version(name) for name in _PACKAGES}
    summary["versions"]["python"] = platform.python_version()
    device = jax.devices()[0]
    summary["device"] = {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
    }
    write_json(run.path / "summary.json", summary)
    write_report(run.path / "report.html", summary, base, control)
    return {"success_rate": rates[0], "efficiency": summary["efficiency"]}
