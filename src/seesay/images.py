"""Opens an image safely, and holds the one preprocessing that training, captioning and serving share.

A source is anything `seesay.sources` opens; an opened image or an array is accepted where a `ImageInput` is. Whatever
the file turns out to be, the caller gets an upright 8-bit RGB image or an `ImageError` of one line. An image's size is
read from its header and checked before anything is decoded. All functions may be called from several threads.

Limit: `MAX_PIXELS` of an image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin

from seesay.errors import ConfigError, ImageError, MissingDependencyError
from seesay.orientation import exif_orientation, to_oriented_rgb
from seesay.sources import Source, open_source, source_error

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
    "resize_image",
    "to_oriented_rgb",
]

MAX_PIXELS = 120_000_000  # lets the 108-megapixel images of telephones through; 360 MB decoded

# Formats that start with a signature and are decoded by libraries made for untrusted bytes (EPS would start
# Ghostscript), each with its suffixes. The suffixes do not depend on what is installed: sidecar names depend on them.
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
"""What can be captioned: a path, an http(s) URL, the content of a file, an opened image, or an array of uint8.

An array has the shape (height, width, 3), red first; (height, width) and (height, width, 1) are grey,
(height, width, 4) has transparency, which is shown over white.
"""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the encoder's input; kept with every feature store and run.

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


def read_image(source: ImageInput, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns an image as upright 8-bit RGB; of an animation the first frame, transparency over white.

    Args:
        source: a path, an http(s) address, an archive member or bytes (see `seesay.sources`), an opened image or an
            array.
        max_pixels: width x height above which a file is refused before it is decoded.

    Raises:
        ImageError: missing, not an image, damaged, cut short or too large.
    """
    image = _read(source, max_pixels)
    # The copy of a file's image is a plain one, without the handle of a file that is closed by now.
    return image.copy() if isinstance(image, ImageFile.ImageFile) else image


