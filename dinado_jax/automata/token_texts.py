"""The text that each token adds to a text before it, by the tokenizer's own decoder."""

import re

from dinado_jax.models.codec import Codec

PARTIAL = "\ufffd"  # in place of bytes that are no whole character
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def token_texts(codec: Codec, vocab_size: int) -> list[str]:
    """Decodes every token as it follows a word.

    Its text includes the space that the decoder puts before it there, but may not at the beginning
    of a text. The text of a single byte depends on its neighbours: it is `PARTIAL`. Special tokens,
    and ids that the tokenizer lacks, have no text.

    Args:
      codec: of a transformers tokenizer.
      vocab_size: V, of the model.

    Returns:
      V texts.
    """
    tokenizer = codec.tokenizer.backend_tokenizer
    texts, ids = [""] * vocab_size, []
    for name, id in tokenizer.get_vocab().items():
        if _BYTE.fullmatch(name) and id < vocab_size:
            texts[id] = PARTIAL
        elif id < vocab_size and id not in codec.special_ids:
            ids.append(id)
    alone = tokenizer.decode_batch([[id] for id in ids])
    before, start = next((id, len(text)) for id, text in zip(ids, alone) if text.isalnum())
    for id, text in zip(ids, tokenizer.decode_batch([[before, id] for id in ids])):
        texts[id] = text[start:]
    return texts
