from spac_repro.cli import main

main()
