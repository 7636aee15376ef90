"""`python -m router.cli`: the command `headgate`."""

from router.cli import main

main()
