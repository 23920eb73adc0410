"""The text that each token adds to a text before it, by the tokenizer's own decoder."""

import re

from dinado_jax.models.codec import Codec

PARTIAL = "\ufffd"  # in place of bytes that are no whole character
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def token_texts(codec: Codec, vocab_size: int) -> list[str]:
    """Decodes every token as it follows a word.

    So a token has the space before it that the decoder writes there, which it may leave out at the
    beginning of a text. A token for a single byte depends on the bytes beside it: it is `PARTIAL`,
    whatever it is. Special tokens, and ids that the tokenizer lacks, have no text.

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
