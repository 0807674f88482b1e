"""Reading a request's body, with limits on size and time."""

import asyncio
from dataclasses import dataclass

import python_multipart  # noqa: F401  Starlette needs it for forms, but imports it only for the first one
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from seesay.errors import ImageError
from seesay.images.loading import image_size
from seesay.images.sources import ImageBytes
from seesay.serving import limits
from seesay.serving.errors import ApiError, ClientDisconnectedError

IMAGES = "images"
"""Name of the form field for files."""


@dataclass(frozen=True)
class Form:
    """Content of a request: images with their names, and the other fields in order."""

    images: list[ImageBytes | ApiError]
    names: list[str]
    fields: list[tuple[str, str]]


async def read_form(request: Request, seconds: float) -> Form:
    """Read a multipart request.

    Raises:
        ApiError: not a multipart form, malformed, too large, too slow, no image, or too many images.
        ClientDisconnectedError: the client closed the connection.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError("wrong_type", f"send multipart/form-data with images in the field {IMAGES!r}")
    bounded = Request(request.scope, bounded_receive(request.receive, limits.MAX_BODY_BYTES, "fewer or smaller images"))
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
                    names.append(display_name(value.filename or "", len(names)))
                    images.append(check_size(names[-1], value.size or 0) or ImageBytes(names[-1], await value.read()))
                else:
                    raise ApiError("bad_request", f"the file field {name[:50]!r} is unknown; use {IMAGES!r}")
    except TimeoutError as error:
        raise _too_slow(seconds) from error
    except ClientDisconnect as error:
        raise ClientDisconnectedError from error
    except HTTPException as error:
        raise ApiError("bad_request", f"malformed form: {' '.join(str(error.detail).split())}") from error
    if not images:
        raise ApiError("bad_request", f"no image; send at least one file in the field {IMAGES!r}")
    return Form(images, names, fields)


async def read_body(request: Request, max_bytes: int, seconds: float, advice: str) -> bytes:
    """Read the body of a request.

    Args:
        request: the request.
        max_bytes: limit of the body.
        seconds: limit of the time until it has arrived.
        advice: what to send instead of a body that is too large, for the message.

    Raises:
        ApiError: too large or too slow.
        ClientDisconnectedError: the client closed the connection.
    """
    try:
        async with asyncio.timeout(seconds):
            return await Request(request.scope, bounded_receive(request.receive, max_bytes, advice)).body()
    except TimeoutError as error:
        raise _too_slow(seconds) from error
    except ClientDisconnect as error:
        raise ClientDisconnectedError from error


def _too_slow(seconds: float) -> ApiError:
    return ApiError("too_slow", f"the body did not arrive within {seconds:g} s; send less or faster")


def display_name(name: str, number: int) -> str:
    """Return a file's name for responses and messages: one short line, without folders."""
    name = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(character if character.isprintable() else " " for character in name)
    return " ".join(plain.split())[-limits.MAX_NAME_CHARACTERS :] or f"image {number + 1}"


def check_header(image: ImageBytes) -> tuple[int, int]:
    """Return the upright (width, height) of an image, from its header.

    Raises:
        ImageError: empty, unsupported format, damaged, or too many pixels.
    """
    width, height = image_size(image, limits.MAX_PIXELS, limits.FORMATS)
    if min(width, height) < 1:
        raise ImageError(f"{image}: {width} x {height} is not an image; send one with pixels")
    return width, height


def check_size(name: str, size: int) -> ApiError | None:
    """Return the error of a file that is too large; None if it is not."""
    if size <= limits.MAX_FILE_BYTES:
        return None
    return ApiError(
        "too_large",
        f"{name}: {size / 1e6:.0f} MB, more than the {limits.MAX_FILE_BYTES / 1e6:g} allowed; make it smaller",
    )


def bounded_receive(receive: Receive, max_bytes: int, advice: str) -> Receive:
    """Return a `receive` that rejects a body of more than `max_bytes`.

    The excess is read and discarded first, up to a limit: a client that is still sending would not read the response.

    Args:
        receive: of the request.
        max_bytes: limit of the body.
        advice: what to send instead, for the message.
    """
    received = 0

    async def bounded() -> Message:
        nonlocal received
        while True:
            message = await receive()
            received += len(message.get("body", b""))
            if received <= max_bytes or message["type"] != "http.request":
                return message
            if not message.get("more_body") or received > limits.MAX_DRAINED_BYTES:
                raise ApiError("too_large", f"the body is larger than {max_bytes / 1e6:g} MB; send {advice}")

    return bounded
