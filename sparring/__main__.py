"""`python -m sparring`: the same as `sparring`."""

from sparring.cli import main

main()
