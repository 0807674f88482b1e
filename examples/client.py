"""Caption images with a running `seesay serve`. Needs httpx only: `pip install httpx`.

`python examples/client.py photo.jpg more.png --url http://127.0.0.1:8000 --strategy beam` prints a line per image:
name, tabulator, caption. The key is read from SEESAY_API_KEY. Images that cannot be captioned, and a service that
fails, are reported on standard error with a line each, and the exit code is then 1.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

BATCH = 8
"""Images per request; the service takes at most 16."""

ATTEMPTS = 5
"""Maximum number of requests per batch while the service is busy (status 503)."""


class ServiceError(Exception):
    """The service fails or refuses the request, whichever the images."""


def caption(client: httpx.Client, images: Sequence[Path], fields: dict[str, str]) -> list[tuple[str, str]]:
    """Return the caption and the error of each image; one of them is empty.

    Args:
        client: its base URL is that of the service.
        images: image files.
        fields: decoding options such as `{"strategy": "beam"}`.

    Raises:
        ServiceError: the service fails or refuses the request.
        httpx.TransportError: the service cannot be reached.
    """
    errors, files = {}, {}
    for path in images:
        try:
            files[path] = path.read_bytes()
        except OSError as error:
            errors[path] = ("", error.strerror or str(error))
    found = errors | (dict(zip(files, send(client, files, fields), strict=True)) if files else {})
    return [found[path] for path in images]


def send(client: httpx.Client, files: dict[Path, bytes], fields: dict[str, str]) -> list[tuple[str, str]]:
    """Return the caption and the error of each file; see `caption`."""
    response = post(client, files, fields)
    try:
        content = response.json()
    except ValueError:  # of a proxy
        content = {"error": {"code": "", "message": "the response is not JSON"}}
    if response.is_success and "results" in content:
        results = zip(files, content["results"], strict=True)
        return [
            ("", message(path, each["error"])) if each["error"] else (each["captions"][0]["text"], "")
            for path, each in results
        ]
    error = content["error"]
    if error["code"] not in ("unreadable_image", "too_large"):
        raise ServiceError(f"status {response.status_code}: {error['message']}")
    if len(files) == 1:
        return [("", message(path, error)) for path in files]
    # No image of several was captioned, or they are too large together, and the message is about the first.
    return [each for path, content in files.items() for each in send(client, {path: content}, fields)]


def post(client: httpx.Client, files: dict[Path, bytes], fields: dict[str, str]) -> httpx.Response:
    """Return the response to the files; while the service is busy, wait as long as it says and send them again."""
    form = [("images", (path.name, content)) for path, content in files.items()]
    for attempt in range(ATTEMPTS):
        response = client.post("/v1/caption", files=form, data=fields)
        if response.status_code != 503 or attempt == ATTEMPTS - 1:
            break
        wait = response.headers.get("Retry-After", "")
        time.sleep(int(wait) if wait.isdigit() else 1)
    return response


def message(path: Path, error: dict[str, str]) -> str:
    """Return the message of an error without the file's name, which it may begin with."""
    return error["message"].removeprefix(f"{path.name}: ")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--strategy", default="", help="greedy, sample or beam; default: that of the model")
    options = parser.parse_args(arguments)
    key = os.environ.get("SEESAY_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    fields = {"strategy": options.strategy} if options.strategy else {}
    failed = False
    try:
        with httpx.Client(base_url=options.url, headers=headers, timeout=120) as client:
            for begin in range(0, len(options.images), BATCH):
                images = options.images[begin : begin + BATCH]
                for path, (text, error) in zip(images, caption(client, images, fields), strict=True):
                    if error:
                        failed = True
                        print(f"{path}: {error}", file=sys.stderr)
                    else:
                        print(f"{path}\t{text}")
    except ServiceError as error:
        print(f"{options.url}: {error}", file=sys.stderr)
        return 1
    except httpx.TransportError as error:
        print(f"{options.url}: the service cannot be reached ({error}); is `seesay serve` running?", file=sys.stderr)
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
