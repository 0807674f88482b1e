"""`Entry`, an image with its caption under review, and `State`, the part of it that an action changes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from seesay.bulk.rows import json_line
from seesay.captioners.caption import Caption
from seesay.errors import DataError

Review = Literal["", "accepted", "rejected", "edited"]
"""The status of a caption; empty: not reviewed."""

REVIEWS = ("", "accepted", "rejected", "edited")

GENERATED = ("score", "log_probs", "end_log_prob", "finished")
"""Fields of a row that describe the model's caption."""


class ConflictError(DataError):
    """A file has changed on disk since it was read."""


@dataclass(frozen=True)
class State:
    """What an action changes in an entry.

    Attributes:
        caption: the caption: the model's, or a person's.
        model_caption: what the model generated.
        review: the status.
        generated: score and similar fields of the model's caption, those of `GENERATED` that the row has.
    """

    caption: str
    model_caption: str
    review: Review = ""
    generated: Mapping[str, Any] = field(default_factory=dict)

    def edited(self, caption: str) -> "State":
        """Return this state with a person's caption; the model's own text counts as not reviewed."""
        return replace(self, caption=caption, review="" if caption == self.model_caption else "edited")

    def regenerated(self, caption: Caption) -> "State":
        """Return this state with another caption of a model, not reviewed."""
        fields: dict[str, Any] = json.loads(json_line("", caption, several=False))
        return State(caption.text, caption.text, "", {name: fields[name] for name in GENERATED})


@dataclass
class Entry:
    """An image with its caption.

    Attributes:
        image: the image's name in the file.
        source: the name that `seesay.images.sources` opens.
        state: the current state.
        saved: the state in the file.
        reason: why the captions of the model were refused; empty if they were not.
        alternatives: other captions of the model.
        revision: revision of the session that changed the entry last.
    """

    image: str
    source: str
    state: State
    saved: State
    reason: str = ""
    alternatives: tuple[str, ...] = ()
    revision: int = 0

    @property
    def unsaved(self) -> bool:
        """Whether the state differs from that in the file."""
        return self.state is not self.saved and self.state != self.saved


class CaptionFile(Protocol):
    """The file or folder whose captions are reviewed."""

    @property
    def name(self) -> str:
        """Name for people."""

    def open(self) -> list[Entry]:
        """Lock the file against other writers and return its entries.

        Raises:
            DataError: another process writes to it, or it contains no captions.
        """

    def save(self, entries: list[Entry]) -> None:
        """Write the states of the entries.

        Raises:
            ConflictError: the file has changed since it was read; nothing is written.
            SeesayError: it cannot be written.
        """

    @property
    def rescue_path(self) -> Path:
        """Where changes go that cannot be saved."""

    def close(self) -> None:
        """Release the lock."""
