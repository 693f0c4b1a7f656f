"""`python -m benchecg`: the `benchecg` command, with the current folder on the Python path."""

from benchecg.cli import main

if __name__ == "__main__":
    main(prog_name="benchecg")
