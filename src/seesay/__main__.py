"""The entry point of the `seesay` script and of `python -m seesay`."""

import sys

from seesay.errors import MissingDependencyError, core_dependencies


def run() -> None:
    """Run the command line. Ctrl-C while its modules are imported ends the process as Ctrl-C in a command does."""
    try:
        with core_dependencies("the command line"):
            from seesay.cli.main import run_process
    except MissingDependencyError as error:
        print(f"seesay: error: {error}", file=sys.stderr)
        sys.exit(2)  # ExitCode.ERROR
    except KeyboardInterrupt:
        print("seesay: stopped; run the same command again", file=sys.stderr)
        sys.exit(130)  # ExitCode.INTERRUPTED, whose module may not be imported yet
    run_process()


if __name__ == "__main__":
    run()
