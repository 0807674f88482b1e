"""Hostile uploads, generated from a seed: damaged, disguised and excessive files."""

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from tests.serving.servers import encoded

_SVG = (
    b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="file:///etc/passwd"/>&b;</svg>'
)
_HTML = b"<html><script>alert(document.domain)</script></html>"
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"GIF89a",
    b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"BM",
    b"\x00\x00\x00\x1cftypavif",
    b"II*\x00",
    b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n",
    b"%PDF-1.7\n",
    b"PK\x03\x04",
    b"MZ",
    b"P6 99999999 99999999 255\n",
)


@dataclass(frozen=True)
class Upload:
    """One file.

    Attributes:
        kind: how it was made.
        name: file name sent by the client.
        content: bytes of the file.
        good: whether it is a valid image, which must get a caption; None = it may be either.
    """

    kind: str
    name: str
    content: bytes
    good: bool | None = False


def uploads(seed: int, count: int, largest: int = 2_000_000) -> Iterator[Upload]:
    """Yields uploads, all kinds in turn.

    Args:
        seed: the same seed gives the same bytes.
        count: number of uploads.
        largest: size of the large ones, in bytes.
    """
    random_ = random.Random(seed)

    def large(random_: random.Random) -> Upload:
        return Upload("large", "large.png", random_.randbytes(1000) * (largest // 1000))

    makers = [*_MAKERS, large]
    for number in range(count):
        made = makers[number % len(makers)](random_)
        yield Upload(made.kind, made.name if number % 5 else random_.choice(_NAMES), made.content, made.good)


_NAMES = (
    "../../etc/passwd",
    "C:\\windows\\system32\\a.png",
    "a" * 1000 + ".png",
    "",
    ".",
    "a\x00b.png",
    "\u202egnp.exe",
    "<script>alert(1)</script>.png",
    "bild mit \u00fcml\u00e4uten \u732b.png",
    'quote".png',
    "%00%0a%0d.png",
    "line\u2028break.png",
)


def _photo(random_: random.Random) -> tuple[str, bytes]:
    format = random_.choice(("JPEG", "PNG", "GIF", "WEBP", "BMP"))
    size = {"width": random_.randint(1, 200), "height": random_.randint(1, 200)}
    return format, encoded(random_.randrange(1 << 16), format, **size)


def _truncated(random_: random.Random) -> Upload:
    format, content = _photo(random_)
    return Upload("truncated", f"a.{format}", content[: random_.randrange(1, len(content))], None)


def _flipped(random_: random.Random) -> Upload:
    format, content = _photo(random_)
    damaged = bytearray(content)
    for _ in range(random_.randint(1, 40)):
        damaged[random_.randrange(len(damaged))] = random_.randrange(256)
    return Upload("flipped bytes", f"a.{format}", bytes(damaged), None)


def _noise(random_: random.Random) -> Upload:
    return Upload("random bytes", "a.bin", random_.randbytes(random_.randint(1, 20_000)), None)


def _headed_noise(random_: random.Random) -> Upload:
    head = random_.choice(_SIGNATURES)
    return Upload("a signature and random bytes", "a.jpg", head + random_.randbytes(random_.randint(0, 5_000)), None)


def _bomb(random_: random.Random) -> Upload:
    side = random_.choice((20_000, 65_535, 1_000_000, 2**31 - 1))
    kind = random_.choice(("png", "png of zeros", "gif", "bmp"))
    if kind == "gif":
        side = min(side, 65_535)
        return Upload("bomb", "a.gif", b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b";")
    if kind == "bmp":
        head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        return Upload("bomb", "a.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head)
    data = zlib.compress(bytes(1 << 20), 9) if kind == "png of zeros" else b""
    return Upload("bomb", "a.png", png(side, side, data))


def png(width: int, height: int, data: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG with a declared size and arbitrary data."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    others = b"".join(chunk(name, content) for name, content in extra)
    return b"\x89PNG\r\n\x1a\n" + head + others + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@functools.cache
def _compressed_zeros() -> bytes:
    return zlib.compress(bytes(20_000_000), 9)


def _text_bomb(random_: random.Random) -> Upload:
    """A small PNG with compressed text or a colour profile that expands to a hundred times its size."""
    rows = zlib.compress(b"".join(b"\x00" + bytes(3 * 8) for _ in range(8)))
    zeros = _compressed_zeros()
    name = random_.choice((b"zTXt", b"iCCP", b"iTXt"))
    inside = b"k\x00\x01\x00\x00\x00" + zeros if name == b"iTXt" else b"k\x00\x00" + zeros
    return Upload("text bomb", "a.png", png(8, 8, rows, (name, inside)), None)


def _frames(random_: random.Random) -> Upload:
    """An animation of many frames, of which only the first is captioned."""
    frames = [Image.new("P", (64, 64), random_.randrange(256)) for _ in range(random_.randint(2, 60))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return Upload("animation", "a.gif", buffer.getvalue(), True)


def _polyglot(random_: random.Random) -> Upload:
    """An image followed by another file format."""
    _, content = _photo(random_)
    tail = random_.choice((_HTML, _SVG, b"PK\x05\x06" + bytes(18), b"<?php system($_GET[0]); ?>", bytes(100_000)))
    return Upload("polyglot", "a.html", content + tail, True)


def _reversed_polyglot(random_: random.Random) -> Upload:
    _, content = _photo(random_)
    return Upload("reversed polyglot", "a.png", random_.choice((_HTML, _SVG, b"PK\x03\x04", b"MZ")) + content)


def _markup(random_: random.Random) -> Upload:
    return Upload("markup", "a.svg", random_.choice((_SVG, _HTML, b"#define a_width 9\nstatic char a[] = {0};")))


def _exif(random_: random.Random) -> Upload:
    """A valid JPEG with invalid EXIF."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: b"Exif\x00\x00" + random_.randbytes(random_.randint(0, 200)),
        lambda: b"Exif\x00\x00II*\x00" + struct.pack("<I", 2**31 - 1),
        lambda: b"Exif\x00\x00MM\x00*" + struct.pack(">IH", 8, 65_535) + random_.randbytes(300),
        lambda: b"Exif\x00\x00II*\x00" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, random_.randrange(1 << 32)),
        lambda: b"Exif\x00\x00II*\x00" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 8),  # refers to itself
    )
    content = encoded(random_.randrange(1 << 16), "JPEG", exif=random_.choice(kinds)())
    return Upload("odd EXIF", "a.jpg", content, True)


def _empty(random_: random.Random) -> Upload:
    return Upload("empty", "a.png", b"")


def _tiny(random_: random.Random) -> Upload:
    return Upload("few bytes", "a.png", random_.choice(_SIGNATURES)[: random_.randint(1, 16)], False)


def _good(random_: random.Random) -> Upload:
    return Upload("good", "a.png", _photo(random_)[1], True)


_MAKERS: list[Callable[[random.Random], Upload]] = [
    _truncated, _flipped, _noise, _headed_noise, _bomb, _text_bomb, _frames, _polyglot, _reversed_polyglot, _markup,
    _exif, _empty, _tiny, _good,
]  # fmt: skip
