"""Opens a picture safely, and holds the one preprocessing that training, captioning and serving share.

A source is a path, an http(s) address, or a member of an archive: `photos.tar::name.jpg` or
`table.parquet::COLUMN::ROW`, where the column holds bytes or a {bytes, path} struct. Whatever the file turns
out to be, the caller gets an upright 8-bit RGB picture or an `ImageError` of one line. A picture's size is
read from its header and checked before anything is decoded. All functions may be called from several threads.

Limits: `MAX_PIXELS` of a picture, `URL_TIMEOUT`, `URL_DEADLINE` and `MAX_URL_BYTES` of a download.
"""

import functools
import http.client
import io
import re
import struct
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from seesay.errors import ConfigError, ImageError

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 120_000_000  # lets the 108-megapixel pictures of telephones through; 360 MB decoded
URL_TIMEOUT = 20.0  # seconds without a byte
URL_DEADLINE = 120.0  # seconds for a whole picture
MAX_URL_BYTES = 100_000_000
CACHED_ARCHIVES = 64  # tar indices kept in a process
CACHED_ROW_GROUPS = 4  # Parquet row groups kept in a process; one may hold 100 MB of pictures

# Formats that start with a signature and are decoded by libraries made for untrusted bytes. EPS, for one,
# would start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")

