"""How a refused input is answered."""

import pytest

from dinado_jax.errors import InputError


def error_of(function, *args) -> str:
    """The one line of InputError that a call raises."""
    with pytest.raises(InputError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message
