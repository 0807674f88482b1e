"""Date, place and keywords of image files, written by Pillow."""

import io
import struct
from collections.abc import Sequence

import pytest
from PIL import Image

from seesay.images.metadata import ImageFacts, read_facts, with_description
from tests import tiny
from tests.images.metadata.test_descriptions import XMP

EXIF, GPS = 0x8769, 0x8825


def photo(name: str, exif: Image.Exif, **options: object) -> bytes:
    file = io.BytesIO()
    tiny.image(3, 61, 41).save(file, name, exif=exif, **options)
    return file.getvalue()


def exif(date: str = "2024:05:17 14:03:22", south: bool = True) -> Image.Exif:
    tags = Image.Exif()
    tags[EXIF] = {0x9003: date}
    tags[GPS] = {1: "S" if south else "N", 2: (33.0, 51.0, 25.2), 3: "E", 4: (151.0, 12.0, 54.0)}
    return tags


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_facts_are_read(name: str) -> None:
    data = photo(name, exif())
    assert read_facts(data) == ImageFacts("2024-05-17", "-33.8570, 151.2150")
    assert read_facts(photo(name, exif(south=False))).place == "33.8570, 151.2150"


def test_facts_of_a_tiff_are_those_of_its_first_directory() -> None:
    data = exif().tobytes().removeprefix(b"Exif\0\0")  # EXIF data have the format of a TIFF without pixels
    assert read_facts(data) == ImageFacts("2024-05-17", "-33.8570, 151.2150")


def test_keywords_of_both_kinds_are_read() -> None:
    tags = exif()
    tags[0x9C9E] = "cat; dog;".encode("utf-16-le")
    assert read_facts(photo("JPEG", tags)).tags == ("cat", "dog")
    assert read_facts(photo("JPEG", tags, xmp=XMP)).tags == ("dog",)  # XMP is the newer standard
    assert read_facts(photo("PNG", Image.Exif())) == ImageFacts()


def dataset(record: int, number: int, value: bytes) -> bytes:
    return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value


def iptc(words: Sequence[str], encoding: str, declared: bool) -> bytes:
    """Return IPTC-IIM data with keywords, and other datasets before and after them."""
    first = [dataset(1, 90, b"\x1b%G")] if declared else []
    return b"".join([*first, dataset(2, 5, b"title"), *(dataset(2, 25, word.encode(encoding)) for word in words)]) + (
        dataset(2, 120, b"caption")
    )


def with_iptc(name: str, data: bytes, exif: Image.Exif | None = None, **options: object) -> bytes:
    """Return a photo with IPTC-IIM data, in a JPEG in a Photoshop block after another resource."""
    if name == "TIFF":
        return photo("TIFF", exif or Image.Exif(), tiffinfo={33723: data}, **options)
    if name != "JPEG":
        return photo(name, exif or Image.Exif(), **options)
    block = b"Photoshop 3.0\0"
    for number, resource in ((0x040F, b"odd"), (0x0404, data)):
        block += b"8BIM" + struct.pack(">HHI", number, 0, len(resource)) + resource + b"\0" * (len(resource) % 2)
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    return photo("JPEG", exif or Image.Exif(), extra=segment, **options)


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
@pytest.mark.parametrize(("encoding", "declared"), [("utf-8", True), ("utf-8", False), ("latin-1", False)])
def test_iptc_keywords_are_read(name: str, encoding: str, declared: bool) -> None:
    words = ("Käse", "dog", "  ", "crème brûlée ")
    assert read_facts(with_iptc(name, iptc(words, encoding, declared))).tags == ("Käse", "dog", "crème brûlée")
    assert read_facts(with_iptc(name, iptc(words[:1], encoding, declared))).tags == ("Käse",)
    assert read_facts(with_iptc(name, iptc((), encoding, declared))).tags == ()


def test_iptc_keywords_beside_others() -> None:
    tags = exif()
    tags[0x9C9E] = "cat; dog;".encode("utf-16-le")
    both = with_iptc("JPEG", iptc(["horse"], "utf-8", True), tags)
    assert read_facts(both) == ImageFacts("2024-05-17", "-33.8570, 151.2150", ("horse",))
    assert read_facts(with_iptc("JPEG", iptc(["horse"], "utf-8", True), tags, xmp=XMP)).tags == ("dog",)
    assert read_facts(with_iptc("PNG", b"", tags)).tags == ("cat", "dog")


def test_damaged_iptc_data_have_no_keywords() -> None:
    for name in ("JPEG", "TIFF"):
        data = with_iptc(name, iptc(["horse", "cow"], "utf-8", True))
        place = data.index(b"horse")
        for begin in range(place - 20, place + 20):
            read_facts(data[:begin] + b"\xff" + data[begin + 1 :])  # raises nothing
            read_facts(data[:begin])
        assert read_facts(data.replace(b"\x1c\x02\x05", b"\xff\x02\x05")).tags == ()


@pytest.mark.parametrize("date", ["0000:00:00 00:00:00", "    :  :     :  :  ", ""])
def test_an_unset_date_is_empty(date: str) -> None:
    assert read_facts(photo("JPEG", exif(date))).date == ""


def test_damaged_files_have_no_facts() -> None:
    data = photo("JPEG", exif(), xmp=XMP)
    for broken in (b"", b"GIF89a", data[:40], data.replace(b"II*\0", b"II*\1").replace(b"MM\0*", b"MM\1*")):
        assert read_facts(broken).date == ""
    damaged = data.replace(b"<rdf:RDF", b"<rdf:RDX")
    assert read_facts(damaged).date == "2024-05-17"
    for end in range(0, len(data), 7):
        read_facts(data[:end])  # raises nothing


def test_facts_stay_when_a_description_is_written() -> None:
    data = with_description(photo("JPEG", exif()), "a dog", "exif")
    assert read_facts(data) == ImageFacts("2024-05-17", "-33.8570, 151.2150")
