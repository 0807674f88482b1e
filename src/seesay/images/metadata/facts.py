"""Facts in EXIF data that prompts may mention: the day, the place, keywords (EXIF 3.0, sections 4.6.5 and 4.6.6)."""

import re
import struct
from dataclasses import dataclass

from seesay.images.metadata import tiff

_EXIF, _GPS = 0x8769, 0x8825  # tags that point to directories
_DATE_TIME_ORIGINAL, _DATE_TIME = 0x9003, 0x0132
_LATITUDE, _LONGITUDE = (1, 2), (3, 4)  # tags of the reference (N or S, E or W) and of the angle
_XP_KEYWORDS = 0x9C9E  # Windows: UTF-16, separated by semicolons


@dataclass(frozen=True)
class ImageFacts:
    """Metadata of an image.

    Attributes:
        date: the day on which it was taken, as in 2026-11-30; empty: unknown.
        place: latitude and longitude in degrees, north and east positive, as in `52.5163, 13.3777`; empty: unknown.
        tags: keywords.
    """

    date: str = ""
    place: str = ""
    tags: tuple[str, ...] = ()


def exif_facts(data: bytes) -> ImageFacts:
    """Return the facts in EXIF data.

    Args:
        data: EXIF data, in the format of a TIFF file.

    Raises:
        DescriptionError: a directory is damaged.
    """
    value = tiff.read_tag(data, _DATE_TIME_ORIGINAL, _EXIF) or tiff.read_tag(data, _DATE_TIME) or b""
    date = re.match(rb"(\d{4}):(\d\d):(\d\d)", value)
    angles = [_degrees(data, *tags) for tags in (_LATITUDE, _LONGITUDE)]
    keywords = (tiff.read_tag(data, _XP_KEYWORDS) or b"").decode("utf-16-le", "replace").strip("\0")
    return ImageFacts(
        "-".join(part.decode() for part in date.groups()) if date and date[1] != b"0000" else "",
        "" if None in angles else ", ".join(f"{angle:.4f}" for angle in angles),
        tuple(filter(None, (word.strip() for word in keywords.split(";")))),
    )


def _degrees(data: bytes, reference: int, angle: int) -> float | None:
    """Return an angle in degrees, negative in the south and west; None if it is missing or invalid."""
    side, value = tiff.read_tag(data, reference, _GPS), tiff.read_tag(data, angle, _GPS)
    if side is None or value is None or len(value) != 24:
        return None
    numbers = struct.unpack(f"{'<' if tiff.byte_order(data) == 'little' else '>'}6I", value)
    # Rationals; some cameras write 0/0 for the seconds.
    degrees, minutes, seconds = (numbers[place] / (numbers[place + 1] or 1) for place in (0, 2, 4))
    size = degrees + minutes / 60 + seconds / 3600
    return None if size > 180 else -size if side[:1] in b"SW" else size
