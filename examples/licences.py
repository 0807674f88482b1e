"""Writes docs/licences.md: the licences of the dependencies, from the metadata of the installed packages.

    pip install -e '.[dev]' && python examples/licences.py

Packages that are not installed, or that state no licence, keep their entry.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from seesay.captioners.recommended import recommended_models

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/licences.md"
_HEAD = """# Licences

seesay is licensed under Apache-2.0 ([LICENSE](../LICENSE)). Its packages contain no pretrained weights. pip and
the Hugging Face hub install the following, each under its own licence. `python examples/licences.py` writes this page
from the metadata of the installed packages. PyTorch's wheels for NVIDIA GPUs also install CUDA libraries under
NVIDIA's licence.

## Packages

| package | needed for | licence |
|---|---|---|
"""
_MODELS = """
## Recommended pretrained models

`seesay models` lists them. None is downloaded without a command that names it or a confirmation. The licences are those
of the pages of the hub in {date}. Read the page before you rely on one, as conditions of use may be added.

| model | licence |
|---|---|
"""


def requirements() -> dict[str, str]:
    """Return the direct dependencies of the core and of the extras for users, each with what needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: listed for name, listed in project["optional-dependencies"].items() if name not in ("dev", "docs")}
    found: dict[str, str] = {}
    for purpose, listed in {"seesay": project["dependencies"], **extras}.items():
        for requirement in listed:
            found.setdefault(re.split(r"[\[<>=~! ;]", requirement)[0], purpose)
    return found


def licence(package: str) -> str | None:
    """Return the licence that an installed package states; None if it is absent or states none."""
    try:
        stated = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return None
    classifiers = [line.split(" :: ")[-1] for line in stated.get_all("Classifier") or [] if line.startswith("License")]
    candidates = [*(stated.get_all("License-Expression") or []), *classifiers, *(stated.get_all("License") or [])]
    text = next(iter(candidates), "UNKNOWN")
    return None if text == "UNKNOWN" else text.splitlines()[0].strip()


def main() -> None:
    """Write the page."""
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    kept = dict(re.findall(r"^\| (\S+) \| \S+ \| (.+) \|$", before, re.MULTILINE))
    packages = [
        f"| {name} | {purpose} | {licence(name) or kept.get(name, 'not stated')} |"
        for name, purpose in sorted(requirements().items())
    ]
    date, models = recommended_models()
    listed = [f"| {model.name} | {model.license} |" for model in models]
    page = _HEAD + "\n".join(packages) + "\n" + _MODELS.format(date=date) + "\n".join(listed) + "\n"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
