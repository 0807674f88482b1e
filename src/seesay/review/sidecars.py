"""A folder of images with a text file beside each, under review."""

import hashlib
import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from seesay.bulk.destination import Destination
from seesay.bulk.discovery import find_images
from seesay.bulk.sinks import Sidecars
from seesay.data.readers.text import EditableText
from seesay.data.records import count, name_some
from seesay.errors import DataError
from seesay.review.entries import ConflictError, Entry, State
from seesay.review.locked import lock
from seesay.review.record import SUFFIX, ReviewRecord

log = logging.getLogger("seesay")


@dataclass
class _Sidecar:
    path: Path
    digest: bytes  # of the content that was read or written; empty without a file


class SidecarFolder:
    """A folder of images whose captions are text files beside them; an image without text has an empty caption.

    Args:
        folder: searched recursively.
        suffix: of the text files, such as `.txt`.

    Raises:
        ConfigError: the suffix is not one of text files.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        Destination(sidecar=suffix)  # checks the suffix
        self.folder = folder
        self._sidecars = Sidecars(suffix, "overwrite")
        self._record = ReviewRecord(folder / SUFFIX)
        self._files: list[_Sidecar] = []
        self._lock = ExitStack()

    @property
    def name(self) -> str:
        """Name for people."""
        return str(self.folder)

    def open(self) -> list[Entry]:
        """Lock the folder and return an entry per image."""
        found = find_images([str(self.folder)])
        if remark := found.remark():
            log.warning(remark)
        lock(self._lock, self.folder)
        self._record.read()
        entries, unreadable = [], []
        for source in found.images:
            path = self._sidecars.path(source)
            try:
                text = EditableText.read(path).text.rstrip("\r\n")
            except DataError:
                unreadable.append(str(path))
                continue
            image = os.path.relpath(source, self.folder)
            state = self._record.apply(image, State(text, text))
            entries.append(Entry(image, source, state, state))
            self._files.append(_Sidecar(path, _digest(path)))
        if unreadable:
            log.warning("%s left out, not text: %s", count(len(unreadable), "file"), name_some(unreadable))
        if not entries:
            raise DataError(f"{self.folder} contains no readable captions; choose another folder or --sidecar")
        return entries

    def save(self, entries: list[Entry]) -> None:
        """Write the text files of changed captions, after the record."""
        changed = [
            (entry, file)
            for entry, file in zip(entries, self._files, strict=True)
            if entry.state.caption != entry.saved.caption
        ]
        conflicts = [str(file.path) for _, file in changed if file.path.exists() and _digest(file.path) != file.digest]
        if conflicts:
            raise ConflictError(
                f"{count(len(conflicts), 'file')} changed by another program after being read; nothing was "
                f"overwritten: {name_some(conflicts)}. Move them away and save again, or restart the review"
            )
        self._record.save(entries)  # first: a kill must not lose the model's captions
        for entry, file in changed:
            self._sidecars.write(entry.source, entry.state.caption)
            file.digest = _digest(file.path)

    @property
    def rescue_path(self) -> Path:
        """Where changes go that cannot be saved."""
        return self.folder / "seesay-review.unsaved.jsonl"

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()


def _digest(path: Path) -> bytes:
    """Return a digest of a file's content; empty without a file."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except FileNotFoundError:
        return b""
