"""A denoiser with its tokenizer: it is trained on pairs of texts and writes.

masked = load_masked("bert-base-multilingual-cased")
writer = fit_writer(masked, examples, Training(steps=5000), folder="runs/writer")
writer.write(["Are you sure?"], rerank=base)[0].text
writer.save("translator")             # load_writer("translator")
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dinado_jax.data.batching import bucket
from dinado_jax.data.sequences import pad
from dinado_jax.denoising.data import digest, pair_rows, source_rows
from dinado_jax.denoising.decoding import choose_lengths, denoise
from dinado_jax.denoising.folder import read_denoiser, write_denoiser
from dinado_jax.denoising.model import Denoiser, from_masked
from dinado_jax.denoising.ranking import Candidate, Written, labelled_by, ranked, scored_by
from dinado_jax.denoising.settings import Decoding, Parts
from dinado_jax.denoising.tokens import codec_of
from dinado_jax.denoising.training import train_denoiser
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.errors import InputError
from dinado_jax.generation import Decodable
from dinado_jax.models.bert_checkpoint import MaskedModel
from dinado_jax.models.codec import Codec
from dinado_jax.oracles.callables import named_oracle
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
    POSITIVE,
    known_keywords,
    require_instance,
    require_integer,
    require_seed,
    require_texts,
)
from dinado_jax.utils.files import new_folder
from dinado_jax.utils.progress import print_once


@dataclasses.dataclass(frozen=True, repr=False)
class Writer:
    """A denoiser, its parameters and its tokenizer."""

    denoiser: Denoiser
    params: Any
    codec: Codec

    def __repr__(self) -> str:
        encoder, decoder = self.denoiser.encoder, self.denoiser.decoder
        return (
            f"Writer({encoder.num_hidden_layers} + {decoder.num_hidden_layers} layers of width "
            f"{encoder.hidden_size}, texts of up to {self.denoiser.max_length} tokens)"
        )

    @known_keywords("settings of decoding are given as Decoding(steps=4)")
    def write(
        self,
        prompts: Sequence[str],
        decoding: Decoding | None = None,
        *,
        rerank: Decodable | None = None,
        oracle: str | Callable[..., Any] | None = None,
        batch: int = 32,
        seed: int = 0,
    ) -> list[Written]:
        """Writes candidates for each prompt, all positions of a text at once, and ranks them.

        The score of a candidate is its mean log-probability per token after the last step; with
        `rerank`, the log-probability of the whole text after its prompt under that model. With an
        oracle candidates are ranked by the score plus log C: of 0 and 1 that is rejection, the best
        one that satisfies it, and the best of all where none does.

        Args:
          prompts: N texts.
          decoding: how; `Decoding()` by default. Fewer lengths where the denoiser has fewer.
          rerank: an autoregressive model, such as `load` returns.
          oracle: as for `evaluate`; a text on which it fails has C = 0.
          batch: prompts at once.
          seed: in [0, 2^32). What is written for a prompt depends on it, the prompt and its number.

        Raises:
          InputError: for what is no text, or too long; as `score` and `named_oracle`.
        """
        asked = require_texts("prompt", prompts)
        require_instance("decoding", decoding, Decoding | None, "Decoding(steps=4)")
        decoding = self._fitting(decoding or Decoding())
        batch = require_integer("batch", batch, *POSITIVE)
        judged = None if oracle is None else named_oracle(oracle, asked).function
        key = jax.random.key(require_seed(seed))
        drawn = dict(self._drawn(asked, decoding, batch, key))
        written = [Written(prompt, drawn[index]) for index, prompt in enumerate(asked)]
        if rerank is not None:
            written = scored_by(rerank, written, batch)
        if judged is not None:
            written = labelled_by(judged, written)
        return ranked(written)

    def _fitting(self, decoding: Decoding) -> Decoding:
        """With at most as many lengths as there are."""
        lengths = min(decoding.lengths, self.denoiser.max_length)
        return dataclasses.replace(decoding, lengths=lengths)

    def _drawn(
        self, prompts: list[str], decoding: Decoding, batch: int, key: jax.Array
    ) -> Iterator[tuple[int, list[Candidate]]]:
        """Yields the number of each prompt and its candidates, similarly long prompts together."""
        rows, most = source_rows(self.codec, prompts), self.denoiser.max_source_length + 2
        for index, row in enumerate(rows):
            if len(row) > most:
                raise InputError(
                    f"prompt {index} has {len(row) - 2} tokens, the encoder has positions for "
                    f"{most - 2}: shorten it"
                )
        lengths, batch = np.array([len(row) for row in rows], np.int32), min(batch, len(rows))
        order, fill = np.argsort(lengths, kind="stable"), self.denoiser.vocabulary.pad_id
        for start in range(0, len(rows), batch):
            part = order[start : start + batch]
            own = np.resize(part, batch)  # the last batch repeats its rows: nothing compiles again
            width = bucket(int(lengths[own].max()), most)
            source = pad([rows[index] for index in own], fill, width)
            chosen = choose_lengths(self.denoiser, decoding, self.params, source, lengths[own])
            longest = int(chosen.lengths.max())
            width = bucket(longest + 2, self.denoiser.max_length + 2)
            given = decoding, width, self.params, chosen, _keys(key, own)
            drawn = jax.device_get(denoise(self.denoiser, *given))
            K, counts = decoding.candidates, np.asarray(chosen.lengths).reshape(-1)
            tokens = [row[1 : 1 + count].tolist() for row, count in zip(drawn.tokens, counts)]
            texts = self.codec.decode(tokens)
            sums = drawn.log_probs.T
            made = [
                Candidate(text, ids, steps, float(steps[-1] / len(ids)))
                for text, ids, steps in zip(texts, tokens, sums)
            ]
            for place, index in enumerate(part.tolist()):
                yield index, made[place * K : (place + 1) * K]

    def save(self, folder: str | Path) -> None:
        """Writes a folder for `load_writer`: a new one, or an empty one; whole or not at all.
        InputError for a folder with files.
        """
        with new_folder(Path(folder)) as partial:
            write_denoiser(partial, self.denoiser, jax.device_get(self.params), self.codec)


@jax.jit
def _keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """The keys of prompts by their number."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def load_writer(folder: str | Path) -> Writer:
    """Loads what `Writer.save` or `dinado denoise train` has written. InputError as
    `read_denoiser`.
    """
    return Writer(*read_denoiser(Path(folder)))


