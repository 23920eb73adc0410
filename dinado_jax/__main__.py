"""`python -m dinado_jax` is the `dinado` command."""

from dinado_jax.cli import main

main()
