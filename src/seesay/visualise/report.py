"""Reports as one self-contained HTML file: embedded styles and images, no scripts, no requests.

A page is a title and sections. A section has a heading and the HTML of its body: `Text`, `Table`, `Figure`, `Gallery`
or a custom class. All external text is escaped. The page is in English; elements with text in another language or
direction have `lang` and `dir` attributes.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Protocol

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
        return "\n".join(f"<p{text_attributes(part)}>{escape(part)}</p>" for part in paragraphs if part)


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
        kinds = [' class="number"' if right else "" for right in numeric]
        header_cells = "".join(
            f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(self.header, kinds, strict=True)
        )
        rows = "\n".join(
            "<tr>"
            + "".join(f"<td{kind}{_cell_attributes(v)}>{_cell(v)}</td>" for v, kind in zip(row, kinds, strict=True))
            + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{escape(self.caption)}</caption>\n" if self.caption else ""
        label = escape(self.caption or self.heading or "table")
        return (
            f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>\n{caption}'
            f"<thead><tr>{header_cells}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
        )


@dataclass(frozen=True)
class Figure:
    """One image or plot: a Pillow image, or the bytes of a PNG or JPEG, which are embedded unchanged."""

    image: Pixels
    alt: str
    caption: str = ""
    heading: str = ""

    def html(self) -> str:
        """Returns a figure element."""
        attributes = text_attributes(self.caption)
        caption = f"\n<figcaption{attributes}>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure>{img_element(self.image, self.alt)}{caption}</figure>"


@dataclass(frozen=True)
class Card:
    """An image with the generated caption and optional details.

    Attributes:
        image: the image.
        caption: the generated caption.
        references: human captions.
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

    def html(self) -> str:
        """Returns an article element."""
        # A human caption is the best alternative text; the generated caption is next to the image anyway.
        alt = self.references[0] if self.references else self.name or "the captioned image"
        caption = escape(self.caption) if self.caption.strip() else "<em>(an empty caption)</em>"
        parts = [f'<p class="generated"{text_attributes(self.caption)}>{caption}</p>']
        if self.references:
            references = "".join(
                f"<li{text_attributes(reference)}>{escape(reference)}</li>" for reference in self.references
            )
            parts.append(f'<p class="label">Human captions</p>\n<ul>{references}</ul>')
        if self.scores:
            pairs = "".join(f"<div><dt>{escape(n)}</dt><dd>{_cell(v)}</dd></div>" for n, v in self.scores.items())
            parts.append(f"<dl>{pairs}</dl>")
        if self.name:
            parts.append(f'<p class="name">{escape(self.name)}</p>')
        body = img_element(self.image, alt) + "\n<div>" + "\n".join(parts) + "</div>"
        if self.attention is None:
            return f'<article class="card">{body}</article>'
        if isinstance(self.attention, (Image.Image, bytes)):
            overlays = img_element(self.attention, f"attention for each word of: {self.caption}")
            strip = f'<div class="strip" role="region" aria-label="attention" tabindex="0">{overlays}</div>'
        else:
            strip = f'<div class="strip">{self.attention.html()}</div>'
        return f'<article class="card wide">{body}\n{strip}</article>'


