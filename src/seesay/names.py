"""File names, compared independent of their Unicode normalization."""

# Paths are strings here: creating millions of Path objects takes seconds.
# ruff: noqa: PTH118
import os
import unicodedata


def to_nfc(name: str) -> str:
    """Returns a name in composed form (NFC); macOS and some archives use the decomposed form (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spellings(name: str) -> tuple[str, ...]:
    """Returns a name unchanged, composed (NFC) and decomposed (NFD)."""
    return (name,) if name.isascii() else (name, to_nfc(name), unicodedata.normalize("NFD", name))


class Folders:
    """Cached folder listings."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._by_nfc: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """Returns the path of a file or folder as spelled on disk, or None.

        File and folder names in another Unicode normalization are found.
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
        if folder not in self._by_nfc:
            self._by_nfc[folder] = {to_nfc(entry): entry for entry in names if not entry.isascii()}
        spelled = name if name in names else self._by_nfc[folder].get(to_nfc(name))
        return None if spelled is None else os.path.join(folder, spelled)

    def _list(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                with os.scandir(folder or ".") as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries)
            except (OSError, ValueError):
                self._names[folder] = frozenset()
        return self._names[folder]
