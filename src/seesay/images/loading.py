"""Safe loading of images, and the preprocessing shared by training, captioning and serving.

Sources are those of `seesay.images.sources`; an `ImageInput` may also be an opened image or an array. Loading returns
an 8-bit RGB image with its EXIF orientation applied, or raises an `ImageError` of one line. The size is read from the
header and checked against `MAX_PIXELS` before decoding. All functions are thread-safe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin

from seesay.errors import ConfigError, ImageError, MissingDependencyError
from seesay.images.orientation import exif_orientation, to_oriented_rgb
from seesay.images.sources import Source, open_source, source_error

if TYPE_CHECKING:
    import torch

__all__ = [
    "FORMATS",
    "FORMAT_SUFFIXES",
    "MAX_PIXELS",
    "ImageInput",
    "Preprocessing",
    "image_size",
    "load_pixels",
    "normalise",
    "read_image",
    "read_thumbnail",
    "resize_image",
    "to_oriented_rgb",
]

MAX_PIXELS = 120_000_000  # allows 108-megapixel phone photos; 360 MB decoded

# Formats with a signature and a decoder for untrusted data (EPS would start Ghostscript), with their suffixes. The
# suffixes do not depend on installed packages, because sidecar names depend on them.
FORMAT_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
FORMATS = tuple(FORMAT_SUFFIXES)
_HEVC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))

ImageInput = Source | Image.Image | NDArray[Any]
"""Input of captioning: a path, an http(s) URL, the content of a file, an opened image, or a uint8 array.

Arrays are RGB (height, width, 3), grey (height, width) or (height, width, 1), or RGBA (height, width, 4), composited on
white.
"""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images for an encoder; saved with every feature store and run.

    Attributes:
        size: side of the square input in pixels.
        resize: squash the full image to the square, or crop its centre.
        mean: channel means (RGB), in 0..1.
        std: channel standard deviations (RGB), in 0..1.
        interpolation: resize filter, with antialiasing.

    Raises:
        ConfigError: an invalid value.
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
        for valid, name, value, requirement in checks:
            if not valid:
                raise ConfigError(f"preprocessing.{name} is {value}; it must be {requirement}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-serialisable values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Return the preprocessing of `to_dict`.

        Raises:
            ConfigError: a missing, unknown or invalid field.
        """
        known = {field.name for field in fields(cls)}
        if wrong := sorted(values.keys() ^ known):
            raise ConfigError(f"preprocessing has missing or unknown fields: {', '.join(wrong)}")
        try:
            numbers = {name: tuple(float(x) for x in values[name]) for name in ("mean", "std")}
            return cls(**{**values, "size": int(values["size"]), **numbers})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"invalid preprocessing: {error}") from error


def read_image(source: ImageInput, max_pixels: int = MAX_PIXELS, min_side: int = 0) -> Image.Image:
    """Return an image as 8-bit RGB with EXIF orientation applied: the first frame, transparency on white.

    Args:
        source: a path, URL, archive member or bytes (see `seesay.images.sources`), an opened image or an array.
        max_pixels: maximum width x height, checked before decoding.
        min_side: above 0: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, if both sides stay at least this long.

    Raises:
        ImageError: missing, not an image, damaged, truncated or too large.
    """
    image = _read(source, max_pixels, min_side)
    # The copy has no reference to the closed file.
    return image.copy() if isinstance(image, ImageFile.ImageFile) else image


