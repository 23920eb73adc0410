"""Stage generate: held-out prompts continued by the base and by the controlled model, alike."""

import json
from pathlib import Path

import jax

from dinado_jax import tasks
from dinado_jax.config import Config
from dinado_jax.errors import InputError
from dinado_jax.files import read_lines
from dinado_jax.oracles.lexical import lexical
from dinado_jax.parallel import local_mesh, make_plan
from dinado_jax.processes import is_main
from dinado_jax.stages.folder import RunFolder
from dinado_jax.stages.rollout import Collected, collect
from dinado_jax.stages.train import trained_model
from dinado_jax.tasks.keywords import Example


def held_out(config: Config) -> list[Example]:
    """The examples to generate for: a prompt file's, or the split's.

    InputError for no such file or split, and for prompts that the lexical oracle cannot judge.
    """
    settings = config.evaluate
    if settings.prompt_file:
        prompts = _in_file(Path(settings.prompt_file))
        if config.rollout.oracle == "lexical":
            _check_keywords(prompts)
        return [Example(prompt, ()) for prompt in prompts.values()]
    return tasks.examples(config.task, settings.split, config.seed, settings.prompts)


def _in_file(path: Path) -> dict[str, str]:
    """The prompts of a file by where they stand, "FILE:LINE"."""
    lines = enumerate(map(str.strip, read_lines(path)), start=1)
    prompts = {f"{path}:{number}": line for number, line in lines if line}
    if not prompts:
        raise InputError(f"{path} holds no prompt: write one per line")
    return prompts


def _check_keywords(prompts: dict[str, str]) -> None:
    for where, prompt in prompts.items():
        try:
            lexical([prompt], [""])
        except InputError as error:
            raise InputError(f"{where}, {error}") from None


def _write(path: Path, collected: Collected) -> None:
    rollouts = collected.rollouts
    lines = [
        json.dumps(
            {
                "prompt_id": int(rollouts.prompt_id[i]),
                "prompt": collected.prompts[i],
                "text": collected.texts[i],
                "label": float(rollouts.label[i]),
                "log_prob": float(rollouts.log_proposal[i]),
                "log_prob_base": float(rollouts.log_base[i]),
                "tokens": int(rollouts.length[i] - rollouts.prompt_length[i]),
                "finished": bool(rollouts.finished[i]),
            }
        )
        for i in range(len(rollouts))
    ]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(path)


def generate(config: Config, run: RunFolder) -> dict:
    """Leaves generate/base.jsonl and generate/control.jsonl, one judged sample per line.

    log_prob is under the distribution that was decoded, log_prob_base under p, both in nats a
    sequence.
    """
    folder = run.stage_folder("generate")
    prompts = [example.prompt for example in held_out(config)]
    decode = config.decode
    plan = make_plan(config.parallel)
    controlled = trained_model(config, run, plan).tilted(
        strength=decode.strength, target_rate=decode.target_rate, reject=decode.reject
    )
    file = config.evaluate.prompt_file
    where = list(_in_file(Path(file))) if file else None
    figures = {"prompts": len(prompts)}
    for name, model in (("base", controlled.base), ("control", controlled)):
        collected = collect(
            f"generate {name}",
            model,
            prompts,
            decode,
            samples=config.evaluate.samples,
            oracle=config.rollout.oracle,
            key=jax.random.key((config.seed + 1) % 2**32),
            folder=folder / f"{name}_parts",
            fingerprint=run.fingerprint("generate"),
            mesh=local_mesh(plan),
            where=where,
        )
        if is_main():
            _write(folder / f"{name}.jsonl", collected)
        figures[f"{name}_oracle_failures"] = collected.failures
    return figures