def load_pixels(
    source: ImageInput, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Returns `resize_image(read_image(source))`, decoding large JPEGs at a fraction of their size.

    The fraction (1/2, 1/4 or 1/8) leaves every side at least twice as long as the square, so that the resize
    after it still decides what is seen: on photographs 99 % of the values differ from the full way by at
    most three levels of 255. Images less than four times the square are the same to the bit.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ImageError: as `read_image`.
    """
    return resize_image(_read(source, max_pixels, least_side=2 * preprocessing.size), preprocessing)


def image_size(source: Source, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """Returns (width, height) of the upright image from its header alone, without decoding it.

    A file that is cut short after its header goes unnoticed here; `read_image` finds it.

    Args:
        source: as of `read_image`.
        max_pixels: width x height above which an image is refused.
        formats: those of `FORMATS` that are taken.

    Raises:
        ImageError: missing, not an image, a damaged header, or too large.
    """
    with open_source(source) as stream:
        image = _open_header(stream, source, max_pixels, formats)
        width, height = image.size
        # Pillow gives a TIFF's size turned already.
        turned = image.format != "TIFF" and exif_orientation(image) >= 5
        return (height, width) if turned else (width, height)


def resize_image(image: Image.Image, preprocessing: Preprocessing) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Returns the image as the encoder's square: uint8 (size, size, 3), red first.

    `squash` maps the whole frame to the square; `crop` brings the shortest side to `size` and keeps the
    centre. Another mode than RGB is converted first, and an EXIF orientation applied.
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


def _read(source: ImageInput, max_pixels: int, least_side: int = 0) -> Image.Image:
    """Returns an upright RGB image; with `least_side` a JPEG file may shrink to no less than that per side."""
    if isinstance(source, np.ndarray):
        return to_oriented_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        try:
            return to_oriented_rgb(source)
        except Exception as error:  # it is decoded only now; see below
            name = getattr(source, "filename", "") or f"opened image of {source.width} x {source.height}"
            raise source_error(name, f"damaged or cut short ({error}); open a whole copy") from error
    with open_source(source) as stream:
        image = _open_header(stream, source, max_pixels)
        try:
            if least_side and image.format == "JPEG":  # a HEIF file's draft is an embedded thumbnail
                image.draft(None, (least_side, least_side))
            return to_oriented_rgb(image)
        except Exception as error:  # on damaged bytes Pillow raises nearly anything, SyntaxError included
            raise source_error(
                source, f"damaged or cut short ({error}); replace it with a whole copy or remove it"
            ) from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    """Returns an array of uint8 as an image.

    Raises:
        ImageError: it has another type or shape.
    """
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in ((), (1,), (3,), (4,)) or not array.size:
        raise ImageError(
            f"an array of {array.dtype} {array.shape} is not an image; give uint8 (height, width, 3) with values from "
            "0 to 255, red first, and several images as a list"
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == (1,) else array))


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG whose EXIF is not parsed: Pillow looks there for the resolution, and warns of all that is broken in it."""

    def getexif(self) -> Image.Exif:
        """Returns none; the orientation is read by `upright.exif_orientation`."""
        return Image.Exif()


def _open_header(
    stream: IO[bytes], source: Source, max_pixels: int, formats: Sequence[str] = FORMATS
) -> ImageFile.ImageFile:
    """Returns the image with its header read and its size checked, not yet decoded.

    Pillow's registry is used without `Image.open`, which warns of large images through the process-wide
    warning filters; those cannot be held off safely with several threads.
    """
    prefix = stream.read(64)
    if not prefix:
        raise source_error(source, "the file is empty (0 bytes); replace it with a whole copy or remove it")
    for name in formats:
        opener = _opener(name, prefix, source)
        if opener is None:
            continue
        stream.seek(0)
        try:
            image = opener(stream, "")
        except Image.DecompressionBombError as error:
            raise source_error(source, f"too large ({error}); make it smaller") from error
        except Exception as error:  # see _read
            raise source_error(source, f"damaged {name} header ({error}); replace it or remove it") from error
        _check_size(image, source, max_pixels)
        return image
    raise source_error(source, f"not an image of a known format ({', '.join(formats)}); convert it or remove it")


def _opener(name: str, prefix: bytes, source: Source) -> Callable[[IO[bytes], str], ImageFile.ImageFile] | None:
    """Returns Pillow's class for a format if a file starts as that format does, else None."""
    if name == "HEIF":
        return _heif_opener(source) if _is_heif(prefix) else None
    Image.init()
    factory, accept = Image.OPEN.get(name, (None, None))
    # `accept` returns a text where this Pillow was built without the format.
    if factory is None or accept is None or accept(prefix[:16].ljust(16, b"\0")) is not True:
        return None
    # Pillow's JPEG factory warns of broken multi-image files, of which only the first image is read.
    return _JpegFile if name == "JPEG" else factory


def _is_heif(prefix: bytes) -> bool:
    """Returns whether the file-type box at the start of a file names HEVC-coded images (ISO/IEC 23008-12)."""
    if prefix[4:8] != b"ftyp" or prefix[8:12] in (b"avif", b"avis"):
        return False
    end = min(int.from_bytes(prefix[:4]), len(prefix))
    return any(prefix[place : place + 4] in _HEVC_BRANDS for place in (8, *range(16, end, 4)))


def _heif_opener(source: Source) -> Callable[[IO[bytes], str], ImageFile.ImageFile]:
    """Returns the class that opens HEIF files; Pillow's registry is not changed.

    Raises:
        ImageError: pillow-heif is not installed; the extra is named.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise source_error(source, str(MissingDependencyError("pillow-heif", "heif", "HEIC"))) from error
    return HeifImageFile  # type: ignore[no-any-return, unused-ignore]


def _check_size(image: ImageFile.ImageFile, source: Source, max_pixels: int) -> None:
    """Raises ImageError where an image has more pixels than allowed."""
    if image.format not in ("JPEG", "PNG"):
        # Some of the other decoders check Pillow's own limit as they decode, and would warn.
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        raise source_error(
            source,
            f"{width} x {height} is {width * height / 1e6:.0f} megapixels, more than the "
            f"{max_pixels / 1e6:.0f} allowed; make it smaller",
        )
