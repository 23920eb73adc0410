"""The work of a command's stages in order, for what is shown of it: labels and amounts."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dinado_jax.config.schema import Config, Train
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.utils.outlook import Work


def round_ends(settings: Train) -> list[int]:
    """The step at which each round of training ends."""
    ends = np.linspace(0, settings.steps, settings.rounds + 1).round().astype(int)[1:]
    return ends.tolist()


class Refresh(NamedTuple):
    """Samples per prompt of a round that samples again, by who draws them."""

    control: int
    base: int  # of a mixture
    roll_outs: int  # begun by the control, continued by the base


def refresh(settings: Train) -> Refresh:
    """Divides `train.refresh_samples`."""
    samples = settings.refresh_samples
    base, roll_outs = round(settings.mixture * samples), round(settings.roll_out * samples)
    return Refresh(samples - base - roll_outs, base, roll_outs)


def other_strengths(config: Config) -> list[float]:
    """Strengths that the control is sampled at besides its own, see `evaluate.strengths`."""
    if config.decode.particles or config.target.moments:
        return []
    return [one for one in sorted(config.evaluate.strengths) if one != config.decode.strength]


def works(config: Config, names: Sequence[str], prompts: int) -> list[Work]:
    """The work of these stages. Its names are those that `Progress` and the stages go by.

    Args:
      config: of the run.
      names: of the stages of the command.
      prompts: to generate for.
    """
    found = []
    for name in STAGES:
        if name in names:
            number = f"stage {names.index(name) + 1} of {len(names)}: " if len(names) > 1 else ""
            label = f"{number}{name}"
            found += [Work(f"stage {name}", label), *_of_stage(name, label, config, prompts)]
    return found


def _of_stage(name: str, label: str, config: Config, prompts: int) -> Iterator[Work]:
    if name == "sft":
        for kind, steps in (("pretrain", config.sft.pretrain_steps), ("sft", config.sft.steps)):
            yield Work(kind, label if kind == name else f"{label}, pretraining", kind, steps)
    elif name == "rollout":
        tokens = config.rollout.prompts * config.rollout.samples * config.rollout.max_new_tokens
        yield Work("rollout", label, "tokens of the base", tokens)
        if config.rollout.references:
            yield Work("references", f"{label}, references", "references", 1)
    elif name == "train":
        yield from _of_training(label, config)
    elif name == "generate":
        tokens = prompts * config.evaluate.samples * config.decode.max_new_tokens
        # Under a mask the rates of earlier stages do not hold.
        kind = "tokens under a mask of" if config.decode.guarantee else "tokens of"
        yield Work("generate base", f"{label}, base", f"{kind} the base", tokens)
        if config.decode.particles:
            tokens, kind = tokens * config.decode.particles, "particles under"
        yield Work("generate control", f"{label}, control", f"{kind} the control", tokens)
        tokens = prompts * config.decode.max_new_tokens
        for strength in other_strengths(config):
            what = f"strength {strength}"
            yield Work(f"generate {what}", f"{label}, {what}", f"{kind} the control", tokens)


def _of_training(label: str, config: Config) -> Iterator[Work]:
    settings, begin = config.train, 0
    for number in range(1, settings.table_rounds + 1):
        tokens = settings.refresh_prompts * settings.refresh_samples * config.rollout.max_new_tokens
        named = f"{label}, table round {number} of {settings.table_rounds}"
        yield Work(f"table round {number}", named, "tokens of the base", tokens)
    for number, end in enumerate(round_ends(settings)):
        named = f"{label}, round {number + 1} of {settings.rounds}"
        yield Work(f"round {number}", named)
        rows = config.rollout.prompts * config.rollout.samples
        if number:
            rows = settings.refresh_prompts * settings.refresh_samples
            of = refresh(settings)
            for what, samples, kind in (
                ("rollout", of.control, "tokens of the control"),
                ("rollout of the base", of.base, "tokens of the base"),
                ("roll-out by the base", of.roll_outs, "tokens of the control beside the base"),
            ):
                tokens = settings.refresh_prompts * samples * config.rollout.max_new_tokens
                yield Work(f"round {number} {what}", f"{named}, {what}", kind, tokens)
        count = settings.particles * (
            settings.refresh_prompts if number else config.rollout.prompts
        )
        tokens = count * config.rollout.max_new_tokens
        what = f"round {number} particles"
        yield Work(what, f"{named}, particles", "tokens of particles", tokens)
        rows += count
        if settings.base_states != "recompute":
            yield Work("states of the base", f"{named}, states of the base", "states", rows)
        warm = max(begin, min(end, settings.warmup_direction))
        yield Work("warm-up", f"{named}, warm-up", "warm-up", warm - begin)
        yield Work(f"train round {number}", named, "train", end - warm)
        begin = end
