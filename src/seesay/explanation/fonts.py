"""Fonts for the characters of a text: DejaVu Sans, then installed fonts with the required glyphs."""

import contextlib
import logging
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from seesay.errors import ConfigError
from seesay.languages import scripts_of

log = logging.getLogger("seesay")

_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")
_COMBINING = ("Mn", "Me", "Mc", "Cf")  # marks and joiners, drawn with the previous character


class TextRenderer:
    """Draws text in one size, each character in the first font that has its glyph.

    Args:
        texts: all texts to be drawn.
        size: font size in pixels.
        path: a TrueType or OpenType file to use exclusively; None: DejaVu Sans, then installed fonts.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, texts: Iterable[str], size: int, path: str | Path | None = None) -> None:
        paths = [str(path)] if path is not None else find_fonts(texts)
        self.size = size
        self._fonts = [_open(file, size) for file in paths]
        self._glyphs = [_glyphs(file) for file in paths]

    def length(self, text: str) -> float:
        """Returns the width of a line in pixels."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def write(
        self, draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, ink: tuple[int, int, int]
    ) -> None:
        """Draws a line; `position` is its left end and vertical middle."""
        x, y = position
        ascent, descent = self._fonts[0].getmetrics()
        for font, part in self._parts(text):
            draw.text((x, y + (ascent - descent) / 2), part, font=font, fill=ink, anchor="ls")
            x += font.getlength(part)

    def _parts(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Returns the text in runs of one font."""
        parts: list[tuple[ImageFont.FreeTypeFont, str]] = []
        for character in text:
            font = next((f for f, has in zip(self._fonts, self._glyphs, strict=True) if ord(character) in has), None)
            if parts and (font is None or font is parts[-1][0] or not _needs_glyph(character)):
                parts[-1] = (parts[-1][0], parts[-1][1] + character)
            else:
                parts.append((font or self._fonts[0], character))
        return parts


def split_characters(text: str) -> list[str]:
    """Returns the characters of a text, each with its combining marks."""
    found: list[str] = []
    for character in text:
        if found and unicodedata.category(character) in _COMBINING:
            found[-1] += character
        else:
            found.append(character)
    return found


def find_fonts(texts: Iterable[str]) -> list[str]:
    """Returns font files that together cover the characters of texts: DejaVu Sans, then as few as possible.

    Characters without a glyph are drawn as boxes; this is logged once per script, with a package to install.
    """
    missing = {ord(character) for text in texts for character in text if _needs_glyph(character)}
    found = [default_font()]
    missing -= _glyphs(found[0])
    candidates = _installed() if missing else ()
    while missing:
        complete = (path for path in candidates if missing <= _glyphs(path))
        best = next(complete, "") or max(candidates, key=lambda path: len(missing & _glyphs(path)), default="")
        if not best or not missing & _glyphs(best):
            for script in scripts_of("".join(map(chr, missing))) or [""]:
                _warn(script)
            break
        found.append(best)
        missing -= _glyphs(best)
    return found


def find_families(texts: Iterable[str]) -> list[str]:
    """Returns the families of `find_fonts`, which Matplotlib tries in order for each character."""
    from matplotlib.font_manager import get_font

    return [get_font(path).family_name for path in find_fonts(texts)]


@contextlib.contextmanager
def ignore_missing_glyphs() -> Iterator[None]:
    """Suppresses Matplotlib's warnings about missing glyphs, which `find_fonts` has logged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        yield


@cache
def default_font() -> str:
    """Returns the path of the DejaVu Sans font included in Matplotlib."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def _installed() -> Sequence[str]:
    """Returns the paths of all installed fonts, upright regular sans-serif ones first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:  # installed after Matplotlib created its list
        with contextlib.suppress(OSError, RuntimeError):
            fontManager.addfont(path)
    entries = sorted(
        fontManager.ttflist,
        key=lambda entry: (
            entry.style != "normal",
            entry.weight not in (400, "normal", "regular"),
            "mono" in entry.name.lower(),
            "serif" in entry.name.lower(),
            entry.name,
            entry.fname,
        ),
    )
    return tuple(dict.fromkeys(entry.fname for entry in entries))


@cache
def _glyphs(path: str) -> frozenset[int]:
    """Returns the characters of a scalable font; empty for placeholder fonts."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    if not font.scalable or font.family_name.startswith("Last Resort"):
        return frozenset()
    return frozenset(font.get_charmap())


def _needs_glyph(character: str) -> bool:
    return character.isprintable() and not character.isspace() and unicodedata.category(character) not in _COMBINING


def _open(path: str, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        raise ConfigError(f"cannot read the font {path} ({error}); pass a TrueType or OpenType file") from error


@cache
def _warn(script: str) -> None:
    """Logs once per script that its characters have no glyphs."""
    kind = "CJK" if script in _CJK else script.capitalize() or "some symbols"
    package = "fonts-noto-cjk" if script in _CJK else "fonts-noto-core" if script else "fonts-symbola"
    log.warning("no installed font has %s: figures show boxes; install one, such as Debian's %s", kind, package)