def load_pixels(
    source: ImageInput, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return `resize_image(read_image(source))`, but decodes large JPEGs at reduced size.

    The reduction (1/2, 1/4 or 1/8) keeps every side at least twice as long as the square: for photographs 99 % of the
    values differ from full decoding by at most three levels of 255. Images below four times the square are
    bit-identical.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ImageError: as `read_image`.
    """
    return resize_image(_read(source, max_pixels, min_side=2 * preprocessing.size), preprocessing)


def read_thumbnail(source: Source, side: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return an image as `read_image`, reduced to at most `side` pixels per side.

    Large JPEGs are decoded at reduced size.

    Raises:
        ImageError: as `read_image`.
    """
    image = _read(source, max_pixels, min_side=side)
    scale = side / max(image.size)
    if scale >= 1:
        return image.copy()
    width, height = (max(1, round(scale * length)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def image_size(source: Source, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """Return (width, height) after EXIF rotation from the header, without decoding the image.

    Truncation after the header is not detected here but by `read_image`.

    Args:
        source: see `read_image`.
        max_pixels: maximum width x height.
        formats: accepted formats, a subset of `FORMATS`.

    Raises:
        ImageError: missing, not an image, a damaged header, or too large.
    """
    with open_source(source) as stream:
        image = _open_header(stream, source, max_pixels, formats)
        width, height = image.size
        # Pillow returns the size of a TIFF after rotation.
        rotated = image.format != "TIFF" and exif_orientation(image) >= 5
        return (height, width) if rotated else (width, height)


def resize_image(image: Image.Image, preprocessing: Preprocessing) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the resized image: uint8 RGB (size, size, 3).

    `squash` resizes the full image to the square; `crop` resizes the shorter side to `size` and keeps the centre. Other
    modes than RGB are converted, and the EXIF orientation is applied first.
    """
    image = to_oriented_rgb(image)
    box: tuple[float, float, float, float] = (0.0, 0.0, float(image.width), float(image.height))
    if preprocessing.resize == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    square = (preprocessing.size, preprocessing.size)
    return np.array(image.resize(square, _RESAMPLING[preprocessing.interpolation], box=box))


def normalise(pixels: "torch.Tensor", preprocessing: Preprocessing) -> "torch.Tensor":
    """Return the encoder's input: (pixels / 255 - mean) / std, channels first.

    Args:
        pixels: uint8 (B, height, width, 3), on any device.
        preprocessing: mean and std.

    Returns:
        float32 (B, 3, height, width), contiguous, on the same device.
    """
    import torch

    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(3, 1, 1)
    images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    # In place with the division folded into the factor: two passes over a large tensor instead of three.
    return images.mul_(1 / (255 * std)).sub_(mean / std)


def _read(source: ImageInput, max_pixels: int, min_side: int = 0) -> Image.Image:
    """Return an oriented RGB image; with `min_side`, a JPEG may be decoded at a reduced size of at least that."""
    if isinstance(source, np.ndarray):
        return to_oriented_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        try:
            return to_oriented_rgb(source)
        except Exception as error:  # decoding happens here; see below
            name = getattr(source, "filename", "") or f"opened image of {source.width} x {source.height}"
            raise source_error(name, f"damaged or truncated ({error}); open an intact copy") from error
    with open_source(source) as stream:
        image = _open_header(stream, source, max_pixels)
        try:
            if min_side and image.format == "JPEG":  # a HEIF file's draft is an embedded thumbnail
                image.draft(None, (min_side, min_side))
            return to_oriented_rgb(image)
        except Exception as error:  # for damaged data Pillow raises almost any exception, including SyntaxError
            raise source_error(
                source, f"damaged or truncated ({error}); replace it with an intact copy or remove it"
            ) from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    """Return a uint8 array as an image.

    Raises:
        ImageError: wrong dtype or shape.
    """
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in ((), (1,), (3,), (4,)) or not array.size:
        raise ImageError(
            f"an array of {array.dtype} {array.shape} is not an image; pass uint8 RGB (height, width, 3), "
            "and several images as a list"
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == (1,) else array))


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG without EXIF parsing: Pillow parses it for the resolution and warns about damaged tags."""

    def getexif(self) -> Image.Exif:
        """Return empty EXIF data; `orientation.exif_orientation` reads the orientation."""
        return Image.Exif()


def _open_header(
    stream: IO[bytes], source: Source, max_pixels: int, formats: Sequence[str] = FORMATS
) -> ImageFile.ImageFile:
    """Return the image with its header read and its size checked, not decoded.

    Uses Pillow's registry without `Image.open`, which warns about large images; warning filters are process-wide and
    not thread-safe.
    """
    prefix = stream.read(64)
    if not prefix:
        raise source_error(source, "the file is empty (0 bytes); replace it with an intact copy or remove it")
    for name in formats:
        opener = _opener(name, prefix, source)
        if opener is None:
            continue
        stream.seek(0)
        try:
            image = opener(stream, "")
        except Image.DecompressionBombError as error:
            raise source_error(source, f"too large ({error}); reduce its size") from error
        except Exception as error:  # see _read
            raise source_error(source, f"damaged {name} header ({error}); replace it or remove it") from error
        _check_size(image, source, max_pixels)
        return image
    raise source_error(source, f"not an image of a known format ({', '.join(formats)}); convert it or remove it")


def _opener(name: str, prefix: bytes, source: Source) -> Callable[[IO[bytes], str], ImageFile.ImageFile] | None:
    """Return Pillow's class for a format if the file starts with its signature, else None."""
    if name == "HEIF":
        return _heif_opener(source) if _is_heif(prefix) else None
    Image.init()
    factory, accept = Image.OPEN.get(name, (None, None))
    # `accept` returns a string if Pillow was built without the format.
    if factory is None or accept is None or accept(prefix[:16].ljust(16, b"\0")) is not True:
        return None
    # Pillow's JPEG factory warns about damaged multi-image files, of which only the first image is read.
    return _JpegFile if name == "JPEG" else factory


def _is_heif(prefix: bytes) -> bool:
    """Return whether the file-type box at the start of a file has a brand of HEVC images (ISO/IEC 23008-12)."""
    if prefix[4:8] != b"ftyp" or prefix[8:12] in (b"avif", b"avis"):
        return False
    end = min(int.from_bytes(prefix[:4]), len(prefix))
    return any(prefix[start : start + 4] in _HEVC_BRANDS for start in (8, *range(16, end, 4)))


def _heif_opener(source: Source) -> Callable[[IO[bytes], str], ImageFile.ImageFile]:
    """Return the class that opens HEIF files, without changing Pillow's registry.

    Raises:
        ImageError: pillow-heif is not installed.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise source_error(source, str(MissingDependencyError("pillow-heif", "heif", "HEIC"))) from error
    return HeifImageFile  # type: ignore[no-any-return, unused-ignore]


def _check_size(image: ImageFile.ImageFile, source: Source, max_pixels: int) -> None:
    """Raise ImageError if an image exceeds the pixel limit."""
    if image.format not in ("JPEG", "PNG"):
        # Some other decoders check Pillow's own limit while decoding, and would warn.
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        raise source_error(
            source,
            f"{width} x {height} is {width * height / 1e6:.0f} megapixels, more than the "
            f"{max_pixels / 1e6:.0f} allowed; reduce its size",
        )