# EXIF orientation -> what turns the stored picture upright (1, the ordinary one, needs nothing).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_MEMBER = re.compile(r"(.+?\.(tar|parquet))::(.+)", re.IGNORECASE | re.DOTALL)
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Two threads that meet a new archive must not both walk through it.
_archive_lock = threading.Lock()


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the encoder's input; kept with every feature store and run.

    Attributes:
        size: side of the square the encoder sees, in pixels.
        resize: squash the whole frame to the square, or crop its centre.
        mean: means of the red, green and blue channel, on a scale of 0..1.
        std: deviations of the channels, on the same scale.
        interpolation: filter of the resize; it is widened when shrinking, so nothing is aliased.

    Raises:
        ConfigError: a value that cannot work.
    """

    size: int
    resize: Literal["squash", "crop"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        checks = (
            (self.size >= 1, "size", self.size, "at least 1"),
            (self.resize in ("squash", "crop"), "resize", self.resize, "squash or crop"),
            (len(self.mean) == 3, "mean", self.mean, "three numbers"),
            (len(self.std) == 3 and min(self.std) > 0, "std", self.std, "three numbers above 0"),
            (self.interpolation in _RESAMPLING, "interpolation", self.interpolation, "bilinear or bicubic"),
        )
        for holds, name, value, rule in checks:
            if not holds:
                raise ConfigError(f"preprocessing.{name} is {value}; it must be {rule}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values, fit for JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Returns what `to_dict` was made from.

        Raises:
            ConfigError: a field that is missing, unknown or cannot work.
        """
        known = {field.name for field in fields(cls)}
        if wrong := sorted(values.keys() ^ known):
            raise ConfigError(f"preprocessing has missing or unknown fields: {', '.join(wrong)}")
        try:
            numbers = {name: tuple(float(x) for x in values[name]) for name in ("mean", "std")}
            return cls(**{**values, "size": int(values["size"]), **numbers})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"preprocessing cannot be read: {error}") from error

    def describe(self) -> str:
        """Returns the rule in words, for messages and reports."""
        mean, std = (" ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
        return f"{self.resize} to {self.size} x {self.size}, {self.interpolation}, mean {mean}, std {std}"


def read_image(source: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns a picture as upright 8-bit RGB; of an animation the first frame, transparency over white.

    Args:
        source: a path, an http(s) address or an archive member (see the module).
        max_pixels: width x height above which a picture is refused before it is decoded.

    Raises:
        ImageError: missing, not a picture, damaged, cut short or too large.
    """
    image = _read(source, max_pixels)
    # The copy of a file's picture is a plain one, without the handle of a file that is closed by now.
    return image.copy() if isinstance(image, ImageFile.ImageFile) else image


def load_pixels(
    source: str | Path, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Returns `resize_image(read_image(source))`, decoding large JPEGs at a fraction of their size.

    The fraction (1/2, 1/4 or 1/8) leaves every side at least twice as long as the square, so that the resize
    after it still decides what is seen: on photographs 99 % of the values differ from the full way by at
    most three levels of 255. Pictures less than four times the square are the same to the bit.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ImageError: as `read_image`.
    """
    return resize_image(_read(source, max_pixels, least_side=2 * preprocessing.size), preprocessing)


def image_size(source: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns (width, height) of the upright picture from its header alone, without decoding it.

    A file that is cut short after its header goes unnoticed here; `read_image` finds it.

    Raises:
        ImageError: missing, not a picture, a damaged header, or too large.
    """
    with _open_source(source) as stream:
        image = _open_header(stream, source, max_pixels)
        width, height = image.size
        # Pillow gives a TIFF's size turned already.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return (height, width) if turned else (width, height)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Returns an opened picture of any mode as 8-bit RGB, turned upright, transparency over white.

    A picture that is so already is returned as it is. The result is never turned a second time.
    """
    image.load()
    orientation = _orientation(image)
    image = _to_rgb(image)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
        image.info.pop("exif", None)
    return image


def resize_image(image: Image.Image, preprocessing: Preprocessing) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Returns the picture as the encoder's square: uint8 (size, size, 3), red first.

    `squash` maps the whole frame to the square; `crop` brings the shortest side to `size` and keeps the
    centre. Another mode than RGB is converted first, and an EXIF orientation applied.
    """
    image = upright_rgb(image)
    box: tuple[float, float, float, float] = (0.0, 0.0, float(image.width), float(image.height))
    if preprocessing.resize == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    square = (preprocessing.size, preprocessing.size)
    return np.array(image.resize(square, _RESAMPLING[preprocessing.interpolation], box=box))


def normalise(pixels: "torch.Tensor", preprocessing: Preprocessing) -> "torch.Tensor":
    """Returns the encoder's input: (pixels / 255 - mean) / std, channels first.

    Args:
        pixels: uint8 (B, height, width, 3), on any device.
        preprocessing: gives mean and std.

    Returns:
        float32 (B, 3, height, width), contiguous, on the same device.
    """
    import torch

    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(3, 1, 1)
    images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    # In place, and the division folded into the factor: two passes over a large tensor instead of three.
    return images.mul_(1 / (255 * std)).sub_(mean / std)


def _error(source: str | Path, problem: str) -> ImageError:
    """Returns the error of one line, whatever stands in the name."""
    return ImageError(" ".join(f"{source}: {problem}".splitlines()))


def _read(source: str | Path, max_pixels: int, least_side: int = 0) -> Image.Image:
    """Returns an upright RGB picture; with `least_side` a JPEG may shrink to no less than that a side."""
    with _open_source(source) as stream:
        image = _open_header(stream, source, max_pixels)
        try:
            if least_side:
                image.draft(None, (least_side, least_side))
            return upright_rgb(image)
        except Exception as error:  # on damaged bytes Pillow raises nearly anything, SyntaxError included
            raise _error(
                source, f"damaged or cut short ({error}); replace it with a whole copy or remove it"
            ) from error


def _open_header(stream: IO[bytes], source: str | Path, max_pixels: int) -> ImageFile.ImageFile:
    """Returns the picture with its header read and its size checked, not yet decoded.

    Pillow's registry is used without `Image.open`, which warns of large pictures through the process-wide
    warning filters; those cannot be held off safely with several threads.
    """
    Image.init()
    prefix = stream.read(16)
    if not prefix:
        raise _error(source, "the file is empty (0 bytes); replace it with a whole copy or remove it")
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        # `accept` answers with a text where this Pillow was built without the format.
        if factory is None or accept is None or accept(prefix.ljust(16, b"\0")) is not True:
            continue
        # Pillow's JPEG factory warns of broken multi-picture files, whose first picture is all we want.
        opener = JpegImagePlugin.JpegImageFile if name == "JPEG" else factory
        stream.seek(0)
        try:
            image = opener(stream, "")
        except Image.DecompressionBombError as error:
            raise _error(source, f"too large ({error}); make it smaller") from error
        except Exception as error:  # see _read
            raise _error(source, f"damaged {name} header ({error}); replace it or remove it") from error
        _check_size(image, source, max_pixels)
        return image
    raise _error(source, f"not a picture of a known format ({', '.join(FORMATS)}); convert it or remove it")


def _check_size(image: ImageFile.ImageFile, source: str | Path, max_pixels: int) -> None:
    """Raises ImageError where a picture has more pixels than allowed."""
    if image.format not in ("JPEG", "PNG"):
        # Some of the other decoders check Pillow's own limit as they decode, and would warn.
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        raise _error(
            source,
            f"{width} x {height} is {width * height / 1e6:.0f} megapixels, more than the "
            f"{max_pixels / 1e6:.0f} allowed; make it smaller",
        )


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1..8; 1 where there is none or it cannot be read.

    Read by hand (TIFF 6.0, section 2): Pillow parses every tag, and warns of each that is broken.
    """
    tiff_tags = getattr(image, "tag_v2", None)
    if tiff_tags is not None:
        value = tiff_tags.get(_ORIENTATION_TAG, 1)
        return value if value in _TURNS else 1
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return 1
    exif = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == _ORIENTATION_TAG:
                return value if value in _TURNS else 1
    except struct.error:
        return 1
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns a picture of any mode as RGB, composited on white where it is transparent."""
    if image.mode[0] in "IF":
        image = _grey_from_wide(image)
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_from_wide(image: Image.Image) -> Image.Image:
    """Returns a grey picture of 16 or 32 bits a pixel as 8 bits, scaled and not clipped as Pillow would."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    # Integers are 16 bits wide, also where Pillow keeps them in 32. Numbers with a point have no fixed range.
    ceilings = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    fitting = [ceiling for ceiling in ceilings if low >= 0 and high <= ceiling]
    low, high = (0.0, fitting[0]) if fitting else (low, high)
    grey = Image.fromarray(np.rint((values - low) * (255 / (high - low or 1))).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        grey = Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey


def _open_source(source: str | Path) -> IO[bytes]:
    """Returns the bytes of a source as a stream that can seek."""
    name = str(source)
    if name.lower().startswith(("http://", "https://")):
        return io.BytesIO(_fetch(name))
    member = _MEMBER.fullmatch(name)
    if member and not Path(name).exists():
        archive = _existing_file(member[1])
        reader = _read_tar if member[2].lower() == "tar" else _read_parquet
        return io.BytesIO(reader(archive, member[3], name))
    path = _existing_file(name)
    try:
        return path.open("rb")
    except OSError as error:
        raise _error(source, f"cannot be opened ({error.strerror}); check its permissions") from error


def _existing_file(name: str) -> Path:
    """Returns the path of an ordinary file, or says what is there instead."""
    path = Path(name)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise _error(name, "is a folder, not a picture; name a file in it")
        found = path.exists()
    except OSError as error:
        raise _error(name[:200], f"cannot be opened ({error.strerror}); check the path") from error
    raise _error(name, "is not an ordinary file" if found else "no such file; check the path")


def _fetch(url: str) -> bytes:
    """Returns what an http(s) address holds, within the limits of the module."""
    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    deadline = time.monotonic() + URL_DEADLINE
    content = bytearray()
    try:
        request = urllib.request.Request(quoted, headers={"User-Agent": "seesay"})
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as reply:
            # One receive at a time: `read` would wait for all bytes, and a trickle never meets the timeout.
            while chunk := reply.read1(1 << 16):
                content += chunk
                if len(content) > MAX_URL_BYTES:
                    raise _error(url, f"more than {MAX_URL_BYTES / 1e6:g} MB; fetch it by hand")
                if time.monotonic() > deadline:
                    raise _error(url, f"not received within {URL_DEADLINE:g} s; try again or fetch it by hand")
    except urllib.error.HTTPError as error:
        error.close()
        raise _error(url, f"the server answered {error.code} {error.reason}; check the address") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _error(url, f"cannot be fetched ({reason}); check the address and the network") from error
    return bytes(content)


def _read_tar(archive: Path, member: str, source: str) -> bytes:
    """Returns the bytes of a member of an uncompressed tar."""
    status = archive.stat()
    with _archive_lock:
        members = _tar_members(str(archive), status.st_mtime_ns, status.st_size)
    place = members.get(member.removeprefix("./"))
    if place is None:
        raise _error(source, f"the archive has no such member among its {len(members)}; check the name")
    offset, size = place
    # A handle of its own for each read: nothing is shared between threads or with forked workers.
    with archive.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


@functools.lru_cache(maxsize=CACHED_ARCHIVES)
def _tar_members(archive: str, modified: int, size: int) -> dict[str, tuple[int, int]]:
    """Returns name -> (offset, bytes) of a tar's files; time and size are there so that a change is seen."""
    try:
        with tarfile.open(archive, "r:") as tar:
            return {
                member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar if member.isreg()
            }
    except (OSError, tarfile.TarError) as error:
        raise _error(archive, f"cannot be read as an uncompressed tar ({error}); unpack it") from error


def _read_parquet(archive: Path, reference: str, source: str) -> bytes:
    """Returns the bytes at COLUMN::ROW of a Parquet table."""
    column, separator, digits = reference.rpartition("::")
    if not separator or not digits.isdecimal():
        raise _error(source, "a picture in a table is written table.parquet::COLUMN::ROW")
    status = archive.stat()
    with _archive_lock:
        starts, columns = _parquet_layout(str(archive), status.st_mtime_ns, status.st_size)
        row = int(digits)
        if column not in columns:
            raise _error(source, f"the table has no column {column}, only {', '.join(columns)}")
        if row >= starts[-1]:
            raise _error(source, f"the table has only {starts[-1]} rows, counted from 0")
        group = int(np.searchsorted(starts, row, side="right")) - 1
        cells = _parquet_column(str(archive), status.st_mtime_ns, status.st_size, group, column)
    value = cells[row - starts[group]].as_py()
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
        if value is None and path:
            value = _existing_file(str(archive.parent / path)).read_bytes()
    if not isinstance(value, bytes):
        raise _error(source, "holds no picture; the column must hold bytes or {bytes, path}")
    return value


@functools.lru_cache(maxsize=CACHED_ARCHIVES)
def _parquet_layout(archive: str, modified: int, size: int) -> tuple[list[int], list[str]]:
    """Returns the first row of every row group, with the number of rows at the end, and the columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(archive) as table:
            groups = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
            return [0, *np.cumsum(groups).tolist()], list(table.schema_arrow.names)
    except (OSError, pa.ArrowException) as error:
        raise _error(archive, f"cannot be read as Parquet ({error})") from error


@functools.lru_cache(maxsize=CACHED_ROW_GROUPS)
def _parquet_column(archive: str, modified: int, size: int, group: int, column: str) -> Any:
    """Returns a column of a row group as an Arrow array: rows are only to be had by the group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(archive) as table:
            return table.read_row_group(group, columns=[column]).column(column)
    except (OSError, pa.ArrowException) as error:
        raise _error(archive, f"cannot be read as Parquet ({error})") from error
