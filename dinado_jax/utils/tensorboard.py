"""The figures of training as scalars for TensorBoard, by the package tensorboardX."""

import importlib
import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

PACKAGE, EXTRA = "tensorboardX", "tensorboard"


class Board:
    """The event files of one log, written by process 0 only."""

    def __init__(self, folder: Path, resume_step: int):
        """Opens a folder of event files; its steps after `resume_step` no longer count."""
        self._writer: Any = None
        if jax.process_index() == 0:
            module: Any = importlib.import_module(PACKAGE)
            self._writer = module.SummaryWriter(str(folder), purge_step=resume_step + 1)
            # A thread writes: what it has not yet written must not be lost at the end.
            weakref.finalize(self, self._writer.close)

    def write(self, step: int, figures: Mapping[str, Any], group: str = "") -> None:
        """Writes those of the figures that are finite numbers, under their names after `group`."""
        if self._writer is None:
            return
        for name, value in figures.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and math.isfinite(value):
                self._writer.add_scalar(f"{group}{name}", value, step)
        self._writer.flush()
