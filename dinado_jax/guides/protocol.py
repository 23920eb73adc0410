"""What steers decoding: a guide says log R over next tokens."""

from typing import NamedTuple

import jax


class NextValues(NamedTuple):
    """V of a prefix and R after each next token, B prefixes: logarithms and log-odds."""

    log_value: jax.Array  # [B]
    log_after: jax.Array  # [B, V]
    value_logit: jax.Array  # [B]
    after_logit: jax.Array  # [B, V]
