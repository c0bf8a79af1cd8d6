"""The command, as ``python -m apalu_jax``."""

from apalu_jax.cli import main

if __name__ == "__main__":
    main()
