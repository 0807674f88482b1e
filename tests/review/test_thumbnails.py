"""Thumbnails: upright, bounded in size, cached within a bound of bytes."""

import io
from pathlib import Path

import pytest
from PIL import Image

from seesay.errors import ImageError
from seesay.images.loading import read_image, read_thumbnail
from seesay.review import thumbnails
from seesay.review.thumbnails import Thumbnails
from tests import tiny


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(("size", "expected"), [((900, 300), (320, 107)), ((50, 40), (50, 40)), ((2000, 3), (320, 1))])
def test_sizes(tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    tiny.image(0, *size).save(tmp_path / "a.png")
    assert opened(Thumbnails().get(str(tmp_path / "a.png"), 320)).size == expected


def test_a_rotated_jpeg_is_upright_and_close_to_full_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    tiny.image(1, 1600, 1000).save(path, quality=95, exif=exif)
    reduced = read_thumbnail(str(path), 200)
    full = read_image(str(path))
    assert (full.size, reduced.size) == ((1000, 1600), (125, 200))
    expected = full.resize(reduced.size, Image.Resampling.BICUBIC)
    pairs = zip(reduced.tobytes(), expected.tobytes(), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 6
    assert opened(Thumbnails().get(str(path), 200)).size == (125, 200)


def test_the_cache_is_bounded_and_notices_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def record(source: str, side: int) -> Image.Image:
        calls.append(source)
        return read_thumbnail(source, side)

    monkeypatch.setattr(thumbnails, "read_thumbnail", record)
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for number, path in enumerate(paths):
        tiny.image(number).save(path)
    size = len(Thumbnails().get(paths[0], 320))
    cache = Thumbnails(max_bytes=3 * size)
    calls.clear()
    for path in (*paths[:2], *paths[:2]):
        cache.get(path, 320)
    assert calls == paths[:2]
    for path in paths:
        cache.get(path, 320)
    assert cache.cached_bytes <= 3 * size
    calls.clear()
    cache.get(paths[0], 320)  # the oldest was dropped
    first = cache.get(paths[3], 320)
    assert calls == paths[:1]
    tiny.image(9, 30, 30).save(paths[3])
    assert cache.get(paths[3], 320) != first


def test_unreadable_images_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    for name in ("a.png", "missing.png", "zero\0.png"):
        with pytest.raises((ImageError, ValueError)):
            Thumbnails().get(str(tmp_path / name), 320)
