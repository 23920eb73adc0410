"""Stage generate: held-out prompts continued by the base and by the controlled model, alike."""

import json
from pathlib import Path

import jax

from dinado_jax.config.schema import Config
from dinado_jax.distributed.partitioning import local_mesh, make_plan
from dinado_jax.distributed.processes import is_main
from dinado_jax.oracles.table import resolve
from dinado_jax.rollouts.collect import Collected, Collector, PromptSet
from dinado_jax.stages.artifacts import held_out, read_prompt_file, trained_model
from dinado_jax.stages.run_folder import RunFolder


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
    where = list(read_prompt_file(Path(file))) if file else None
    figures = {"prompts": len(prompts)}
    oracle, mesh = resolve(config.rollout.oracle).function, local_mesh(plan)
    collector = Collector(oracle, decode, run.fingerprint("generate"), mesh)
    key = jax.random.key((config.seed + 1) % 2**32)
    for name, model in (("base", controlled.base), ("control", controlled)):
        collected = collector.sample(
            f"generate {name}",
            model,
            PromptSet(prompts, names=where),
            config.evaluate.samples,
            key,
            folder / f"{name}_parts",
        )
        if is_main():
            _write(folder / f"{name}.jsonl", collected)
        figures[f"{name}_oracle_failures"] = collected.failures
    return figures
