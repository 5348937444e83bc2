"""`python -m cluster`: the `gemmaray` command where no script of that name is installed."""

from .cli import main

main()
