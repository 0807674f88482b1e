"""A report as one HTML file that needs nothing else: styles and images are inside, no script, no request.

A page is a title and sections. A section is anything with a heading and the HTML of its body: `Text`,
`Table`, `Figure`, `Gallery`, and whatever else a caller composes. All text from outside is escaped. The
page is in English; an element whose text is in another language or direction has `lang` and `dir` of its own.
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

LONGEST_SIDE = 1280  # pixels of an embedded image; larger ones only make the file larger
JPEG_QUALITY = 90
NOTHING = "–"

Cell = str | int | float | None
Pixels = Image.Image | bytes


class Section(Protocol):
    """One part of the page; an empty heading means none."""

    @property
    def heading(self) -> str:
        """The section's heading, as plain text."""

    def html(self) -> str:
        """Returns the body as HTML, with everything from outside escaped."""


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines."""

    text: str
    heading: str = ""

    def html(self) -> str:
        """Returns one paragraph element each."""
        paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", self.text))
        return "\n".join(f"<p{text_attributes(part)}>{escape(part)}</p>" for part in paragraphs if part)


@dataclass(frozen=True)
class Table:
    """Rows under a header; numbers stand to the right, None is a dash, floats have two decimals."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    heading: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.header):
                raise DataError(
                    f"row {number} of a report's table has {len(row)} cells under {len(self.header)} headers"
                )

    def html(self) -> str:
        """Returns the table, in a box that scrolls where the page is too narrow."""
        numeric = [
            all(value is None or not isinstance(value, str) for value in column)
            for column in zip(*self.rows, strict=True)
        ] or [False] * len(self.header)
        kinds = [' class="number"' if right else "" for right in numeric]
        heads = "".join(
            f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(self.header, kinds, strict=True)
        )
        rows = "\n".join(
            "<tr>"
            + "".join(f"<td{kind}{_in_cell(v)}>{_cell(v)}</td>" for v, kind in zip(row, kinds, strict=True))
            + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{escape(self.caption)}</caption>\n" if self.caption else ""
        label = escape(self.caption or self.heading or "table")
        return (
            f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>\n{caption}'
            f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
        )


@dataclass(frozen=True)
class Figure:
    """One image or plot: a Pillow image, or the bytes of a PNG or JPEG, which are kept as they are."""

    image: Pixels
    alt: str
    caption: str = ""
    heading: str = ""

    def html(self) -> str:
        """Returns a figure."""
        attributes = text_attributes(self.caption)
        caption = f"\n<figcaption{attributes}>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure>{img_element(self.image, self.alt)}{caption}</figure>"


@dataclass(frozen=True)
class Card:
    """An image with the model's caption and, where given, its evidence.

    Attributes:
        image: the image.
        caption: what the model said.
        references: what people said.
        attention: a strip of attention overlays, or a section such as `WordByWord` that shows them.
        scores: numbers by name, such as CIDEr.
        name: the image's file or id.
    """

    image: Pixels
    caption: str
    references: Sequence[str] = ()
    attention: "Pixels | Section | None" = None
    scores: Mapping[str, float] = field(default_factory=dict)
    name: str = ""

    def html(self) -> str:
        """Returns an article."""
        # A person's words describe the image better than ours, which are printed beside it anyway.
        alt = self.references[0] if self.references else self.name or "the captioned image"
        said = escape(self.caption) if self.caption.strip() else "<em>(an empty caption)</em>"
        parts = [f'<p class="said"{text_attributes(self.caption)}>{said}</p>']
        if self.references:
            people = "".join(f"<li{text_attributes(each)}>{escape(each)}</li>" for each in self.references)
            parts.append(f'<p class="label">People said</p>\n<ul>{people}</ul>')
        if self.scores:
            pairs = "".join(f"<div><dt>{escape(n)}</dt><dd>{_cell(v)}</dd></div>" for n, v in self.scores.items())
            parts.append(f"<dl>{pairs}</dl>")
        if self.name:
            parts.append(f'<p class="name">{escape(self.name)}</p>')
        body = img_element(self.image, alt) + "\n<div>" + "\n".join(parts) + "</div>"
        if self.attention is None:
            return f'<article class="card">{body}</article>'
        if isinstance(self.attention, (Image.Image, bytes)):
            seen = img_element(self.attention, f"where the model looked for each word of: {self.caption}")
            strip = f'<div class="strip" role="region" aria-label="attention" tabindex="0">{seen}</div>'
        else:
            strip = f'<div class="strip">{self.attention.html()}</div>'
        return f'<article class="card wide">{body}\n{strip}</article>'


@dataclass(frozen=True)
class Gallery:
    """Cards, side by side where there is room; a card with an attention strip takes the whole width."""

    cards: Sequence[Card]
    heading: str = ""

    def html(self) -> str:
        """Returns the cards in a grid."""
        return '<div class="gallery">\n' + "\n".join(card.html() for card in self.cards) + "\n</div>"


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes the page, whole or not at all; its folder is made.

    Raises:
        DataError: if a file is there that is not a page of seesay.
        ImageError: if the bytes given as an image are no PNG or JPEG.
        SeesayError: if the file cannot be written.
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
    # File names may hold bytes that are no text; they must not keep a report from being written.
    write_atomically(Path(path), page.encode("utf-8", errors="replace"))


def _section(number: int, section: Section) -> str:
    """Returns a section element, labelled by its heading where it has one."""
    if not section.heading:
        return f"<section>\n{section.html()}\n</section>"
    anchor = f"section-{number}"
    return (
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(section.heading)}</h2>\n'
        f"{section.html()}\n</section>"
    )


