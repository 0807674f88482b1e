"""The record of a review beside captions that have no place for it: a hidden file with one line of JSON per image.

photos/.seesay-review.jsonl
.captions.csv.seesay-review.jsonl    {"image": ..., "reviewed_caption": ..., "model_caption": ..., "review": ...}
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from seesay.bulk.rows import plain
from seesay.errors import DataError
from seesay.files import text_bytes, write_atomically
from seesay.review.entries import REVIEWS, Entry, State

SUFFIX = ".seesay-review.jsonl"


class ReviewRecord:
    """The model's captions and the status of reviewed images.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}

    def read(self) -> None:
        """Read the record, if there is one.

        Raises:
            DataError: it is another file.
        """
        if not self.path.exists():
            return
        try:
            for line in self.path.read_text(encoding="utf-8").split("\n"):
                if line.strip():
                    row = json.loads(line)
                    texts = str(row["reviewed_caption"]), str(row["model_caption"])
                    if row["review"] not in REVIEWS:
                        raise ValueError(row["review"])
                    names = ("reviewed_caption", "model_caption")
                    self._rows[plain(row["image"])] = {**dict(zip(names, texts, strict=True)), "review": row["review"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path} is not the record of a review; move it away") from error

    def apply(self, image: str, state: State) -> State:
        """Return the state of an image with what is recorded; a status counts only for the text that was reviewed."""
        row = self._rows.get(plain(image))
        if row is None:
            return state
        same = row["reviewed_caption"] == state.caption
        return replace(state, model_caption=row["model_caption"], review=row["review"] if same else "")

    def save(self, entries: Iterable[Entry]) -> None:
        """Write the record of entries with a status or a changed text; images that are not among them are kept.

        Raises:
            SeesayError: it cannot be written.
        """
        for entry in entries:
            state = entry.state
            if state.review or state.caption != state.model_caption:
                texts = {"reviewed_caption": state.caption, "model_caption": state.model_caption}
                self._rows[plain(entry.image)] = {**texts, "review": state.review}
            else:
                self._rows.pop(plain(entry.image), None)
        lines = (json.dumps({"image": name, **row}, ensure_ascii=False) for name, row in self._rows.items())
        write_atomically(self.path, text_bytes("".join(f"{line}\n" for line in lines)))
