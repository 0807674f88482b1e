"""HTML and terminal displays of results in notebooks: fragments with embedded images, no requests, escaped text."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from rich.table import Table

SIDE = 420
"""Maximum width and height of an image in pixels."""

_CELL = 12
"""Height of a region in the attention maps, in pixels; the browser scales them to the image."""
_HEAT = (255, 90, 0)
_SHOW_WORD = (
    "const f=this.closest('figure'),n=+this.value,m=f.querySelector('[data-map]');"
    "m.style.opacity=n?1:0;m.style.backgroundPositionY=(+this.max>1?100*(n-1)/(this.max-1):0)+'%';"
    "f.querySelectorAll('[data-word]').forEach((w,i)=>w.style.fontWeight=i+1===n?'bold':'')"
)


@dataclass(frozen=True)
class ResultTable:
    """A small table of a result.

    Attributes:
        title: line above the table.
        header: names of the columns.
        rows: cells.
        note: line below the table, such as a signature.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def html(self) -> str:
        """Return the table as an HTML fragment."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.header)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        note = f"<p><small>{escape(self.note)}</small></p>" if self.note else ""
        return (
            f"<div><p><b>{escape(self.title)}</b></p><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{note}</div>"
        )

    def rich(self) -> "Table":
        """Return the table for `rich.print`."""
        from rich.markup import escape as escape_markup
        from rich.table import Table

        table = Table(title=escape_markup(self.title), caption=escape_markup(self.note), title_justify="left")
        for name in self.header:
            table.add_column(escape_markup(name))
        for row in self.rows:
            table.add_row(*map(escape_markup, row))
        return table


def caption_html(
    text: str,
    image: Image.Image | None = None,
    words: Sequence[str] = (),
    attention: NDArray[np.float32] | None = None,
    grid: tuple[int, int] | None = None,
) -> str:
    """Return a figure of an image with its caption and, with attention, a slider over the words.

    Args:
        text: the caption.
        image: the image; None: the caption alone.
        words: T words of the caption.
        attention: attention weights, (T, N); None: no slider.
        grid: (rows, columns) of the N regions; None: no slider.
    """
    caption = escape(text) or "<em>(an empty caption)</em>"
    if image is None:
        return f"<p>{caption}</p>"
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    picture = (
        f'<img src="{_data_url(small, "JPEG")}" width="{small.width}" height="{small.height}" alt="{escape(text)}" '
        'style="display: block; max-width: none">'
    )
    slider = ""
    if attention is not None and grid is not None and len(words):
        picture += (
            '<div data-map style="position: absolute; inset: 0; opacity: 0; background-size: 100% '
            f'{100 * len(words)}%; background-image: url({_data_url(_maps(attention, grid), "PNG")})"></div>'
        )
        caption = " ".join(f"<span data-word>{escape(word)}</span>" for word in words)
        slider = (
            f'<input type="range" min="0" max="{len(words)}" value="0" aria-label="word whose attention is shown" '
            f'style="width: {small.width}px" oninput="{_SHOW_WORD}">'
        )
    return (
        f'<figure style="margin: 0; width: {small.width}px"><div style="position: relative">{picture}</div>'
        f"{slider}<figcaption>{caption}</figcaption></figure>"
    )


def _maps(attention: NDArray[np.float32], grid: tuple[int, int]) -> Image.Image:
    """Return the attention maps of all words below each other; opacity is the weight over the word's maximum."""
    size = (grid[1] * _CELL, grid[0] * _CELL)
    maps = []
    for weights in attention:
        strength = (weights / max(float(weights.max()), 1e-9)).reshape(grid)
        level = Image.fromarray(np.rint(190 * strength).astype(np.uint8))
        maps.append(np.asarray(level.resize(size, Image.Resampling.BILINEAR)))
    alpha = np.concatenate(maps)
    colour = np.broadcast_to(np.array(_HEAT, dtype=np.uint8), (*alpha.shape, 3))
    return Image.fromarray(np.concatenate([colour, alpha[..., None]], axis=2))


def _data_url(image: Image.Image, format: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
