"""`ReviewSession`: the entries of a review, its actions with undo and redo, and saving."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from seesay.captioners.caption import Caption
from seesay.data.records import count
from seesay.errors import DataError, SeesayError
from seesay.files import append, text_bytes
from seesay.review import limits
from seesay.review.entries import CaptionFile, Entry, Review, State


@dataclass(frozen=True)
class Replacement:
    """A replacement in many captions.

    Attributes:
        find: the text to find, literally.
        replacement: the text in its place, literally.
        whole_words: find it only between word boundaries.
        match_case: distinguish upper and lower case.
    """

    find: str
    replacement: str
    whole_words: bool = False
    match_case: bool = True

    def apply(self, text: str) -> tuple[str, int]:
        """Return a text with the replacement, without blanks at its ends, and the number of places."""
        pattern = re.escape(self.find)
        if self.whole_words:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        changed, places = re.subn(
            pattern, lambda _: self.replacement, text, flags=0 if self.match_case else re.IGNORECASE
        )
        return (changed.strip(), places) if places else (text, 0)


@dataclass(frozen=True)
class _Action:
    """A step of the undo log: the states of entries before and after."""

    label: str
    changes: tuple[tuple[int, State, State], ...]


class ReviewSession:
    """The entries of a file under review.

    Args:
        file: opened by the session and closed with it.

    Attributes:
        entries: all entries, in the order of the file.
        revision: number of the last change; each entry has that of its own.

    Raises:
        DataError: see `CaptionFile.open`; or there are too many rows.
    """

    def __init__(self, file: CaptionFile) -> None:
        self.file = file
        self.entries: list[Entry] = file.open()
        if len(self.entries) > limits.MAX_ROWS:
            file.close()
            raise DataError(f"{file.name} has more than {limits.MAX_ROWS:,} rows; review a part of it")
        self.revision = 0
        self._done: list[_Action] = []
        self._undone: list[_Action] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def unsaved(self) -> int:
        """Number of entries that differ from the file."""
        return sum(entry.unsaved for entry in self.entries)

    @property
    def next_undo(self) -> str:
        """Label of the action that `undo` would revert; empty if there is none."""
        return self._done[-1].label if self._done else ""

    @property
    def next_redo(self) -> str:
        """Label of the action that `redo` would repeat; empty if there is none."""
        return self._undone[-1].label if self._undone else ""

    def check(self, indices: Iterable[int]) -> None:
        """Check the numbers of entries.

        Raises:
            DataError: there is no such entry.
        """
        for index in indices:
            if not 0 <= index < len(self.entries):
                raise DataError(f"there is no row {index}; reload the page")

    def since(self, revision: int) -> list[dict[str, Any]]:
        """Return the entries that changed after a revision, as JSON; -1: all."""
        return [_to_json(index, entry) for index, entry in enumerate(self.entries) if entry.revision > revision]

    def edit(self, index: int, caption: str, *, accept: bool = False) -> None:
        """Set the caption of an entry; with `accept`, accept it in the same step."""
        text = caption.strip()

        def change(state: State) -> State:
            edited = state if text == state.caption else state.edited(text)
            return replace(edited, review="accepted") if accept else edited

        self._change("edit and accept" if accept else "edit", [index], change)

    def mark(self, indices: Iterable[int], review: Review) -> None:
        """Set the status of entries; an empty one is `edited` if a person changed the caption."""

        def change(state: State) -> State:
            return replace(state, review=review) if review else state.edited(state.caption)

        label = {"accepted": "accept", "rejected": "reject"}.get(review, "clear status")
        self._change(label, indices, change)

    def revert(self, indices: Iterable[int]) -> None:
        """Restore the model's captions."""
        self._change("restore the model's caption", indices, lambda state: state.edited(state.model_caption))

    def count(self, indices: Iterable[int], replacement: Replacement) -> tuple[int, int]:
        """Return the number of captions that a replacement would change, and of places in them."""
        places = [replacement.apply(self.entries[index].state.caption)[1] for index in indices]
        return sum(map(bool, places)), sum(places)

    def replace(self, indices: Iterable[int], replacement: Replacement) -> None:
        """Replace a text in captions."""

        def change(state: State) -> State:
            text, places = replacement.apply(state.caption)
            return state.edited(text) if places and text != state.caption else state

        self._change("replace", indices, change)

    def regenerate(self, captions: Mapping[int, Caption]) -> None:
        """Set the captions that a model generated again."""
        states = {index: self.entries[index].state.regenerated(caption) for index, caption in captions.items()}
        self._perform("regenerate", states)

    def undo(self) -> str:
        """Revert the last action and return its label; empty if there is none."""
        if not self._done:
            return ""
        action = self._done.pop()
        self._undone.append(action)
        self._set({index: before for index, before, _ in action.changes})
        return action.label

    def redo(self) -> str:
        """Repeat the last reverted action and return its label; empty if there is none."""
        if not self._undone:
            return ""
        action = self._undone.pop()
        self._done.append(action)
        self._set({index: after for index, _, after in action.changes})
        return action.label

    def save(self) -> int:
        """Write changes to the file and return the number of changed entries.

        Raises:
            ConflictError: the file has changed since it was read; nothing is written.
            SeesayError: it cannot be written.
        """
        changed = [entry for entry in self.entries if entry.unsaved]
        if changed:
            self.file.save(self.entries)
            for entry in changed:
                entry.saved = entry.state
        return len(changed)

    def save_finally(self) -> str:
        """Save at the end of a review; if that fails, write the changes to another file.

        Returns:
            What went wrong and where the changes are; empty if everything is saved.

        Raises:
            SeesayError: they cannot be written anywhere.
        """
        try:
            self.save()
        except (SeesayError, OSError) as error:
            changed = [entry for entry in self.entries if entry.unsaved]
            rows = [
                {"image": entry.image, "caption": entry.state.caption, "review": entry.state.review}
                for entry in changed
            ]
            path = self.file.rescue_path
            append(path, text_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)))
            return f"{error}; the {len(rows)} unsaved changes are in {path}"
        return ""

    def _change(self, label: str, indices: Iterable[int], change: Callable[[State], State]) -> None:
        self._perform(label, {index: change(self.entries[index].state) for index in dict.fromkeys(indices)})

    def _perform(self, label: str, states: Mapping[int, State]) -> None:
        """Set states as one action; entries that keep their state are not part of it."""
        changes = tuple(
            (index, self.entries[index].state, state)
            for index, state in states.items()
            if state != self.entries[index].state
        )
        if not changes:
            return
        several = f" ({count(len(changes), 'caption')})" if len(changes) > 1 else ""
        self._done.append(_Action(label + several, changes))
        del self._done[: -limits.MAX_UNDO]
        self._undone.clear()
        self._set({index: after for index, _, after in changes})

    def _set(self, states: Mapping[int, State]) -> None:
        self.revision += 1
        for index, state in states.items():
            self.entries[index].state = state
            self.entries[index].revision = self.revision


def _to_json(index: int, entry: Entry) -> dict[str, Any]:
    """Return what the page shows of an entry."""
    state, score = entry.state, entry.state.generated.get("score")
    return {
        "row": index,
        "image": entry.image,
        "caption": state.caption,
        "model_caption": state.model_caption,
        "review": state.review,
        "score": score if isinstance(score, (int, float)) and math.isfinite(score) else None,
        "finished": state.generated.get("finished"),
        "reason": entry.reason,
        "alternatives": entry.alternatives,
    }