def _cell(value: Cell) -> str:
    """Returns a value as escaped text."""
    if value is None or value != value:  # NaN is the one value that differs from itself
        return NOTHING
    return f"{value:.2f}" if isinstance(value, float) else escape(str(value))


def _in_cell(value: Cell) -> str:
    """Returns the attributes of a cell; none for numbers and for plain text of the page itself."""
    return text_attributes(value) if isinstance(value, str) and not value.isascii() else ""


def text_attributes(text: str) -> str:
    """Returns the attributes `lang`, where the language is told and is not the page's, and `dir` for an element."""
    return f'{lang_attribute(text)} dir="{"rtl" if is_right_to_left(text) else "auto"}"'


def lang_attribute(text: str) -> str:
    """Returns the attribute `lang` of an element with a text; none where it is the page's or cannot be told."""
    language = language_of([text])
    return "" if language in ("", "en") else f' lang="{language}"'


def img_element(pixels: Pixels, alt: str) -> str:
    """Returns an image element that holds its image."""
    kind, data, (width, height) = _encoded(pixels)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}"{lang_attribute(alt)}>'


def _encoded(pixels: Pixels) -> tuple[str, bytes, tuple[int, int]]:
    """Returns the kind (png, jpeg), the bytes and the size of an image to embed."""
    if isinstance(pixels, bytes):
        try:
            with Image.open(io.BytesIO(pixels), formats=("PNG", "JPEG")) as given:
                return (given.format or "").lower(), pixels, given.size
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise ImageError("the bytes of a report's image are no PNG or JPEG; give a Pillow image") from error
    image = pixels.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    # Drawings are smaller and exact as PNG, photographs several times smaller as JPEG.
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
.said { color: var(--accent); font-size: 1.15rem; font-weight: 600; line-height: 1.35; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0 0 .75rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; font-weight: 600; }
.strip { overflow-x: auto; }
.looks { position: relative; }
.stage { margin-bottom: 2.5rem; }
.looks fieldset { display: flex; flex-wrap: wrap; gap: .3rem; margin: 0; padding: 0; border: 0; }
.looks legend { color: var(--muted); font-size: .875rem; margin-bottom: .4rem; }
.looks input { position: absolute; opacity: 0; }
.word {
  display: block; padding: .2rem .6rem; border: 1px solid var(--line); border-radius: .4rem; background: var(--card);
  cursor: pointer;
}
.looks input:checked + .word, .looks label:hover .word { border-color: var(--accent); color: var(--accent); }
.looks input:focus-visible + .word { outline: 3px solid var(--accent); outline-offset: 2px; }
.look { position: absolute; inset: 0 0 auto; visibility: hidden; pointer-events: none; }
.look img { width: 100%; }
.fact { display: block; color: var(--muted); font-size: .875rem; padding-top: .4rem; }
.looks input:checked ~ .look, .looks label:hover .look { visibility: visible; }
.looks fieldset:has(label:hover) label:not(:hover) .look { visibility: hidden; }
.strip img { max-width: none; }
@media (min-width: 44rem) {
  .wide { grid-column: 1 / -1; grid-template-columns: 17rem 1fr; }
  .wide .strip { grid-column: 1 / -1; }
  .strip img { max-width: 100%; }
}
@media print { .card { break-inside: avoid; } }
"""
