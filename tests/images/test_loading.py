"""Unusual, damaged and hostile images, generated here, and the preprocessing."""

import http.server
import io
import json
import socket
import struct
import sys
import tarfile
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from seesay.errors import ConfigError, ImageError
from seesay.images import loading as images
from seesay.images import sources
from seesay.images.loading import (
    Preprocessing,
    image_size,
    load_pixels,
    normalise,
    read_image,
    resize_image,
    to_oriented_rgb,
)

PLAIN = Preprocessing(16, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def gradient(width: int = 48, height: int = 32) -> Image.Image:
    """A smooth image with four distinct corners, so that every rotation and flip is visible."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG written from the specification: signature, IHDR, extra chunks, IDAT, IEND."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(int(channel) for channel in value)


def assert_refused(source: str | Path, *words: str, **options: int) -> None:
    """Checks that every reader raises a one-line error with the source and the words."""
    readers = (
        lambda: read_image(source, **options),
        lambda: load_pixels(source, PLAIN, **options),
    )
    for reader in readers:
        with pytest.raises(ImageError) as caught:
            reader()
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
        assert Path(str(source)).name in message


# Image formats


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP", "JPEG2000", "JPEG", "AVIF"])
def test_every_format_is_read(tmp_path: Path, format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / "image"  # no suffix: detected by content
    gradient().save(path, format, **({"lossless": True} if format == "WEBP" else {}))
    image = read_image(path)
    assert (image.mode, image.size, image_size(path)) == ("RGB", (48, 32), (48, 32))
    difference = np.abs(np.asarray(image, float) - np.asarray(gradient(), float))
    assert difference.mean() < {"GIF": 14, "JPEG": 4, "AVIF": 4}.get(format, 1)


def test_a_cmyk_jpeg_has_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("RGB", (32, 32), (200, 40, 90)).convert("CMYK").save(path, quality=95)
    assert b"Adobe" in path.read_bytes()  # such files store inverted inks
    assert np.allclose(pixel(read_image(path), 16, 16), (200, 40, 90), atol=4)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    levels = [0, 128, 257, 25700, 32768, 65535]
    path = tmp_path / "scan.png"
    path.write_bytes(png(6, 1, 16, 0, b"\x00" + struct.pack(">6H", *levels)))
    assert [pixel(read_image(path), x, 0)[0] for x in range(6)] == [round(v / 257) for v in levels]
    tiff = tmp_path / "scan.tif"
    Image.fromarray(np.array([levels], np.uint16)).save(tiff)
    assert [pixel(read_image(tiff), x, 0) for x in range(6)] == [(round(v / 257),) * 3 for v in levels]


def test_16_bit_pgm_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "scan.pgm"
    path.write_bytes(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 25700, 65535))
    assert [pixel(read_image(path), x, 0)[0] for x in range(3)] == [0, 100, 255]


def test_16_bit_colour_keeps_its_high_byte(tmp_path: Path) -> None:
    path = tmp_path / "colour.png"
    path.write_bytes(png(1, 1, 16, 2, b"\x00" + struct.pack(">3H", 51400, 25700, 257)))
    assert pixel(read_image(path), 0, 0) == (200, 100, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0, 100, 255], [0, 100, 255]), ([-1, 0, 1], [0, 128, 255])],
)
def test_float_images_are_scaled_by_their_range(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([values], np.float32)).save(path)
    assert [pixel(read_image(path), x, 0)[0] for x in range(3)] == expected


def test_a_float_image_with_nan_and_inf_is_read(tmp_path: Path) -> None:
    path = tmp_path / "depth.tif"
    Image.fromarray(np.array([[np.nan, 1.0, np.inf]], np.float32)).save(path)
    assert [pixel(read_image(path), x, 0)[0] for x in range(3)] == [0, 255, 0]


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    path = tmp_path / "glass.png"
    layer = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 51, 255)):
        layer.putpixel((x, 0), (10, 60, 200, alpha))
    layer.save(path)
    image = read_image(path)
    expected = [[round(255 + (c - 255) * a / 255) for c in (10, 60, 200)] for a in (0, 51, 255)]
    assert np.allclose([pixel(image, x, 0) for x in range(3)], expected, atol=1)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(tmp_path: Path, format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([250, 0, 0, 0, 0, 250])
    image.putpixel((1, 0), 1)
    path = tmp_path / "palette"
    image.save(path, format, transparency=0)
    opened = read_image(path)
    assert [pixel(opened, 0, 0), pixel(opened, 1, 0)] == [(255, 255, 255), (0, 0, 250)]


def test_palette_entries_may_be_partly_transparent(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    chunks = (b"PLTE", bytes([200, 0, 0, 0, 0, 200])), (b"tRNS", bytes([0, 255]))
    path.write_bytes(png(2, 1, 8, 3, b"\x00\x00\x01", *chunks))
    opened = read_image(path)
    assert [pixel(opened, 0, 0), pixel(opened, 1, 0)] == [(255, 255, 255), (0, 0, 200)]


@pytest.mark.parametrize(
    ("colour_type", "depth", "rows", "key", "last"),
    [
        (0, 8, b"\x00\x07\x64", b"\x00\x07", 100),
        (0, 16, b"\x00" + struct.pack(">2H", 1799, 25700), struct.pack(">H", 1799), 100),
        (2, 8, b"\x00\x01\x02\x03\x64\x64\x64", b"\x00\x01\x00\x02\x00\x03", 100),
    ],
)
def test_a_transparent_colour_is_white(
    tmp_path: Path, colour_type: int, depth: int, rows: bytes, key: bytes, last: int
) -> None:
    path = tmp_path / "key.png"
    path.write_bytes(png(2, 1, depth, colour_type, rows, (b"tRNS", key)))
    opened = read_image(path)
    assert [pixel(opened, 0, 0), pixel(opened, 1, 0)] == [(255,) * 3, (last,) * 3]


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(tmp_path: Path, format: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour_type) for colour_type in ("red", "lime", "blue")]
    path = tmp_path / "animation"
    frames[0].save(path, format, save_all=True, append_images=frames[1:])
    assert np.allclose(pixel(read_image(path), 10, 10), (255, 0, 0), atol=3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    via = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
    image = gradient().convert(via).convert(mode) if via else gradient().convert(mode)
    converted = to_oriented_rgb(image)
    assert converted.mode == "RGB"
    if mode in ("RGBA", "RGBa", "RGBX"):
        assert np.array_equal(np.asarray(converted), np.asarray(gradient()))


# Orientation


def apply_orientation(stored: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """Orients a stored image (H, W, 3) by the definition of TIFF 6.0."""
    transposed = stored.swapaxes(0, 1)
    return {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: transposed,
        6: transposed[:, ::-1],
        7: transposed[::-1, ::-1],
        8: transposed[::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("encoding", ["png", "webp", "tiff", "tiff_lzw", "jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, encoding: str, orientation: int) -> None:
    path = tmp_path / "camera"
    exif = Image.Exif()
    exif[0x010F] = "a camera of some maker"  # the orientation need not be the first entry
    exif[0x0112] = orientation
    exif[0x0131] = "software"
    options: dict[str, dict[str, Any]] = {
        "png": {"format": "PNG"},
        "webp": {"format": "WEBP", "lossless": True},
        "tiff": {"format": "TIFF"},
        "tiff_lzw": {"format": "TIFF", "compression": "tiff_lzw"},
        "jpg": {"format": "JPEG", "quality": 100, "subsampling": 0},
    }
    gradient().save(path, exif=exif, **options[encoding])
    image = read_image(path)
    assert np.allclose(np.asarray(image, int), apply_orientation(np.asarray(gradient(), int), orientation), atol=4)
    with Image.open(path) as opened:
        assert image.size == ImageOps.exif_transpose(opened).size
    assert image_size(path) == image.size
    again = to_oriented_rgb(image)  # an opened image is not rotated twice
    assert np.array_equal(np.asarray(again), np.asarray(image))
    assert np.array_equal(load_pixels(path, PLAIN), resize_image(image, PLAIN))


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_damaged_exif_is_ignored_without_a_warning(noise: bytes) -> None:
    image = gradient(4, 2)
    for head in (b"", b"Exif\x00\x00II*\x00", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08"):
        image.info["exif"] = head + noise
        assert to_oriented_rgb(image).size in ((4, 2), (2, 4))


def test_the_callers_image_is_not_modified() -> None:
    image = gradient()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    assert to_oriented_rgb(image).size == (32, 48)
    assert image.size == (48, 32)
    assert "exif" in image.info


# Unreadable images


def test_missing_files_folders_empty_files_and_texts_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.jpg", "no such file")
    assert_refused(tmp_path, "folder")
    (tmp_path / "empty.jpg").touch()
    assert_refused(tmp_path / "empty.jpg", "empty (0 bytes)")
    for number, content in enumerate((b"a dog runs", b"P", b"P6 or not", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        path = tmp_path / f"text{number}.jpg"
        path.write_bytes(content)
        assert_refused(path)
        with pytest.raises(ImageError):
            image_size(path)


@pytest.mark.parametrize(("brand", "compatible"), [(b"heic", b"mif1"), (b"mif1", b"heic"), (b"msf1", b"hevc")])
def test_heic_without_its_library_is_an_error_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brand: bytes, compatible: bytes
) -> None:
    # Bug: HEIC was reported as "not an image of a known format" or as a damaged AVIF.
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(4) + b"miaf" + compatible)
    assert_refused(tmp_path / "a.heic", "HEIC needs pillow-heif", "pip install 'seesay[heif]'")


def test_heic_is_read_with_its_library(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(gradient()).save(tmp_path / "a.heic", quality=95)
    image = read_image(tmp_path / "a.heic")
    assert image.size == image_size(tmp_path / "a.heic") == (48, 32)
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() < 5
    assert load_pixels(tmp_path / "a.heic", PLAIN).shape == (16, 16, 3)
    assert "HEIF" not in Image.OPEN  # Pillow's global registry is not modified
    with pytest.raises(ImageError, match="not an image of a known format"):
        image_size(tmp_path / "a.heic", formats=("JPEG", "PNG"))
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:-50])
    assert_refused(tmp_path / "cut.heic", "cut.heic")


def test_unusual_names_give_a_one_line_error(tmp_path: Path) -> None:
    for name in ("two\nlines.jpg", "nul\0.jpg", "x" * 5000):
        with pytest.raises(ImageError) as caught:
            read_image(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_postscript_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    gradient().save(path, "EPS")
    assert_refused(path, "not an image of a known format")


@pytest.mark.parametrize(
    "exif", [b"II*\x00\xff\xff\xff\x7f", b"MM\x00*\x00\x00\x00\x08\xff\xff" + bytes(300), b"noise"]
)
def test_a_photo_with_damaged_exif_is_read_without_a_warning(tmp_path: Path, exif: bytes) -> None:
    # Bug: Pillow warned while reading the resolution; with warnings as errors the image was refused.
    path = tmp_path / "photo.jpg"
    gradient().save(path, exif=b"Exif\x00\x00" + exif)
    assert read_image(path).size == image_size(path) == (48, 32)
    assert load_pixels(path, PLAIN).shape == (PLAIN.size, PLAIN.size, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(tmp_path: Path, format: str, fraction: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    complete = encoded(Image.fromarray(noise), format)
    path = tmp_path / "cut.img"
    path.write_bytes(complete[: int(len(complete) * fraction)])
    assert_refused(path)


def test_a_truncated_progressive_jpeg_is_refused_at_any_size(tmp_path: Path) -> None:
    complete = encoded(gradient(640, 480), "JPEG", progressive=True)
    path = tmp_path / "cut.jpg"
    path.write_bytes(complete[: len(complete) // 2])
    assert_refused(path, "truncated")


@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]), st.data())
@settings(max_examples=150, deadline=None)
def test_corrupted_bytes_give_an_image_or_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, format: str, data: st.DataObject
) -> None:
    content = bytearray(encoded(gradient(), format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.img"
    path.write_bytes(bytes(content))
    try:
        image = read_image(path, max_pixels=1_000_000)
    except ImageError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= 1_000_000


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(30_000, 30_000, 8, 2, b""))
    assert_refused(path, "30000 x 30000", "900 megapixels")  # warnings are errors in the tests
    with pytest.raises(ImageError, match="900 megapixels"):
        image_size(path)


def test_no_warning_between_the_two_limits_of_pillow(tmp_path: Path) -> None:
    """Image.open warns above 89 megapixels; an image of 108 from a phone must be accepted."""
    path = tmp_path / "phone.png"
    path.write_bytes(png(12_000, 9_000, 8, 0, b""))
    assert image_size(path) == (12_000, 9_000)
    assert_refused(path, "more than the 10 allowed", max_pixels=10_000_000)
    path.write_bytes(png(13_000, 10_000, 8, 0, b""))
    assert_refused(path, "130 megapixels")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "BMP"])
def test_large_images_of_other_formats_give_no_warning(tmp_path: Path, format: str) -> None:
    content = bytearray(encoded(gradient(), format))
    if format == "GIF":
        content[6:10] = struct.pack("<HH", 10_000, 10_000)
    elif format == "BMP":
        content[18:26] = struct.pack("<ii", 10_000, 10_000)
    elif format == "WEBP":
        content = bytearray(encoded(gradient(), format, lossless=True))
        offset = content.index(b"VP8L") + 9
        content[offset : offset + 4] = struct.pack("<I", 9_999 | 9_999 << 14)
    else:
        for tag, side in ((256, 48), (257, 32)):
            for field_type, code in ((3, "<HHIH"), (4, "<HHII")):
                old = struct.pack(code, tag, field_type, 1, side)
                content = content.replace(old, struct.pack(code, tag, field_type, 1, 10_000))
    path = tmp_path / "large.img"
    path.write_bytes(bytes(content))
    assert_refused(path)


def test_the_limit_applies_to_pixels_not_sides(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    Image.new("L", (5_000, 2)).save(path)
    assert read_image(path, max_pixels=10_000).size == (5_000, 2)
    assert_refused(path, "allowed", max_pixels=9_999)


# Archives


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name, side in (("./a.png", 3), ("deep/b::c.jpg", 40), ("empty.jpg", 0)):
            content = encoded(gradient(side, side), "PNG") if side else b""
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_a_tar_member_is_read(tar: Path) -> None:
    assert read_image(f"{tar}::a.png").size == (3, 3)
    assert read_image(f"{tar}::./a.png").size == (3, 3)
    assert read_image(f"{tar}::deep/b::c.jpg").size == image_size(f"{tar}::deep/b::c.jpg") == (40, 40)


def test_tar_errors(tar: Path, tmp_path: Path) -> None:
    assert_refused(f"{tar}::none.png", "no such member")
    assert_refused(f"{tar}::empty.jpg", "0 bytes")
    with pytest.raises(ImageError, match="no such file"):
        read_image(f"{tmp_path}/none.tar::a.png")
    (tmp_path / "text.tar").write_text("a dog")
    with pytest.raises(ImageError, match="uncompressed tar"):
        read_image(f"{tmp_path}/text.tar::a.png")


def test_a_rewritten_tar_is_indexed_again(tar: Path) -> None:
    assert read_image(f"{tar}::a.png").size == (3, 3)
    with tarfile.open(tar, "w") as archive:
        for name, side in (("first.png", 70), ("a.png", 9)):
            content = encoded(gradient(side, side), "PNG")
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert read_image(f"{tar}::a.png").size == (9, 9)


def test_a_tar_is_indexed_once(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    opened = tarfile.open

    def counting(*args: Any, **options: Any) -> Any:
        calls.append(args)
        time.sleep(0.05)  # long enough for the other threads to request the same archive
        return opened(*args, **options)

    monkeypatch.setattr(tarfile, "open", counting)
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda _: read_image(f"{tar}::a.png").size, range(40)))
    assert sizes == [(3, 3)] * 40
    assert len(calls) == 1


def test_parquet_rows_are_read_from_any_row_group(tmp_path: Path) -> None:
    encodings = [encoded(gradient(side, 2), "PNG") for side in range(1, 8)]
    (tmp_path / "beside.png").write_bytes(encoded(gradient(50, 5), "PNG"))
    structs = [{"bytes": content, "path": None} for content in encodings[:6]]
    table = pa.table(
        {
            "plain": pa.array(encodings),
            "image": [*structs, {"bytes": None, "path": "beside.png"}],
            "words": ["a dog"] * 7,
        }
    )
    path = tmp_path / "table.parquet"
    pq.write_table(table, path, row_group_size=3)
    assert [read_image(f"{path}::plain::{row}").width for row in range(7)] == list(range(1, 8))
    assert [read_image(f"{path}::image::{row}").width for row in range(7)] == [*range(1, 7), 50]
    for reference, words in {
        "plain::7": "only 7 rows",
        "none::0": r"no column none \(columns: plain, image, words\)",
        "words::0": "must contain bytes",
        "plain": "COLUMN::ROW",
        "plain::-1": "COLUMN::ROW",
    }.items():
        with pytest.raises(ImageError, match=words):
            read_image(f"{path}::{reference}")
    (tmp_path / "text.parquet").write_text("a dog")
    with pytest.raises(ImageError, match="as Parquet"):
        read_image(f"{tmp_path}/text.parquet::plain::0")


def test_a_file_whose_name_looks_like_a_member_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "odd.tar::name.png"
    gradient().save(path)
    assert read_image(path).size == (48, 32)


# URLs


@pytest.fixture
def answers() -> list[Any]:
    """The server's first answers: a status, a status with Retry-After, or a dropped connection."""
    return []


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> Iterator[str]:
    pages = {
        "/a.png": encoded(gradient(), "PNG"),
        "/text": b"a dog",
        "/two%20words.png": encoded(gradient(), "PNG"),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = pages.get(self.path)
            answer = answers.pop(0) if answers else 404 if content is None else 200
            if answer == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            status, retry_after = answer if isinstance(answer, tuple) else (answer, None)
            self.send_response(200 if status == "half" else status)
            self.send_header("Content-Length", str(len(content or b"")))
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            body = content or b""
            self.wfile.write(body[: len(body) // 2] if status == "half" else body)

        def log_message(self, *args: object) -> None:
            """Keeps the test's output clean."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_url_is_read(site: str) -> None:
    assert np.array_equal(np.asarray(read_image(f"{site}/a.png")), np.asarray(gradient()))
    assert read_image(f"{site}/two words.png").size == (48, 32)


def test_url_errors(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(f"{site}/none.png", "404", "check the URL")
    assert_refused(f"{site}/text", "not an image")
    monkeypatch.setattr(sources, "MAX_URL_BYTES", 100)
    assert_refused(f"{site}/a.png", "more than 0.0001 MB")


class TestBusyHosts:
    """Requests are retried at a busy server or after a dropped connection; a script lists the answers."""

    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """Requested waiting times in s, which are not waited."""
        waits: list[float] = []
        monkeypatch.setattr("seesay.images.sources.time.sleep", waits.append)
        return waits

    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            ([429], [1]),
            ([503, 429, 502], [1, 2, 4]),
            (["reset"], [1]),
            (["half"], [1]),
            ([(429, "7")], [7]),
            ([(503, "100000")], [60]),
            ([(503, "Wed, 21 Oct 2015 07:28:00 GMT"), (429, "soon")], [1, 2]),
        ],
        ids=str,
    )
    def test_a_request_is_retried(
        self, site: str, script: list[Any], expected: list[float], waits: list[float], answers: list[Any]
    ) -> None:
        # Bug: the first 429 or dropped connection failed; half of an image was reported as damaged.
        answers += script
        assert read_image(f"{site}/a.png").size == (48, 32)
        assert waits == expected

    def test_it_fails_after_four_attempts(self, site: str, waits: list[float], answers: list[Any]) -> None:
        answers += [503] * 9
        message = "the server returned 503 Service Unavailable, attempt 4; run the same command again later"
        with pytest.raises(ImageError, match=message):
            read_image(f"{site}/a.png")
        assert (len(answers), waits) == (5, [1, 2, 4])

    def test_it_does_not_wait_beyond_the_deadline(
        self, site: str, waits: list[float], answers: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "URL_DEADLINE", 50.0)
        answers += [(429, "55")] * 2
        assert_refused(f"{site}/a.png", "429 Too Many Requests, attempt 1; run the same command again later")
        assert waits == []

    def test_permanent_errors_are_not_retried(self, site: str, waits: list[float], answers: list[Any]) -> None:
        for status in (403, 404, 410, 501):
            answers += [status] * 2
            assert_refused(f"{site}/a.png", f"returned {status}", "check the URL")
        assert_refused(f"{site.rpartition(':')[0]}:1/a.png", "cannot be downloaded")
        assert waits == []


def test_a_slow_response_fails_at_the_deadline(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "URL_DEADLINE", -1.0)
    assert_refused(f"{site}/a.png", "not received within")


def test_an_unreachable_url_is_an_image_error(site: str) -> None:
    host = site.rpartition(":")[0]
    assert_refused(f"{host}:1/a.png", "cannot be downloaded")
    assert_refused("http://127.0.0.1:port/a.png", "cannot be downloaded")
    assert_refused("http://[::1/a.png", "cannot be downloaded")


# Preprocessing

preprocessings = st.builds(
    Preprocessing,
    size=st.integers(1, 40),
    resize=st.sampled_from(["squash", "crop"]),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.05, 1)] * 3),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)


@given(preprocessings)
def test_preprocessing_survives_json(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": "wide"}, "wide"),
        ({"resize": "stretch"}, "resize"),
        ({"mean": [0.5]}, "mean"),
        ({"std": [0.5, 0.0, 0.5]}, "std"),
        ({"std": None}, "invalid preprocessing"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"width": 3}, "width"),
    ],
)
def test_invalid_preprocessing_is_a_config_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_dict({**PLAIN.to_dict(), **change})


@given(preprocessings, st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None)
def test_any_image_is_resized_to_the_square_deterministically(
    preprocessing: Preprocessing, width: int, height: int
) -> None:
    first = resize_image(gradient(width, height), preprocessing)
    assert first.shape == (preprocessing.size, preprocessing.size, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, resize_image(gradient(width, height), preprocessing))


def test_squash_keeps_the_corners_and_crop_the_centre() -> None:
    image = Image.new("RGB", (90, 30), "blue")
    image.paste((255, 0, 0), (30, 0, 60, 30))
    sizes: tuple[Literal["squash", "crop"], ...] = ("squash", "crop")
    squashed, cropped = (resize_image(image, Preprocessing(30, resize, (0.5,) * 3, (0.5,) * 3)) for resize in sizes)
    assert squashed[0, 0].tolist() == squashed[-1, -1].tolist() == [0, 0, 255]
    assert squashed[15, 15].tolist() == [255, 0, 0]
    assert (cropped == [255, 0, 0]).all()


@pytest.mark.parametrize("size", [(120, 80), (80, 120), (80, 80)])
def test_crop_is_shortest_side_to_size_then_centre(size: tuple[int, int]) -> None:
    rule = Preprocessing(20, "crop", (0.5,) * 3, (0.5,) * 3)
    image = gradient(*size)
    small = image.resize((size[0] // 4, size[1] // 4), Image.Resampling.BILINEAR)
    left, top = (small.width - 20) // 2, (small.height - 20) // 2
    expected = np.asarray(small.crop((left, top, left + 20, top + 20)), int)
    assert np.abs(resize_image(image, rule).astype(int) - expected).max() <= 1


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = resize_image(Image.fromarray(stripes), PLAIN)
    assert np.abs(shrunk[:, 1:-1].astype(int) - 127).max() <= 2


def test_a_large_jpeg_is_reduced_while_decoding_with_similar_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jpg"
    generator = np.random.default_rng(0)
    rough = Image.fromarray(generator.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    rough.resize((600, 400), Image.Resampling.BICUBIC).save(path, quality=95)
    full = resize_image(read_image(path), PLAIN).astype(int)
    decoded: list[tuple[int, int]] = []

    def spy(image: Image.Image, preprocessing: Preprocessing) -> Any:
        decoded.append(image.size)
        return resize_image(image, preprocessing)

    monkeypatch.setattr(images, "resize_image", spy)
    fast = load_pixels(path, PLAIN).astype(int)
    assert decoded == [(75, 50)]  # an eighth, still more than twice the target size
    assert np.abs(fast - full).max() <= 4
    decoded.clear()
    exact = Preprocessing(128, "squash", (0.5,) * 3, (0.5,) * 3)
    assert np.array_equal(load_pixels(path, exact), resize_image(read_image(path), exact))
    assert decoded == [(600, 400)]


@given(preprocessings)
@settings(deadline=None, max_examples=30)
def test_normalise_equals_its_formula(preprocessing: Preprocessing) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels.copy())
    output = normalise(tensor, preprocessing)
    expected = (pixels.astype(np.float64) / 255 - preprocessing.mean) / preprocessing.std
    assert output.dtype == torch.float32
    assert output.is_contiguous()
    assert np.allclose(output.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert np.array_equal(tensor.numpy(), pixels)


def test_threads_read_the_same_pixels_as_one(tmp_path: Path) -> None:
    paths = []
    for number in range(12):
        path = tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}"
        gradient(200 + number, 150).save(path)
        paths.append(path)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(30_000, 30_000, 8, 2, b""))
    expected = [load_pixels(path, PLAIN) for path in paths]
    filters = list(warnings.filters)

    def work(number: int) -> bool:
        with pytest.raises(ImageError):
            read_image(bomb)
        return np.array_equal(load_pixels(paths[number % 12], PLAIN), expected[number % 12])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(96)))
    assert list(warnings.filters) == filters
