"""Date, place and keywords of image files, written by Pillow."""

import io

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
