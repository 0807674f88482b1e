"""List of images without a caption, one line of JSON with the reason per image."""

import hashlib
import json
import os
from collections.abc import Container, Sequence
from pathlib import Path

from seesay.bulk.discovery import STANDARD_INPUT
from seesay.bulk.rows import plain
from seesay.bulk.writers import LINE_START, complete_lines, not_captions, truncate
from seesay.data.readers.images import is_url
from seesay.files import append, text_bytes, write_atomically


def default_failures_path(sources: Sequence[str], images: Sequence[str], *options: str) -> Path:
    """Return the path of the list of failures of a job without `--out`: a file in the current folder.

    The name is a digest of the command, so that a second run updates the list.

    Args:
        sources: the sources of the command.
        images: the images found; identify the standard input.
        options: other options that distinguish jobs over the same sources.
    """
    paths = [source if is_url(source) else os.path.abspath(source) for source in sources if source != STANDARD_INPUT]  # noqa: PTH100
    key = [*paths, *options, *(images if STANDARD_INPUT in sources else ())]
    digest = hashlib.sha256(text_bytes("\0".join(key))).hexdigest()
    return Path(f"captions-{digest[:8]}.errors.jsonl")


class Failures:
    """Images without a caption; each is listed once, even if the job was killed and resumed.

    Args:
        path: the file; None = in memory only.

    Attributes:
        reasons: reason per image, by its `plain` name.
        unwritten: images with a caption that could not be written beside or inside the image.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.reasons: dict[str, str] = {}
        self.unwritten: set[str] = set()
        self._stale = False

    def open(self, done: Container[str]) -> None:
        """Read the entries of earlier jobs, after truncating an incomplete last line.

        Args:
            done: images that have a caption.

        Raises:
            DataError: the file has another format.
        """
        if self.path is None or not self.path.exists():
            return
        complete = 0
        try:
            for end, line in complete_lines(self.path, LINE_START):
                complete, entry = end, json.loads(line)
                name = plain(entry["image"])
                unwritten = bool(entry.get("captioned"))
                if name in self.reasons or (name in done and not unwritten):
                    self._stale = True
                if name not in done or unwritten:
                    self._keep(name, str(entry["error"]), unwritten)
        except (ValueError, KeyError, TypeError) as error:
            raise not_captions(self.path) from error
        truncate(self.path, complete)

    def add(self, image: str, reason: str, unwritten: bool = False) -> None:
        """Add an image, unless it is listed with the same reason."""
        name = plain(image)
        before = self.reasons.get(name)
        if self.path is not None and before != reason:
            self._stale |= before is not None
            append(self.path, _line(image, reason, unwritten))
        self._keep(name, reason, unwritten)

    def resolve(self, image: str) -> None:
        """Remove an image whose caption has been written everywhere."""
        self.unwritten.discard(plain(image))
        self._stale |= self.reasons.pop(plain(image), None) is not None

    def close(self) -> None:
        """Rewrite the list if images were removed; delete the file if it is empty."""
        if self.path is None or not self._stale:
            return
        if self.reasons:
            lines = (_line(name, reason, name in self.unwritten) for name, reason in self.reasons.items())
            write_atomically(self.path, b"".join(lines))
        else:
            self.path.unlink(missing_ok=True)

    def _keep(self, name: str, reason: str, unwritten: bool) -> None:
        self.reasons[name] = reason
        (self.unwritten.add if unwritten else self.unwritten.discard)(name)


def _line(image: str, reason: str, unwritten: bool) -> bytes:
    entry = {"image": image, "error": reason, **({"captioned": True} if unwritten else {})}
    return text_bytes(f"{json.dumps(entry, ensure_ascii=False)}\n")
