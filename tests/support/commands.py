"""How a command is refused."""

import pytest

from dinado_jax import cli


def refused(capsys, argv: list[str]) -> str:
    """The one line that `dinado argv` says, and nothing else, before it exits with code 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert caught.value.code == 2 and not out and line.startswith("dinado: error: ")
    return line.removeprefix("dinado: error: ")
