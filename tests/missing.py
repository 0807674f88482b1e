"""Commands in a process that cannot import some of the installed libraries."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.serving.servers import PATIENCE

PROGRAM = """
import contextlib, io, json, sys
from importlib import machinery, metadata

hidden, find_spec, from_name = [], machinery.PathFinder.find_spec, metadata.Distribution.from_name

def find_distribution(name):  # torchmetrics imports transformers if it is installed
    if name in hidden:
        raise metadata.PackageNotFoundError(name)
    return from_name(name)

machinery.PathFinder.find_spec = lambda name, *arguments: None if name in hidden else find_spec(name, *arguments)
metadata.Distribution.from_name = find_distribution
hidden[:] = json.loads(sys.argv[1])[0][0]  # before the first import
from seesay.cli.main import main
for hidden[:], command in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        code = main(command.split())
    print(json.dumps([code, errors.getvalue()]))
"""


def run(folder: Path, commands: list[tuple[tuple[str, ...], str]]) -> list[tuple[int, str]]:
    """Run commands in one process that cannot import the modules named beside each; return exit codes and errors."""
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return [(code, errors) for code, errors in map(json.loads, done.stdout.splitlines()[-len(commands) :])]


def modules_beyond(requirements: Iterable[str]) -> tuple[str, ...]:
    """Return the installed modules that `pip install REQUIREMENTS` does not install, except seesay."""
    installed, queue = {"seesay"}, list(requirements)
    while queue:
        name = _normalised(queue.pop())
        if name in installed:
            continue
        installed.add(name)
        for line in metadata.requires(name) or ():
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                queue.append(required.name)
    found = metadata.packages_distributions()
    return tuple(sorted(module for module in found if not installed & set(map(_normalised, found[module]))))


def _normalised(name: str) -> str:
    """Return the name of a package as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
