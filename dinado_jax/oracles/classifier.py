"""A trained classifier as an oracle: C is the probability that a text has its label."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dinado_jax.classifiers.classifier import Classifier
from dinado_jax.classifiers.folder import load_classifier

CLASSIFIER = "classifier:"  # begins the name of such an oracle, before the folder


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierOracle:
    """Judges texts in batches; labels are graded, and do not depend on the batch."""

    classifier: Classifier
    digest: str  # SHA-256 of the classifier's files

    @property
    def classifiers(self) -> frozenset[str]:
        """The digests of all classifiers that it is made of; oracles without any may lack this."""
        return frozenset({self.digest})

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """p(label | prompt, text) of N texts."""
        return self.classifier.probabilities(prompts, texts).tolist()


def classifier_oracle(folder: str | Path) -> ClassifierOracle:
    """Loads the classifier that `dinado oracle train` has written into a folder.

    Raises:
      InputError: as `load_classifier`.
    """
    saved = load_classifier(folder)
    return ClassifierOracle(saved.classifier, saved.digest)
