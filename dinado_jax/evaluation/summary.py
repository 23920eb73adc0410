"""summary.json: what control gained, what it cost, and how the run was made."""

import dataclasses
import math
from pathlib import Path
from typing import Any, TypeVar, cast

from dinado_jax.evaluation import stage_figures
from dinado_jax.evaluation.records import read_record
from dinado_jax.evaluation.stage_figures import StageFigures
from dinado_jax.utils.files import read_json, validate, write_json

T = TypeVar("T")

CALIBRATION_BINS = 10  # of `calibration_error`


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFigures:
    """Figures of a model's samples on held-out prompts; nan if not measured."""

    samples: int
    success_rate: float
    success_rate_error: float  # standard error, as all errors here
    log_prob_under_base: float  # nats per sequence
    log_prob_per_token: float  # nats per token, under the base
    tokens: float  # per sample
    finished: float  # share that ended with an end of text
    distinct_2: float  # over as many texts as the base has successes (at most the control's)
    metrics: dict[str, float]  # of the task, by their keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseFigures(ModelFigures):
    """Figures of the base."""

    successes: int
    log_prob_per_token_of_successes: float  # nats per token
    distinct_2_of_successes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlFigures(ModelFigures):
    """Figures of the controlled model q."""

    kl_to_base: float  # KL(q || p), nats per sequence; with decode.particles an upper bound of it
    kl_to_base_error: float
    calibration_error: float  # of V(prompt), by the base's success rates; without chance's part
    brier_score: float = math.nan  # of V(prompt): the mean of (C - V)^2 over the base's samples


@dataclasses.dataclass(frozen=True)
class Floors:
    """The least KL to the base (nats per sequence) of any controller with these labels."""

    kl_floor: float  # see `metrics.kl_floor_of_samples`; tilted: `kl_floor_of_labels`
    efficiency: float  # kl_floor / kl_to_base
    kl_floor_by_prompt: float  # see `metrics.kl_floor_by_prompt`; at least kl_floor
    efficiency_by_prompt: float
    kl_of_target: float = math.nan  # with decode.particles: see `metrics.kl_of_target`


@dataclasses.dataclass(frozen=True)
class StrengthFigures:
    """Figures of the control at one strength."""

    strength: float
    success_rate: float
    success_rate_error: float
    kl_to_base: float  # nats per sequence
    kl_to_base_error: float


@dataclasses.dataclass(frozen=True)
class MomentFigures:
    """The mean of a feature of `target.moments` over held-out prompts."""

    feature: str
    wanted: float
    coefficient: float  # its lambda, nats per unit
    base: float
    base_error: float
    control: float
    control_error: float


@dataclasses.dataclass(frozen=True)
class Device:
    """What a run computed on."""

    platform: str
    kind: str
    count: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The content of summary.json; there, floors are flattened into the top level."""

    base: BaseFigures
    control: ControlFigures
    floors: Floors
    seconds: dict[str, float]  # per stage
    stages: StageFigures
    warnings: tuple[str, ...]
    config: dict[str, Any]
    versions: dict[str, str]
    device: Device
    moments: tuple[MomentFigures, ...] = ()
    strengths: tuple[StrengthFigures, ...] = ()  # of evaluate.strengths, ascending

    @property
    def kl_is_bound(self) -> bool:
        """Whether `kl_to_base` is an upper bound, because texts were chosen among particles."""
        return bool(self.config.get("decode", {}).get("particles"))

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON value of summary.json."""
        return {
            "base": _as_dict(self.base),
            "control": _as_dict(self.control),
            **dataclasses.asdict(self.floors),
            "moments": [dataclasses.asdict(moment) for moment in self.moments],
            "strengths": [dataclasses.asdict(each) for each in self.strengths],
            "seconds": self.seconds,
            "stages": {
                field.name: stage_figures.as_dict(getattr(self.stages, field.name))
                for field in _STAGES
            },
            "warnings": list(self.warnings),
            "config": self.config,
            "versions": self.versions,
            "device": dataclasses.asdict(self.device),
        }


_STAGES = dataclasses.fields(StageFigures)
# Every summary has this key, so that readers need not know which tasks have keywords.
_COVERAGE = {"coverage": math.nan}


def _as_dict(figures: ModelFigures) -> dict[str, Any]:
    tree = dataclasses.asdict(figures)
    metrics = tree.pop("metrics")
    return tree | _COVERAGE | metrics


def _read_model(kind: type[T], tree: dict[str, Any], where: str, fix: str) -> T:
    """Reads the figures of a model; the keys besides its fields are metrics of the task."""
    keys = tree.keys() - {field.name for field in dataclasses.fields(cast(Any, kind))}
    validate(tree, dict.fromkeys(keys, (float, type(None))), where, fix)
    metrics = {key: math.nan if tree[key] is None else tree[key] for key in sorted(keys)}
    return read_record(kind, tree, where, fix, metrics=metrics)


def write_summary(path: Path, summary: Summary) -> None:
    """Writes summary.json; nan and infinity, which JSON lacks, become null."""
    write_json(path, summary.as_dict())


_SCHEMA = {
    "base": dict,
    "control": dict,
    "moments": [dict],
    "seconds": dict,
    "stages": {field.name: dict for field in _STAGES},
    "warnings": [str],
    "config": dict,
    "versions": dict,
    "device": dict,
}


def read_summary(path: Path, fix: str) -> Summary:
    """Reads summary.json; null becomes nan.

    Raises:
      InputError: ending in `fix`, if it cannot be read or a part is missing or of another type.
    """
    tree, where = read_json(path, fix, _SCHEMA), str(path)
    stages = {
        field.name: stage_figures.from_dict(
            cast(Any, field.type), tree["stages"][field.name], f"{where}, {field.name}", fix
        )
        for field in _STAGES
    }
    return Summary(
        base=_read_model(BaseFigures, tree["base"], f"{where}, base", fix),
        control=_read_model(ControlFigures, tree["control"], f"{where}, control", fix),
        floors=read_record(Floors, tree, where, fix),
        moments=tuple(
            read_record(MomentFigures, moment, f"{where}, moments", fix)
            for moment in tree["moments"]
        ),
        strengths=tuple(
            read_record(StrengthFigures, each, f"{where}, strengths", fix)
            for each in validate(tree.get("strengths", []), [dict], f"{where}, strengths", fix)
        ),
        seconds=tree["seconds"],
        stages=StageFigures(**stages),
        warnings=tuple(tree["warnings"]),
        config=tree["config"],
        versions=tree["versions"],
        device=read_record(Device, tree["device"], f"{where}, device", fix),
    )
