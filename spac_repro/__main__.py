"""`python -m spac_repro`: the command line."""

from spac_repro.cli import main

main()
