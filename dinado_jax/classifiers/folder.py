"""A classifier in a folder: its head and bag, what it is the head of, and its figures.

`classifier.safetensors` has head and bag. `classifier.json` has the label, the temperature and the
SHA-256 of these and of the trunk. `trunk/` is a folder of transformers with the small model and its
tokenizer; of a head on a base it is not there, and classifier.json has the base's path.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dinado_jax import __version__
from dinado_jax.classifiers.bag import Bag, empty_bag
from dinado_jax.classifiers.classifier import Classifier
from dinado_jax.classifiers.prefixes import init_head
from dinado_jax.errors import InputError
from dinado_jax.models.architectures import load_model, load_params, save_model
from dinado_jax.models.hf_folder import (
    check_finite,
    check_tensors,
    fingerprint,
    locate,
    read_safetensors,
    write_tensors,
)
from dinado_jax.models.params import by_path, nested
from dinado_jax.models.protocol import BaseModel
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.utils.files import exists, file_digest, read_sealed_record, write_sealed

RECORD, HEAD, TRUNK = "classifier.json", "classifier.safetensors", "trunk"
# Version of the files. Bump it when a version of the package would misread those of another.
FORMAT = 2
_FIX = "train it again, or copy it again"
_SCHEMA = {
    "format": int, "version": str, "label": str, "reads_prompt": bool, "context": int,
    "temperature": float, "base": str, "trunk": str, "head": str, "figures": dict,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    classifier: Classifier
    digest: str  # SHA-256 of head and trunk


def save_classifier(
    folder: Path, classifier: Classifier, figures: dict[str, float | int], base: str = ""
) -> None:
    """Writes a classifier.

    Args:
      folder: there already, and empty.
      classifier: to write.
      figures: that are kept with it.
      base: folder or hub name of the base that it is a head on; "" for a model of its own, which is
        written too.

    Raises:
      InputError: for a full disk.
    """
    source = locate(base) if base else folder / TRUNK
    if not base:
        trunk = jax.tree.map(np.asarray, classifier.params["trunk"])
        save_model(source, classifier.model, trunk, classifier.codec.ends())
        classifier.codec.save(source)
    own = {"head": classifier.params["head"], "bag": classifier.params["bag"]._asdict()}
    tensors = {path: np.asarray(leaf) for path, leaf in by_path(own).items()}
    write_tensors(folder / HEAD, tensors)
    write_sealed(
        folder / RECORD,
        {
            "format": FORMAT,
            "version": __version__,
            "label": classifier.label,
            "reads_prompt": classifier.reads_prompt,
            "context": classifier.context,
            "temperature": classifier.temperature,
            "base": base,
            "trunk": fingerprint(source),
            "head": file_digest(folder / HEAD),
            "figures": figures,
        },
    )


def load_classifier(folder: str | Path) -> Saved:
    """Reads a classifier that `save_classifier` has written.

    Raises:
      InputError: in one line for what is missing, damaged or of another version, and for a base
        that is another one now.
    """
    folder = Path(folder).expanduser()
    path = folder / RECORD
    if not exists(path):
        inside = sorted(each.parent for each in folder.glob(f"*/{RECORD}"))
        fix = f"give one of {', '.join(map(str, inside))}" if inside else "correct the path"
        raise InputError(f"no {RECORD} in {folder}, where a classifier is looked for: {fix}")
    record = read_sealed_record(path, _SCHEMA, FORMAT, _FIX)
    if record["format"] < FORMAT:
        raise InputError(
            f"{path} was written by an older version of dinado-jax: train the classifier again"
        )
    source = locate(record["base"]) if record["base"] else folder / TRUNK
    for file, found, known in (
        (source, fingerprint(source), record["trunk"]),
        (folder / HEAD, file_digest(folder / HEAD), record["head"]),
    ):
        if found != known:
            raise InputError(f"{file} is not what {path} was written with: {_FIX}")
    model = load_model(source)
    trunk = load_params(source, model)
    params = {
        "trunk": jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf, np.float32)), trunk),
        **jax.device_put(_read_head(folder, model)),
    }
    classifier = Classifier(
        model,
        load_codec(source, model.vocab_size, spells=bool(record["base"])),
        params,
        record["label"],
        record["reads_prompt"],
        record["context"],
        record["temperature"],
    )
    return Saved(classifier, f"{record['trunk']} {record['head']}")


def _read_head(folder: Path, model: BaseModel) -> dict[str, Any]:
    tensors = read_safetensors(folder / HEAD)
    bag = empty_bag(model.vocab_size)._asdict()
    wanted = by_path(jax.eval_shape(lambda: {"head": init_head(model.width, 0), "bag": bag}))
    check_tensors(tensors, {path: leaf.shape for path, leaf in wanted.items()}, folder, RECORD)
    check_finite(tensors, folder)
    found = nested(tensors)
    return {**found, "bag": Bag(**found["bag"])}
