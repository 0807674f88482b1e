"""What an output says of an image: one row, in the form of each kind of file."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from seesay.caption import Caption
from seesay.files import text_bytes

Row = tuple[str, Caption]
"""An image's name and what the model says of it."""


def json_line(image: str, caption: Caption, several: bool) -> str:
    """Returns the line of JSON, without its end, that tells of an image.

    Args:
        image: its name.
        caption: of it.
        several: more than one were asked for: `captions` are all, the first included, also where there is but one.
    """
    found = {"image": image, **_said(caption)}
    if several:
        found["captions"] = [_said(each) for each in (caption, *caption.alternatives)]
    return json.dumps(found, ensure_ascii=False, allow_nan=False)


def header(wanted: int) -> tuple[str, ...]:
    """Returns the columns of a separated file for so many captions an image."""
    if wanted == 1:
        return ("image", "caption", "score", "finished")
    numbers = range(1, wanted + 1)
    return ("image", *(f"caption_{number}" for number in numbers), *(f"score_{number}" for number in numbers))


def csv_row(row: Row, wanted: int, delimiter: str) -> str:
    """Returns an image's line of a separated file, with its end; captions that were not found are blank."""
    image, caption = row
    captions = [caption, *caption.alternatives][:wanted]
    blank = [""] * (wanted - len(captions))
    scores = [_number(each.score) for each in captions]
    cells = [image, *(each.text for each in captions), *blank, *scores, *blank]
    return csv_line(cells if wanted > 1 else [*cells, str(caption.finished).lower()], delimiter)


def csv_line(cells: Sequence[object], delimiter: str) -> str:
    """Returns cells as a line of a separated file, with its end."""
    text = io.StringIO(newline="")
    # Cells are put in quotation marks for what is in the line's end, and a carriage return needs them as well.
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def texts(caption: Caption) -> list[str]:
    """Returns every caption that was found, best first."""
    return [caption.text, *(each.text for each in caption.alternatives)]


def texts_of_json(found: dict[str, Any]) -> list[str]:
    """Returns the captions in a parsed line of JSON, best first."""
    return [each["caption"] for each in found.get("captions", [found])]


def plain(name: str) -> str:
    r"""Returns an image's name as text that every file can hold: bytes that are no UTF-8 become `\udcff`."""
    return text_bytes(name).decode()


def _said(caption: Caption) -> dict[str, object]:
    return {
        "caption": caption.text,
        "score": _number(caption.score),
        "log_probs": [_number(value) for value in caption.log_probs],
        "end_log_prob": _number(caption.end_log_prob),
        "finished": caption.finished,
    }


def _number(value: float) -> float | None:
    """Returns a number as JSON can hold it; it has none for infinity and for what is no number."""
    return round(value, 6) if math.isfinite(value) else None
