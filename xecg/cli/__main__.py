"""`python -m xecg.cli`: the `xecg` command where no script is installed."""

from xecg.cli import main

main(prog_name="xecg")
