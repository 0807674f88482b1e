"""`seesay completion`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from seesay.cli.console import print_line

Shell = Literal["bash", "zsh", "fish"]


def completion(
    shell: Annotated[Shell, Parameter(show=True)],
    *,
    install: Annotated[bool, Parameter(negative="", show=True)] = False,
) -> None:
    """Print or install the completion of commands and flags for bash, zsh or fish.

    Args:
        shell: the shell.
        install: write the script to the shell's folder of completions in your home and, for bash and zsh, load it in
            the shell's startup file; repeat after an update of seesay.
    """
    from seesay.cli.main import app

    app.default_parameter = None  # all flags are completed, not only the common ones
    if install:
        print_line(f"written to {app.install_completion(shell=shell)}; start a new shell to use it")
    else:
        print_line(app.generate_completion(shell=shell))
