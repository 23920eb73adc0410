"""Everything that the tests let several connected processes do, in one start of them:
`python pod_program.py FOLDER`, in a pod of two processes with two devices each.

Twenty steps under pmap, settings that differ, a whole run, and a stage that goes on until a signal.
"""

import os
import sys
from pathlib import Path

import numpy as np

import support
from dinado_jax import cli
from dinado_jax.config.schema import Parallel
from dinado_jax.distributed import processes
from dinado_jax.errors import InputError
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from support import tiny_run, twenty_steps

SETTINGS = ("parallel.devices=0", "train.batch=16", "rollout.batch=8", "decode.batch=8")
RUN = (
    *SETTINGS,
    "rollout.references=true",
    "train.reference_weight=1.0",
    "train.base_states=float32",
    "rollout.oracle=length <= 6",
    "control.state=true",
    "train.table_rounds=1",
    "train.particles=4",
    "train.roll_out=0.5",
    # Rounds of eight steps that end early.
    "train.held_out=0.5",
    "train.steps=16",
    "train.learning_rate=0.1",
    "evaluate.strengths=[0.5]",
)


def command(stage: str, folder: Path, *overrides: str) -> list[str]:
    """Arguments of `dinado` for a stage of the tiniest run in `folder`/tiny."""
    demo = support.ROOT / "configs" / "demo.toml"
    settings = (*tiny_run.SETTINGS, *SETTINGS, *overrides, f"run.folder={folder}")
    return [stage, str(demo), *settings]


def endless(folder: Path) -> list[str]:
    """Arguments of `dinado` for a stage that only a signal ends."""
    return command("sft", folder, "sft.steps=1000000", "parallel.fsdp=4")


def main(folder: Path) -> None:
    processes.connect()
    os.environ["DINADO_DISTRIBUTED"] = "off"  # connected: the commands below do not do it again
    steps = twenty_steps.run(Parallel(mode="pmap"))
    if processes.is_main():
        np.savez(folder / "steps.npz", **steps)
    try:
        seed = f"seed={processes.process_index()}"
        run_stages(tiny_run.config(*SETTINGS, seed), STAGES, folder / "different")
    except InputError as error:
        (folder / f"refused_{processes.process_index()}").write_text(str(error))
    cli.main(command("run", folder / "two", "parallel.fsdp=4", *RUN))
    cli.main(endless(folder / "endless"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
