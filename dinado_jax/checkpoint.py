"""Training state on disk: a thin wrapper over Orbax, with one way to save and one to restore."""

import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from dinado_jax.errors import writing


class Checkpoints:
    """The newest two states of one training run, by step. Use as a context manager."""

    def __init__(self, folder: Path):
        # What it has to say of a failure comes as an exception too.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        with writing(self._folder):
            self._manager.wait_until_finished()
            self._manager.close()

    def save(self, step: int, state) -> None:
        """Writes `state` (a pytree of arrays) in the background; an existing step is kept.

        InputError, here or on leaving, if the disk is full.
        """
        if step not in self._manager.all_steps():
            with writing(self._folder):
                self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, like):
        """The newest state, with the structure, dtypes and shardings of `like`; None if none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
