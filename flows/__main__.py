"""`python -m flows` is `usam`."""

from flows.cli import main

main()
