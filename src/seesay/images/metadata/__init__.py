"""Image descriptions in XMP or EXIF metadata, as used by photo software, for JPEG, PNG, WebP and TIFF.

Only the metadata block changes; the compressed image and all other blocks are copied byte for byte. EXIF: the tag
ImageDescription (0x010E), as UTF-8, as is common practice. XMP: dc:description in the language x-default.
"""

import contextlib
from dataclasses import replace
from types import ModuleType
from typing import Literal

from seesay.images.metadata import iptc, jpeg, png, tiff, webp, xmp
from seesay.images.metadata.errors import DescriptionError
from seesay.images.metadata.facts import ImageFacts, exif_facts

Field = Literal["xmp", "exif"]

__all__ = ["DescriptionError", "Field", "ImageFacts", "read_description", "read_facts", "with_description"]

_IMAGE_DESCRIPTION = 0x010E


def read_description(data: bytes, field: Field) -> str:
    """Return the description in a file; empty if there is none.

    Args:
        data: content of the file.
        field: metadata to read.

    Raises:
        DescriptionError: the format is not supported, or the file is damaged.
    """
    block = _container(data).read_block(data, field)
    if block is None:
        return ""
    if field == "xmp":
        return xmp.description(block)
    value = tiff.read_tag(block, _IMAGE_DESCRIPTION) or b""
    return _text(value.split(b"\0")[0]).strip()


def read_facts(data: bytes) -> ImageFacts:
    """Return date, place and keywords in a file; those that are missing or unreadable are empty.

    Args:
        data: content of the file, of any format.
    """
    facts = ImageFacts()
    tags: tuple[str, ...] = ()
    with contextlib.suppress(DescriptionError):
        if (block := _container(data).read_block(data, "exif")) is not None:
            facts = exif_facts(block)
    with contextlib.suppress(DescriptionError):  # even if the EXIF data are damaged
        if (block := _container(data).read_block(data, "xmp")) is not None:
            tags = xmp.keywords(block)
    return replace(facts, tags=tags or iptc.keywords(data) or facts.tags)


def with_description(data: bytes, text: str, field: Field) -> bytes:
    """Return the file with a new description.

    Args:
        data: content of the file.
        text: the description.
        field: metadata to write.

    Raises:
        DescriptionError: as `read_description`; or the description is too long, or existing metadata is damaged.
    """
    container = _container(data)
    block = container.read_block(data, field)
    clean = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
    if field == "xmp":
        block = xmp.with_description(block, clean)
    else:
        value = clean.encode("utf-8", "replace") + b"\0"
        block = tiff.with_tag(block or tiff.EMPTY, _IMAGE_DESCRIPTION, tiff.ASCII, value)
    written: bytes = container.with_block(data, field, block)
    return written


def _container(data: bytes) -> ModuleType:
    for module in (jpeg, png, webp, tiff):
        if module.matches(data):
            return module
    raise DescriptionError("descriptions are supported only in JPEG, PNG, WebP and TIFF files")


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
