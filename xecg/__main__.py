"""`python -m xecg`, and `torchrun -m xecg`: the `xecg` command."""

from xecg.cli import main

if __name__ == "__main__":
    main(prog_name="xecg")
