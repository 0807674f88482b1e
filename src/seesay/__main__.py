"""`python -m seesay`: the command line."""

from seesay.cli.main import run_process

if __name__ == "__main__":
    run_process()
