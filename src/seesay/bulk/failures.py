"""The list of images without a caption, with the reason of each, one line of JSON per image."""

import hashlib
import json
import os
from collections.abc import Container, Sequence
from pathlib import Path

from seesay.bulk.discovery import STANDARD_INPUT
from seesay.bulk.rows import plain
from seesay.bulk.writers import LINE_START, cut, no_captions, whole_lines
from seesay.data.readers.images import is_url
from seesay.files import append, text_bytes, write_atomically


def list_of_job(sources: Sequence[str], images: Sequence[str], *options: str) -> Path:
    """Returns where a job without an output lists its failures: in the current folder, under a name of its own.

    The same command has the same list, so that a second run updates it.

    Args:
        sources: as they were given.
        images: the images found; those stand for the standard input.
        options: what else tells two jobs over the same sources apart.
    """
    named = [source if is_url(source) else os.path.abspath(source) for source in sources if source != STANDARD_INPUT]  # noqa: PTH100
    key = [*named, *options, *(images if STANDARD_INPUT in sources else ())]
    digest = hashlib.sha256(text_bytes("\0".join(key))).hexdigest()
    return Path(f"captions-{digest[:8]}.errors.jsonl")


class Failures:
    """Images without a caption; an image stands there once, however often a job was killed and started again.

    Args:
        path: the file; None = the list is kept in memory only.

    Attributes:
        reasons: of each image, by its `plain` name.
        unwritten: those of them that have a caption, which could not be put beside or inside the image.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.reasons: dict[str, str] = {}
        self.unwritten: set[str] = set()
        self._stale = False

    def open(self, done: Container[str]) -> None:
        """Reads what earlier jobs noted, after cutting off an unfinished last line.

        Args:
            done: images that have a caption by now.

        Raises:
            DataError: the file is something else.
        """
        if self.path is None or not self.path.exists():
            return
        whole = 0
        try:
            for end, line in whole_lines(self.path, LINE_START):
                whole, found = end, json.loads(line)
                name = plain(found["image"])
                unwritten = bool(found.get("captioned"))
                if name in self.reasons or (name in done and not unwritten):
                    self._stale = True
                if name not in done or unwritten:
                    self._keep(name, str(found["error"]), unwritten)
        except (ValueError, KeyError, TypeError) as error:
            raise no_captions(self.path) from error
        cut(self.path, whole)

    def note(self, image: str, reason: str, unwritten: bool = False) -> None:
        """Adds an image; one that is there already with that reason is left."""
        name = plain(image)
        before = self.reasons.get(name)
        if self.path is not None and before != reason:
            self._stale |= before is not None
            append(self.path, _line(image, reason, unwritten))
        self._keep(name, reason, unwritten)

    def mended(self, image: str) -> None:
        """Takes out an image that has its caption now, where it is to be."""
        self.unwritten.discard(plain(image))
        self._stale |= self.reasons.pop(plain(image), None) is not None

    def close(self) -> None:
        """Writes the list anew where images have gone from it; a list of none is no file."""
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
    found = {"image": image, "error": reason, **({"captioned": True} if unwritten else {})}
    return text_bytes(f"{json.dumps(found, ensure_ascii=False)}\n")
