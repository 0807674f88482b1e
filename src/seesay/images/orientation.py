"""Conversion of images of any mode and EXIF orientation to 8-bit RGB."""

import struct

import numpy as np
from PIL import Image

# EXIF orientation -> transpose operation (1 needs none).
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112


def to_oriented_rgb(image: Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB with its EXIF orientation applied and removed, transparency on white.

    An image that needs no change is returned itself.
    """
    image.load()
    orientation = exif_orientation(image)
    image = _to_rgb(image)
    if orientation in _TRANSPOSES:
        image = image.transpose(_TRANSPOSES[orientation])
        image.info.pop("exif", None)
    return image


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 if missing or unreadable.

    Parses only this tag (TIFF 6.0, section 2), because Pillow parses every tag and warns about damaged ones.
    """
    tiff_tags = getattr(image, "tag_v2", None)
    if tiff_tags is not None:
        value = tiff_tags.get(_ORIENTATION_TAG, 1)
        return value if value in _TRANSPOSES else 1
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
                return value if value in _TRANSPOSES else 1
    except struct.error:
        return 1
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB, with transparency composited on white."""
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
    """Return a grey image of 16 or 32 bits per pixel as 8 bits, scaled instead of clipped as in Pillow."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    # Integer images have 16 bits, even if Pillow stores 32. Floating-point images have no fixed range.
    ceilings = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    fitting = [ceiling for ceiling in ceilings if low >= 0 and high <= ceiling]
    low, high = (0.0, fitting[0]) if fitting else (low, high)
    grey = Image.fromarray(np.rint((values - low) * (255 / (high - low or 1))).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        grey = Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey
