"""The objectives of the papers, with the off-by-one masks of the public releases fixed."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.draws import bellman_at
from dinado_jax.objectives.norm import bellman
from dinado_jax.objectives.terms import BatchAt, Term
from dinado_jax.ops import bernoulli
from dinado_jax.ops.masks import target_mask
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import suffix_importance_weights


@struct.dataclass(kw_only=True)
class PublishedBatch(Batch):
    """Uniformly drawn rollouts."""

    label: Array  # float32 [B] in [0, 1]
    suffix: Array  # float32 [B, T-1], p / proposal of what follows each prefix; 1 for samples of p
    bellman: Array  # float32 [B], lambda of this step


@dataclasses.dataclass(frozen=True)
class Published:
    """`train.objective = "published"`; gradients flow everywhere.

    soft, merge: BCE(R(x), C) at the end of the sequence + lambda x Bellman at every position (arXiv
    2306.11825). nado: BCE(R, C) after every token + lambda x Bellman (arXiv 2205.14219). hard: BCE
    after every token. Summed over a row, not averaged. All rollouts count equally.

    Converges to R*, hence to q*: for nado and hard as `prefixes` does, for soft and merge if every
    prefix is seen. There labels speak of the ends of rows alone, and what is known of them comes
    back to a prefix token by token, through the Bellman residual, which takes many steps.
    """

    train: Train
    parts = 1
    least_samples = 1
    trains_nado = True
    trains_hard = True
    on_policy = False
    draws_references = True

    def batches(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> BatchAt:
        train = self.train
        draws = Draws(np.ones(len(rollouts)), seed)
        suffix = suffix_importance_weights(rollouts, train.weights)

        def at(step: int) -> PublishedBatch:
            index = draws.at(step, train.batch)
            rows = take(rollouts, index)
            return PublishedBatch(
                **vars(rows),
                label=rollouts.label[index],
                suffix=suffix[index, : rows.tokens.shape[1] - 1],
                bellman=bellman_at(train, step, train.batch),
            )

        return at

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: PublishedBatch
    ) -> dict[str, Term]:
        values = control.values(base_params, params, batch)
        rows = jnp.ones_like(batch.label).sum()
        if control.entangled or control.recursive:
            entropy = bernoulli.cross_entropy(values.after_logit, batch.label[:, None])
            weight = target_mask(batch) * batch.suffix
            terms = {"prefixes": Term((weight * entropy).sum(), rows)}
        else:
            entropy = bernoulli.cross_entropy(values.terminal_logit, batch.label)
            terms = {"terminal": Term(entropy.sum(), rows)}
        if not control.recursive:
            terms["bellman"] = Term(bellman(values).sum, rows, batch.bellman[0])
        return terms

    def reads_states(self, control: Control) -> tuple[str, ...]:
        return ("",)

    def settings_read(self, kind: str) -> set[str]:
        # Only labels after every token are weighted, by what follows the token.
        read = {"weights"} if kind in ("nado", "hard") else set()
        return read if kind == "hard" else read | {"bellman"}