@dataclass(frozen=True)
class Gallery:
    """Cards in a grid; a card with an attention strip has the full width."""

    cards: Sequence[Card]
    heading: str = ""

    def html(self) -> str:
        """Returns a grid of cards."""
        return '<div class="gallery">\n' + "\n".join(card.html() for card in self.cards) + "\n</div>"


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes the page atomically; its folder is created.

    Raises:
        DataError: the file exists and is not a page of seesay.
        ImageError: image bytes are neither PNG nor JPEG.
        SeesayError: the file cannot be written.
    """
    check_file(path, HTML_PAGE)
    body = "\n".join(_section(number, section) for number, section in enumerate(sections, start=1))
    page = PAGE.format(
        title=escape(" ".join(title.split())),
        lang=lang_attribute(title),
        attributes=text_attributes(title),
        style=STYLE,
        body=body,
    )
    # File names may contain bytes that are not valid UTF-8.
    write_atomically(Path(path), page.encode("utf-8", errors="replace"))


def _section(number: int, section: Section) -> str:
    """Returns a section element, labelled by its heading if any."""
    if not section.heading:
        return f"<section>\n{section.html()}\n</section>"
    anchor = f"section-{number}"
    return (
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(section.heading)}</h2>\n'
        f"{section.html()}\n</section>"
    )


def _cell(value: Cell) -> str:
    """Returns a value as escaped text."""
    if value is None or value != value:  # NaN
        return DASH
    return f"{value:.2f}" if isinstance(value, float) else escape(str(value))


def _cell_attributes(value: Cell) -> str:
    """Returns the attributes of a cell; empty for numbers and ASCII text."""
    return text_attributes(value) if isinstance(value, str) and not value.isascii() else ""


def text_attributes(text: str) -> str:
    """Returns the attributes `lang` (if another language is detected) and `dir` of an element."""
    return f'{lang_attribute(text)} dir="{"rtl" if is_right_to_left(text) else "auto"}"'


def lang_attribute(text: str) -> str:
    """Returns the attribute `lang` of an element; empty for English or undetected text."""
    language = language_of([text])
    return "" if language in ("", "en") else f' lang="{language}"'


def img_element(pixels: Pixels, alt: str) -> str:
    """Returns an image element with embedded data."""
    kind, data, (width, height) = _encoded(pixels)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}"{lang_attribute(alt)}>'


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


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="seesay">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title{lang}>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1{attributes}>{title}</h1>
{body}
</main>
</body>
</html>
"""

STYLE = """\
:root {
  --paper: #f6f7f9; --card: #fff; --ink: #1f2328; --muted: #59636e; --line: #d9dee4; --accent: #9a3412;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1d2125; --ink: #e8eaed; --muted: #a3adb8; --line: #353b42; --accent: #fdba74;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { margin: 0 0 1rem; font-size: 2rem; line-height: 1.2; text-wrap: balance; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.3rem; line-height: 1.3; }
p { margin: 0 0 .75rem; max-width: 42rem; }
p, li, h1, h2, td, figcaption { overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: auto; border-radius: .4rem; }
figure { margin: 1rem 0; }
figcaption, caption, .label, .name, dt { color: var(--muted); font-size: .875rem; }
figcaption { margin-top: .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .5rem; text-align: start; }
th, td { padding: .4rem .9rem; border-bottom: 1px solid var(--line); text-align: start; vertical-align: top; }
th { color: var(--muted); font-size: .875rem; white-space: nowrap; }
.number { text-align: end; }
td.number { white-space: nowrap; }
.gallery {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem;
}
.card {
  display: grid; align-content: start; gap: 1rem; padding: 1rem;
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
}
.card > * { min-width: 0; }
.card > img { width: 100%; max-height: 22rem; object-fit: contain; }
.card ul { margin: 0 0 .75rem; padding-inline-start: 1.1rem; }
.card .label { margin: 0; }
.card .name { margin: 0; }
.generated { color: var(--accent); font-size: 1.15rem; font-weight: 600; line-height: 1.35; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0 0 .75rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; font-weight: 600; }
.strip { overflow-x: auto; }
.words { position: relative; }
.stage { margin-bottom: 2.5rem; }
.words fieldset { display: flex; flex-wrap: wrap; gap: .3rem; margin: 0; padding: 0; border: 0; }
.words legend { color: var(--muted); font-size: .875rem; margin-bottom: .4rem; }
.words input { position: absolute; opacity: 0; }
.word {
  display: block; padding: .2rem .6rem; border: 1px solid var(--line); border-radius: .4rem; background: var(--card);
  cursor: pointer;
}
.words input:checked + .word, .words label:hover .word { border-color: var(--accent); color: var(--accent); }
.words input:focus-visible + .word { outline: 3px solid var(--accent); outline-offset: 2px; }
.overlay { position: absolute; inset: 0 0 auto; visibility: hidden; pointer-events: none; }
.overlay img { width: 100%; }
.fact { display: block; color: var(--muted); font-size: .875rem; padding-top: .4rem; }
.words input:checked ~ .overlay, .words label:hover .overlay { visibility: visible; }
.words fieldset:has(label:hover) label:not(:hover) .overlay { visibility: hidden; }
.strip img { max-width: none; }
@media (min-width: 44rem) {
  .wide { grid-column: 1 / -1; grid-template-columns: 17rem 1fr; }
  .wide .strip { grid-column: 1 / -1; }
  .strip img { max-width: 100%; }
}
@media print { .card { break-inside: avoid; } }
"""
