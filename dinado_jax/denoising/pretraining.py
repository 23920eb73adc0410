"""Masked language models trained on plain text: what denoisers begin as where none is published.

masked = new_masked(texts, Sizes(layers=3, width=256))
masked = pretrain(texts, masked, Training(steps=5000), folder="runs/mlm")
masked.save("mlm")                    # load_masked("mlm"), or transformers
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from dinado_jax.data.sequences import Sequences
from dinado_jax.denoising.data import digest, pair_rows, text_rows
from dinado_jax.denoising.model import ENDS, MaskedLM
from dinado_jax.denoising.settings import Sizes
from dinado_jax.denoising.tokens import codec_of, train_tokenizer, vocabulary_of
from dinado_jax.denoising.training import train_masked
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.errors import InputError
from dinado_jax.models.bert import Bert, BertConfig, init_params
from dinado_jax.models.bert_checkpoint import MaskedModel
from dinado_jax.tasks.protocol import Example
from dinado_jax.training.settings import Training
from dinado_jax.training.standalone import (
    keep_record,
    params_digest,
    plan_of,
    require_training,
    training_folder,
)
from dinado_jax.utils.arguments import (
    known_keywords,
    require_instance,
    require_number,
    require_seed,
    require_texts,
)


def new_masked(texts: Sequence[str], sizes: Sizes, seed: int = 0) -> MaskedModel:
    """Makes a masked language model of random parameters, with a tokenizer trained on the texts.

    Raises:
      InputError: for sizes that do not fit each other, a vocabulary too small for all bytes, and
        what is no text.
    """
    seed, lines = require_seed(seed), require_texts("text", texts)
    tokenizer = train_tokenizer(lines, sizes.vocabulary)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        max_position_embeddings=sizes.positions,
        type_vocab_size=1,
    )
    model = Bert(config)
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(seed))
    ids = {
        f"{name}_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("mask", "pad", "cls", "sep")
    }
    return MaskedModel(model=model, params=params, tokenizer=tokenizer, **ids, folder="")


@known_keywords("settings of the training are given as Training(steps=300)")
def pretrain(
    texts: Sequence[str | Example],
    masked: MaskedModel,
    training: Training | None = None,
    *,
    mask_rate: float = 0.15,
    folder: str | Path | None = None,
    plan: Plan | None = None,
) -> MaskedModel:
    """Trains a masked language model on texts or on pairs: a new one, or one further.

    Both sides of a pair stand in one row and see each other, so that the model learns what of one
    belongs to what of the other, as in XLM (`MaskedLM.logits`).

    Args:
      texts: at least one; those longer than the model's positions are cut into several rows. Or
        pairs; those longer are left out.
      masked: to begin with.
      training: how; `Training()` by default.
      mask_rate: share of tokens that are masked, in (0, 1]; BERT's by default.
      folder: of the training. The same call continues what is there, bit for bit. None: a
        temporary one, which is removed.
      plan: of the devices; None for one.

    Raises:
      InputError: as `text_rows`, `pair_rows`, `plan_of` and `train_masked`; for a folder of another
        training.
      Diverged: for a loss that is not finite.
    """
    training = require_training(training, Training)
    require_instance("masked", masked, MaskedModel, "what new_masked or load_masked returns")
    config = masked.model.config
    mask_rate = require_number("mask_rate", mask_rate, "in (0, 1]", lambda x: 0 < x <= 1)
    plan = plan_of(training.batch, plan)
    rows = _rows(masked, texts)
    with training_folder(folder) as path:
        record = {
            "architecture": dataclasses.asdict(config),
            "parameters": params_digest(masked.params),
            "rows": digest(rows),
        }
        keep_record(path, {**record, "mask_rate": mask_rate, **dataclasses.asdict(training)})
        model = MaskedLM(config, vocabulary_of(masked))
        params = train_masked(model, masked.params, rows, training, path, mask_rate, plan)
    return dataclasses.replace(masked, params=jax.device_put(params), new_params=())


def _rows(masked: MaskedModel, texts: Sequence[str | Example]) -> Sequences:
    codec, positions = codec_of(masked), masked.model.config.context_length
    pairs = [text for text in texts if isinstance(text, Example)]
    if not pairs:
        return text_rows(codec, require_texts("text", texts), positions, masked.pad_id)
    if len(pairs) < len(texts):
        raise InputError("texts and pairs at once: give texts, or pairs")
    longest = (positions - ENDS, positions - ENDS)
    return pair_rows(codec, pairs, longest, masked.pad_id)
