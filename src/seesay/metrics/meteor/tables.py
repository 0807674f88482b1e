"""METEOR's word lists and tables, read from the installed pycocoevalcap."""

import zipfile
import zlib
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from seesay.errors import DataError, MissingDependencyError
from seesay.metrics.meteor.paraphrases import ParaphraseTable, damaged

_JAR = "meteor-1.5.jar"
_PARAPHRASES = "data/paraphrase-en.gz"

# Endings and replacements of WordNet's morphology, in the order in which they are tried.
_ENDINGS = (
    *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man")),
    *(("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    *(("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)


def available(folder: Path | None = None) -> str:
    """Returns an empty string if METEOR's tables are available, else one line with what is missing.

    Args:
        folder: folder of the jar and its `data`; by default that of the installed pycocoevalcap.
    """
    try:
        find_tables(folder)
    except (MissingDependencyError, DataError) as error:
        return str(error)
    return ""


def find_tables(folder: Path | None = None) -> Path:
    """Returns the folder of METEOR's tables, by default that of the installed pycocoevalcap (without importing it).

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
        DataError: a file is missing.
    """
    if folder is None:
        spec = find_spec("pycocoevalcap")
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependencyError("pycocoevalcap", "coco", "METEOR")
        folder = Path(next(iter(spec.submodule_search_locations))) / "meteor"
    for name in (_JAR, _PARAPHRASES):
        if not (folder / name).is_file():
            raise DataError(f"METEOR needs {name}, which is not in {folder}; run: pip install 'seesay[coco]'")
    return folder


class Tables:
    """METEOR's word lists and tables.

    Args:
        folder: folder of the jar and its `data`; by default that of the installed pycocoevalcap.

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
        DataError: a file is missing or damaged.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = find_tables(folder)
        self.function_words = frozenset(self._lines("function/english.words"))
        self.prefixes = _prefixes(self._lines("nonbreaking/english.prefixes"))

    def synonym_sets(self, word: str) -> frozenset[int]:
        """Returns the numbers of the WordNet synonym sets of a word and its base forms."""
        bases = self._bases.get(word)
        if bases is None:
            bases = [self._base(word)]
        found = " ".join(self._synonyms.get(form, "") for form in (word, *bases))
        return frozenset(map(int, found.split()))

    @cached_property
    def paraphrases(self) -> ParaphraseTable:
        """The paraphrase table; raises DataError if it is damaged."""
        return ParaphraseTable(self._folder / _PARAPHRASES)

    @cached_property
    def _synonyms(self) -> dict[str, str]:
        lines = self._lines("synonym/english.synsets")
        return dict(zip(lines[::2], lines[1::2], strict=True))

    @cached_property
    def _bases(self) -> dict[str, list[str]]:
        """Base forms of irregular words."""
        bases: dict[str, list[str]] = {}
        lines = self._lines("synonym/english.exceptions")
        for base, forms in zip(lines[::2], lines[1::2], strict=True):
            for form in forms.split():
                bases.setdefault(form, []).append(base)
        return bases

    def _base(self, word: str) -> str:
        """Returns the first WordNet form of a regular word after removing an ending."""
        if word.endswith("ss") or len(word) <= 2:
            return word
        for ending, replacement in _ENDINGS:
            if word.endswith(ending) and (base := word.removesuffix(ending) + replacement) in self._synonyms:
                return base
        return ""

    def _lines(self, name: str) -> list[str]:
        path = self._folder / _JAR
        try:
            with zipfile.ZipFile(path) as jar:
                return jar.read(name).decode().removesuffix("\n").split("\n")
        except (OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(damaged(path, error)) from error


def _prefixes(lines: list[str]) -> dict[str, bool]:
    """Returns the abbreviations that keep their period; True if only before a number."""
    rows = [line.split() for line in lines]
    return {row[0]: "#NUMERIC_ONLY#" in row[1:2] for row in rows if row and not row[0].startswith("#")}
