"""The demo's task under other objectives, controls and settings, with equal rollouts and steps.

    python benchmarks/toy_study.py --out FOLDER [--seeds 3 4 5] [--recipes NAME ..] [--per-prompt N]

There are N = 8 rollouts for each of 5,000 prompts; the number of steps does not depend on N. Each
run is `dinado demo` with a few settings changed. Runs of one seed share the base and, where they
draw the same ones, its first rollouts. Finished runs are not repeated. Prints a line of JSON per
run: success, KL (nats per sequence), floor by prompt, efficiency, rollouts, seconds. A run takes 2
to 4 minutes on 2 cores.

Other oracles are given as a setting of all recipes, with the folder of their module on PYTHONPATH:

    PYTHONPATH=benchmarks python benchmarks/toy_study.py --out COLOUR \
        --settings rollout.oracle=oracle_suite:colour
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

MATCHING = ("train.objective=matching", "train.warmup_direction=0")
PREFIXES = ("train.objective=prefixes", "train.warmup_direction=0")
PUBLISHED = ("train.objective=published", "train.warmup_direction=0")
PROJECTED = ("control.kind=hard", "control.form=projected")
ONE_ROUND = ("train.rounds=1", "rollout.prompts=5000")
RECIPES = {
    "default": (),
    "matching": MATCHING,
    "published": PUBLISHED,
    "plain fine-tuning": (*ONE_ROUND, "train.warmup_direction=900"),
    "soft": ("control.kind=soft",),
    "hard": ("control.kind=hard",),
    "nado": ("control.kind=nado",),
    "published after warm-up": ("train.objective=published",),
    "prefixes": PREFIXES,
    "prefixes, no Bellman": (*PREFIXES, "train.bellman=0"),
    "prefixes, Bellman from step 450": (*PREFIXES, "train.bellman_start=450"),
    "prefixes, unbalanced": (*PREFIXES, "train.balance=false"),
    "prefixes, norm bias 0": (*PREFIXES, "control.norm_bias=zero"),
    "no warm-up": ("train.warmup_direction=0",),
    "one round": (*ONE_ROUND, "train.warmup_direction=180"),
    "no anchor": ("train.anchor=0",),
    "no bound": ("train.bound=0",),
    "margin 4": ("train.margin=4",),
    "margin 8": ("train.margin=8",),
    "not detached": ("train.detach=false",),
    "matching, no weights": (*MATCHING, "train.weights=none"),
    "matching, weights not clipped": (*MATCHING, "train.weight_clip=1.0"),
    "matching, mixture 0.25": (*MATCHING, "train.mixture=0.25"),
    "ratio": ("train.objective=ratio", "train.warmup_direction=0"),
    "variance": ("train.objective=variance",),
    "consistency": ("train.objective=consistency",),
    "contrastive": ("train.objective=contrastive",),
    "reinforce": ("train.objective=reinforce",),
    "ppo": ("train.objective=ppo",),
    "nado, published": ("control.kind=nado", *PUBLISHED),
    "hard, projected": PROJECTED,
    "hard, projected, matching": (*PROJECTED, *MATCHING),
}


def run(out: Path, seed: int, recipe: str, per_prompt: int, common: list[str]) -> dict:
    """Runs the demo with a recipe, or continues it; `common` settings are those of all recipes."""
    settings, name = RECIPES[recipe], recipe.replace(" ", "_").replace(",", "").replace(".", "")
    if per_prompt != 8:
        name += f"_{per_prompt}"
        settings = (*settings, f"rollout.samples={per_prompt}")
        if "train.rounds=1" not in settings:
            settings = (*settings, f"train.refresh_samples={per_prompt}")
    folder, shared = out / f"seed{seed}" / name, out / f"seed{seed}" / "default"
    if not folder.exists() and shared.exists():
        same = per_prompt == 8 and "rollout.prompts=5000" not in settings
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for stage in ("sft", "rollout") if same else ("sft",):
            shutil.copytree(shared / stage, partial / stage)
        partial.rename(folder)
    command = [sys.executable, "-m", "dinado_jax", "demo", "--out", str(folder), f"seed={seed}"]
    done = subprocess.run([*command, *settings, *common], capture_output=True, text=True)
    if done.returncode:
        error = done.stderr.strip().splitlines()[-1]
        return {"recipe": recipe, "seed": seed, "per_prompt": per_prompt, "error": error}
    summary = json.loads((folder / "summary.json").read_text())
    figures = json.loads((folder / "train" / "done.json").read_text())["figures"]
    rounds = [value for key, value in figures.items() if key.startswith("round_")]
    control = summary["control"]
    return {
        "recipe": recipe,
        "seed": seed,
        "per_prompt": per_prompt,
        "base": summary["base"]["success_rate"],
        "success": control["success_rate"],
        "success_error": control["success_rate_error"],
        "kl": control["kl_to_base"],
        "kl_error": control["kl_to_base_error"],
        "floor": summary["kl_floor_by_prompt"],
        "efficiency": summary["efficiency_by_prompt"],
        "rollouts": rounds[-1]["rollouts"],
        "of_rounds": [round(value["newest_success_rate"], 3) for value in rounds],
        "train_seconds": summary["seconds"]["train"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--per-prompt", type=int, default=8, help="rollouts of each prompt")
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="of all")
    args = parser.parse_args()
    failed = False
    for recipe in args.recipes:
        for seed in args.seeds:
            record = run(args.out, seed, recipe, args.per_prompt, args.settings)
            print(json.dumps(record), flush=True)
            failed |= "error" in record
    sys.exit(failed)


if __name__ == "__main__":
    main()
