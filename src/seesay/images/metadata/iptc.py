"""Keywords in IPTC-IIM metadata (IIM 4.2, dataset 2:25), which photo software wrote before XMP, and still writes.

In a JPEG they are in the Photoshop block (APP13, resource 0x0404), in a TIFF in the tag 33723. Pillow parses both.
"""

import contextlib
import io
from typing import Any

from PIL.IptcImagePlugin import getiptcinfo
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from seesay.images.metadata import jpeg, tiff

_KEYWORDS, _CHARACTER_SET = (2, 25), (1, 90)
_UTF_8 = b"\x1b%G"  # ISO 2022 escape sequence


def keywords(data: bytes) -> tuple[str, ...]:
    """Return the keywords of a JPEG or TIFF file; none if it is damaged or of another format.

    Args:
        data: content of the file.
    """
    plugin = JpegImageFile if jpeg.matches(data) else TiffImageFile if tiff.matches(data) else None
    if plugin is None:
        return ()
    found: dict[tuple[int, int], Any] = {}
    # Pillow raises errors of many types for damaged files; loading the pixels reports them.
    with contextlib.suppress(Exception):
        found = getiptcinfo(plugin(io.BytesIO(data))) or {}  # not `Image.open`, which warns about large images
    values = found.get(_KEYWORDS) or []
    is_utf8 = found.get(_CHARACTER_SET) == _UTF_8
    words = (_text(value, is_utf8).strip() for value in ([values] if isinstance(values, bytes) else values) if value)
    return tuple(filter(None, words))


def _text(value: bytes, is_utf8: bool) -> str:
    """Return a text, which is Latin-1 unless declared; some programs write UTF-8 without declaring it."""
    try:
        return value.decode("utf-8", "replace" if is_utf8 else "strict")
    except UnicodeDecodeError:
        return value.decode("latin-1")
