"""Names of files, which match whatever their Unicode normalization."""

# Paths are strings here: an object for each of millions of names takes seconds.
# ruff: noqa: PTH118
import os
import unicodedata


def composed(name: str) -> str:
    """Returns a name in Unicode's composed form (NFC); macOS and some archives write the decomposed one (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spellings(name: str) -> tuple[str, ...]:
    """Returns a name as it is, composed (NFC) and decomposed (NFD)."""
    return (name,) if name.isascii() else (name, composed(name), unicodedata.normalize("NFD", name))


class Folders:
    """The names in folders, each of which is listed once."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._composed: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """Returns the path of a file or folder as it is spelled on the disk, or None if there is none.

        The same name in another Unicode normalization is found too, of the file and of each folder above it.
        """
        path = os.path.normpath(path)
        folder, name = os.path.split(path)
        names = self._list(folder)
        if name in names:
            return path
        if path.isascii():
            return None
        if not names and not folder.isascii():
            folder = self.find(folder) or folder
            names = self._list(folder)
        if folder not in self._composed:
            self._composed[folder] = {composed(each): each for each in names if not each.isascii()}
        spelled = name if name in names else self._composed[folder].get(composed(name))
        return None if spelled is None else os.path.join(folder, spelled)

    def _list(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                with os.scandir(folder or ".") as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries)
            except (OSError, ValueError):
                self._names[folder] = frozenset()
        return self._names[folder]
