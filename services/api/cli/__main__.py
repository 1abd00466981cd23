"""`python -m services.api.cli`: the command line where `dirl` is not installed."""

from services.api.cli.main import main

main()
