"""A request's body, read within bounds of size and time."""

import asyncio
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from seesay.errors import ImageError
from seesay.images import image_size
from seesay.serving import limits
from seesay.serving.errors import ApiError, ClientGoneError
from seesay.sources import ImageBytes

IMAGES = "images"
"""Name of the field that holds files."""


@dataclass(frozen=True)
class Form:
    """What a request holds: its images, and its other fields in their order."""

    images: list[ImageBytes | ApiError]
    names: list[str]
    fields: list[tuple[str, str]]


async def read_form(request: Request, seconds: float) -> Form:
    """Returns what a multipart request holds.

    Raises:
        ApiError: no multipart form, malformed, too large, too slow, without an image or with too many.
        ClientGoneError: it was cut off.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError("wrong_type", f"send multipart/form-data with images in the field {IMAGES!r}")
    bounded = Request(request.scope, _bounded(request.receive))
    try:
        async with (
            asyncio.timeout(seconds),
            bounded.form(
                max_files=limits.MAX_IMAGES, max_fields=limits.MAX_FIELDS, max_part_size=limits.MAX_FIELD_BYTES
            ) as form,
        ):
            images: list[ImageBytes | ApiError] = []
            names: list[str] = []
            fields: list[tuple[str, str]] = []
            for name, value in form.multi_items():
                if isinstance(value, str):
                    fields.append((name, value))
                elif name == IMAGES:
                    names.append(shown_name(value.filename or "", len(names)))
                    images.append(_checked(names[-1], value.size or 0) or ImageBytes(names[-1], await value.read()))
                else:
                    raise ApiError("bad_request", f"the file field {name[:50]!r} is unknown; use {IMAGES!r}")
    except TimeoutError as error:
        raise ApiError("too_slow", f"the body did not arrive within {seconds:g} s; send less or faster") from error
    except ClientDisconnect as error:
        raise ClientGoneError from error
    except HTTPException as error:
        raise ApiError("bad_request", f"the form cannot be read: {' '.join(str(error.detail).split())}") from error
    if not images:
        raise ApiError("bad_request", f"no image; send at least one file in the field {IMAGES!r}")
    return Form(images, names, fields)


def shown_name(name: str, number: int) -> str:
    """Returns a file's name as answers and messages show it: one short line, without its folders."""
    name = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(character if character.isprintable() else " " for character in name)
    return " ".join(plain.split())[-limits.MAX_NAME_CHARACTERS :] or f"image {number + 1}"


def check_header(image: ImageBytes) -> tuple[int, int]:
    """Returns the upright (width, height) of an image that may be decoded, from its header alone.

    Raises:
        ImageError: empty, of no format that is taken, damaged, or of too many pixels.
    """
    width, height = image_size(image, limits.MAX_PIXELS, limits.FORMATS)
    if min(width, height) < 1:
        raise ImageError(f"{image}: {width} x {height} is no image; send one with pixels")
    return width, height


def _checked(name: str, size: int) -> ApiError | None:
    if size <= limits.MAX_FILE_BYTES:
        return None
    return ApiError(
        "too_large",
        f"{name}: {size / 1e6:.0f} MB, more than the {limits.MAX_FILE_BYTES / 1e6:g} allowed; make it smaller",
    )


def _bounded(receive: Receive) -> Receive:
    """Returns a `receive` that refuses a body of more than `MAX_BODY_BYTES`.

    What is beyond is thrown away first, up to a bound: a client that is still sending would not read the answer.
    """
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        while True:
            message = await receive()
            seen += len(message.get("body", b""))
            if seen <= limits.MAX_BODY_BYTES or message["type"] != "http.request":
                return message
            if not message.get("more_body") or seen > limits.MAX_DRAINED_BYTES:
                raise ApiError(
                    "too_large",
                    f"the body is larger than {limits.MAX_BODY_BYTES / 1e6:g} MB; send fewer or smaller images",
                )

    return bounded
