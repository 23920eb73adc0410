"""The tokenizers of masked language models, on the host."""

from collections.abc import Iterable
from typing import Any

from dinado_jax.denoising.vocabulary import Vocabulary
from dinado_jax.errors import InputError
from dinado_jax.models.bert_checkpoint import MaskedModel
from dinado_jax.models.codec import Codec
from dinado_jax.models.tokenizer import train_bpe

SPECIAL = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
_LEAST = 256 + len(SPECIAL)


def codec_of(masked: MaskedModel) -> Codec:
    """The codec whose rows are a prompt behind [CLS], or a target before [SEP]. InputError for a
    tokenizer whose rows begin otherwise.
    """
    codec = Codec(masked.tokenizer, (masked.sep_id,), masked.cls_id)
    if codec.begin_ids != (masked.cls_id,):
        raise InputError(
            f"the tokenizer of {masked.folder or 'the model'} puts {len(codec.begin_ids)} tokens "
            f"before a text, not its {masked.tokenizer.cls_token}: give its tokenizer.json a "
            "post_processor that puts it there"
        )
    return codec


def vocabulary_of(masked: MaskedModel) -> Vocabulary:
    """What a denoiser knows of the tokenizer: special tokens and ids that it lacks are no text."""
    size, end = masked.model.config.vocab_size, masked.sep_id
    others = codec_of(masked).excluded_ids(size)  # there the token that ends a text is one
    return Vocabulary(
        size=size,
        pad_id=masked.pad_id,
        begin_id=masked.cls_id,
        end_id=end,
        mask_id=masked.mask_id,
        excluded_ids=tuple(sorted({*others, (end, end + 1)})),
    )


def train_tokenizer(lines: Iterable[str], vocab_size: int) -> Any:
    """Trains a byte-level BPE of at most `vocab_size` tokens, with the special ones of a masked
    language model; deterministic.

    Returns:
      transformers' PreTrainedTokenizerFast; a text stands between [CLS] and [SEP].

    Raises:
      InputError: for fewer tokens than there are bytes and special tokens.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if vocab_size < _LEAST:
        raise InputError(f"vocabulary = {vocab_size}: a byte-level BPE needs at least {_LEAST}")
    bpe = train_bpe(lines, vocab_size, list(SPECIAL.values()))
    ends = [(name, bpe.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    bpe.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, clean_up_tokenization_spaces=False, **SPECIAL
    )