@known_keywords("others are given as Training(steps=300) and Parts(max_length=20)")
def fit_writer(
    masked: MaskedModel,
    examples: Sequence[Example],
    training: Training | None = None,
    parts: Parts | None = None,
    *,
    unrolls: int = 2,
    folder: str | Path | None = None,
    plan: Plan | None = None,
) -> Writer:
    """Trains a denoiser that begins as a masked language model on both sides.

    Args:
      masked: the masked language model.
      examples: prompts with references, of any task.
      training: how; `Training()` by default.
      parts: what of the model is taken; all of it by default.
      unrolls: of the loss, see `objective`; the paper's 2 by default.
      folder: of the training. The same call continues what is there, bit for bit. None: a
        temporary one, which is removed.
      plan: of the devices; None for one.

    Raises:
      InputError: as `from_masked`, `pair_rows`, `plan_of` and `train_denoiser`; for a folder of
        another training.
      Diverged: for a loss that is not finite.
    """
    training = require_training(training, Training)
    require_instance("masked", masked, MaskedModel, "what load_masked returns")
    require_instance("parts", parts, Parts | None, "Parts(max_length=20)")
    if masked.new_params:
        print_once("the masked language model has no head: the decoder trains one from scratch")
    codec = codec_of(masked)
    plan = plan_of(training.batch, plan)
    unrolls = require_integer("unrolls", unrolls, *POSITIVE)
    denoiser, params = from_masked(masked, parts)
    longest = denoiser.max_source_length, denoiser.max_length
    rows = pair_rows(codec, examples, longest, denoiser.vocabulary.pad_id)
    with training_folder(folder) as path:
        record = {
            "max_length": denoiser.max_length,
            "encoder": dataclasses.asdict(denoiser.encoder),
            "decoder": dataclasses.asdict(denoiser.decoder),
            "parameters": params_digest(params),
            "rows": digest(rows),
            "unrolls": unrolls,
        }
        keep_record(path, {**record, **dataclasses.asdict(training)})
        trained = train_denoiser(denoiser, params, rows, training, path, unrolls, plan)
    return Writer(denoiser, jax.device_put(trained), codec)
