"""Reports as one self-contained HTML file: embedded styles and images, no scripts, no requests.

A page is a title and sections. A section has a heading and the HTML of its body: `Text`, `Table`, `Figure`, `Gallery`
or a custom class. All external text is escaped. The page is in English; elements with text in another language or
direction have `lang` and `dir` attributes.
"""

import base64
import functools
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, UnidentifiedImageError

from seesay.errors import DataError, ImageError
from seesay.files import write_atomically
from seesay.languages import is_right_to_left, language_of
from seesay.outputs import HTML_PAGE, check_file

LONGEST_SIDE = 1280  # pixels; larger images are reduced
JPEG_QUALITY = 90
DASH = "–"

Cell = str | int | float | None
Pixels = Image.Image | bytes


class Section(Protocol):
    """One part of the page; empty heading: none."""

    @property
    def heading(self) -> str:
        """Heading as plain text."""

    def html(self) -> str:
        """Returns the body as HTML, with external text escaped."""


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines."""

    text: str
    heading: str = ""

    def html(self) -> str:
        """Returns one paragraph element per paragraph."""
        paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", self.text))
        return render("text", [part for part in paragraphs if part])


@dataclass(frozen=True)
class Table:
    """Rows under a header; numbers are right-aligned, None is a dash, floats have two decimals."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    heading: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.header):
                raise DataError(f"row {number} of a report table has {len(row)} cells for {len(self.header)} headers")

    def html(self) -> str:
        """Returns the table in a container that scrolls on narrow pages."""
        numeric = [
            all(value is None or not isinstance(value, str) for value in column)
            for column in zip(*self.rows, strict=True)
        ] or [False] * len(self.header)
        return render("table", self, numeric)


@dataclass(frozen=True)
class Figure:
    """One image or plot: a Pillow image, or the bytes of a PNG or JPEG, which are embedded unchanged."""

    image: Pixels
    alt: str
    caption: str = ""
    heading: str = ""

    def html(self) -> str:
        """Returns a figure element."""
        return render("figure", self)


@dataclass(frozen=True)
class Card:
    """An image with the generated caption and optional details.

    Attributes:
        image: the image.
        caption: the generated caption.
        references: human captions.
        other: name and caption of another model, for comparison.
        attention: a strip of attention overlays, or a section such as `WordByWord`.
        scores: scores by name, such as CIDEr.
        name: file name or id of the image.
    """

    image: Pixels
    caption: str
    references: Sequence[str] = ()
    attention: "Pixels | Section | None" = None
    scores: Mapping[str, float] = field(default_factory=dict)
    name: str = ""
    other: tuple[str, str] | None = None

    def html(self) -> str:
        """Returns an article element."""
        return render("card", self)


@dataclass(frozen=True)
class Gallery:
    """Cards in a grid; a card with an attention strip has the full width."""

    cards: Sequence[Card]
    heading: str = ""

    def html(self) -> str:
        """Returns a grid of cards."""
        return render("gallery", self)


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes the page atomically; its folder is created.

    Raises:
        DataError: the file exists and is not a page of seesay.
        ImageError: image bytes are neither PNG nor JPEG.
        SeesayError: the file cannot be written.
    """
    check_file(path, HTML_PAGE)
    page = _environment().get_template("page.html").render(title=" ".join(title.split()), sections=sections)
    # File names may contain bytes that are not valid UTF-8.
    write_atomically(Path(path), page.encode("utf-8", errors="replace"))


def render(macro: str, *arguments: object) -> str:
    """Return the HTML of a macro of `templates/sections.html`; text arguments are escaped."""
    return str(getattr(_environment().get_template("sections.html").module, macro)(*arguments))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("seesay.explanation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "direction": _direction, "embed": _embed, "language": _language}
    return environment


def _cell(value: Cell) -> str:
    if value is None or value != value:  # NaN
        return DASH
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _direction(text: str) -> str:
    return "rtl" if is_right_to_left(text) else "auto"


def _language(text: str) -> str | None:
    """Return the attribute `lang` of an element; None for English or undetected text."""
    language = language_of([text])
    return None if language in ("", "en") else language


def _embed(pixels: Pixels) -> dict[str, str | int]:
    """Return the attributes of an image element with embedded data."""
    kind, data, (width, height) = _encoded(pixels)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return {"source": source, "width": width, "height": height}


def _encoded(pixels: Pixels) -> tuple[str, bytes, tuple[int, int]]:
    """Returns the format (png, jpeg), the bytes and the size of an image to embed."""
    if isinstance(pixels, bytes):
        try:
            with Image.open(io.BytesIO(pixels), formats=("PNG", "JPEG")) as opened:
                return (opened.format or "").lower(), pixels, opened.size
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise ImageError("the image bytes of a report are neither PNG nor JPEG; pass a Pillow image") from error
    image = pixels.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    # Drawings are smaller (and lossless) as PNG, photographs as JPEG.
    kind, data = min(("png", png.getvalue()), ("jpeg", jpeg.getvalue()), key=lambda pair: len(pair[1]))
    return kind, data, image.size
