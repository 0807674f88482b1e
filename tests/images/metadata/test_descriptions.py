"""Descriptions in image files: read by seesay and by Pillow, with unchanged compressed image data."""

import io
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seesay.images.metadata import DescriptionError, Field, read_description, with_description
from tests import tiny

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
every_format = pytest.mark.parametrize("name", FORMATS)
every_field = pytest.mark.parametrize("field", ["xmp", "exif"])
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="uuid:1" xmlns:d="http://purl.org/dc/'
    b'elements/1.1/" xmlns:lr="http://ns.adobe.com/lightroom/1.0/" lr:rating="5"><d:description><rdf:Alt><rdf:li xml:'
    b'lang="de">alt</rdf:li><rdf:li xml:lang="x-default">old &amp; worn</rdf:li></rdf:Alt></d:description><d:subject>'
    b"<rdf:Bag><rdf:li>dog</rdf:li></rdf:Bag></d:subject></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
)


def encoded(name: str, **options: object) -> bytes:
    file = io.BytesIO()
    tiny.image(3, 61, 41).save(file, name, **options)
    return file.getvalue()


def compressed(data: bytes) -> bytes:
    """Returns the compressed image data, located independently of the tested parsers."""
    if data.startswith(b"\xff\xd8"):
        return data[data.index(b"\xff\xda") :]
    if data.startswith(b"\x89PNG"):
        return data[data.index(b"IDAT") - 4 :]
    if data.startswith(b"RIFF"):
        begin = max(data.find(b"VP8 "), data.find(b"VP8L"))
        return data[begin : begin + 8 + struct.unpack_from("<I", data, begin + 4)[0]]
    with Image.open(io.BytesIO(data)) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        return b"".join(data[a : a + n] for a, n in zip(tags[273], tags[279], strict=True))


@every_format
@every_field
class TestRoundTrip:
    def test_text_is_read_back_and_the_image_data_are_unchanged(self, name: str, field: Field) -> None:
        before = data = encoded(name)
        assert read_description(data, field) == ""
        for text in ("a dog <runs> & jumps\nsecond line", "犬が走る, ça va", "x"):
            data = with_description(data, text, field)
            assert read_description(data, field) == text
            assert compressed(data) == compressed(before)
            with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(before)) as old:
                np.testing.assert_array_equal(image, old)

    def test_pillow_reads_it_too(self, name: str, field: Field) -> None:
        with Image.open(io.BytesIO(with_description(encoded(name), "a dog runs", field))) as image:
            if field == "exif":
                assert image.getexif()[0x010E] == "a dog runs"
            else:
                packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or image.tag_v2[700]  # type: ignore[attr-defined]
                packet = packet.encode() if isinstance(packet, str) else packet
                assert ET.fromstring(packet.strip(b"\0")).find(".//{http://purl.org/dc/elements/1.1/}description")

    def test_both_fields_coexist_and_other_metadata_are_kept(self, name: str, field: Field) -> None:
        exif = Image.Exif()
        exif[0x010F], exif[0x0112], exif[0x0132] = "Maker", 6, "2024:01:02 03:04:05"
        exif.get_ifd(0x8769)[0x920A] = 35.0
        data = encoded(name, exif=exif, **({"icc_profile": b"profile" * 9} if name != "TIFF" else {}))
        other: Field = "exif" if field == "xmp" else "xmp"
        data = with_description(with_description(data, "one", field), "two", other)
        assert (read_description(data, field), read_description(data, other)) == ("one", "two")
        with Image.open(io.BytesIO(data)) as image:
            expected = image.getexif()
            assert (expected[0x010F], expected[0x0112], expected[0x0132]) == ("Maker", 6, "2024:01:02 03:04:05")
            if name != "TIFF":
                assert float(expected.get_ifd(0x8769)[0x920A]) == 35.0
                assert image.info["icc_profile"] == b"profile" * 9


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 100, "subsampling": 0}, {"comment": b"hi"}])
def test_jpeg_variants(options: dict[str, object]) -> None:
    before = encoded("JPEG", **options)
    after = with_description(with_description(before, "a", "xmp"), "b", "exif")
    assert compressed(after) == compressed(before)
    assert after[:4] == b"\xff\xd8\xff\xe0", "the JFIF segment must be first"


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"lossless": True, "exact": True}])
def test_webp_variants(options: dict[str, object]) -> None:
    file = io.BytesIO()
    image = tiny.image(3, 61, 41).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(file, "WEBP", **options)
    after = with_description(file.getvalue(), "a dog", "xmp")
    with Image.open(io.BytesIO(after)) as new, Image.open(io.BytesIO(file.getvalue())) as old:
        assert new.mode == "RGBA"
        np.testing.assert_array_equal(new, old)


def test_animations_and_pages_keep_every_frame() -> None:
    frames = [tiny.image(seed) for seed in range(3)]
    for name in ("WEBP", "TIFF", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, name, save_all=True, append_images=frames[1:])
        for field in ("xmp", "exif"):
            with Image.open(io.BytesIO(with_description(file.getvalue(), "a", field))) as image:
                assert getattr(image, "n_frames", 1) == 3


def test_xmp_of_other_software_is_kept() -> None:
    data = encoded("JPEG", xmp=XMP)
    assert read_description(data, "xmp") == "old & worn"
    after = with_description(data, "a dog", "xmp")
    assert read_description(after, "xmp") == "a dog"
    with Image.open(io.BytesIO(after)) as image:
        packet = image.info["xmp"]
    for expected in (b'lr:rating="5"', b'xmlns:d="http://purl', b"<rdf:li>dog</rdf:li>", b'rdf:about="uuid:1"'):
        assert expected in packet
    assert b"worn" not in packet
    assert packet.count(b'rdf:about="uuid:1"') == 2


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        (b"GIF89a", "xmp", "supported only in JPEG, PNG, WebP and TIFF"),
        (encoded("JPEG", xmp=b"<a"), "xmp", "XMP is damaged"),
        (encoded("JPEG", xmp=b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'), "xmp", "declares entities"),
        (encoded("JPEG", xmp=b"<a/>"), "xmp", "contains no RDF"),
        (encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff"), "exif", "EXIF data are damaged"),
        (encoded("JPEG")[:30], "exif", "segments are damaged"),
        (encoded("PNG")[:60], "xmp", "chunks are damaged"),
    ],
)
def test_unsupported_or_damaged_files_are_refused(data: bytes, field: Field, message: str) -> None:
    with pytest.raises(DescriptionError, match=message):
        with_description(data, "text", field)


def test_a_text_too_long_for_a_jpeg_is_refused() -> None:
    for field in ("xmp", "exif"):
        with pytest.raises(DescriptionError, match=r"data would be \d+ bytes; JPEG's limit is 65533"):
            with_description(encoded("JPEG"), "x" * 70_000, field)


def test_the_orientation_is_kept() -> None:
    from seesay.images.orientation import exif_orientation

    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open(io.BytesIO(with_description(encoded("JPEG", exif=exif), "a", "exif"))) as image:
        assert exif_orientation(image) == 8


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.sampled_from(["xmp", "exif"]), st.binary(max_size=60), st.integers(0, 400))
def test_damaged_files_are_refused_or_keep_their_image(name: str, field: Field, junk: bytes, position: int) -> None:
    data = encoded(name)
    data = data[:position] + junk + data[position + len(junk) :]
    check: Callable[[], bytes] = lambda: with_description(data, "text", field)  # noqa: E731
    try:
        after = check()
    except DescriptionError:
        return
    assert read_description(after, field) == "text"
