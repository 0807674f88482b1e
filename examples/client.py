"""Caption images with a running `seesay serve`.

`python examples/client.py photo.jpg more.png --url http://127.0.0.1:8000 --strategy beam` prints a line per image:
name, tabulator, caption. Images that cannot be captioned are reported on standard error, and the exit code is then 1.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

BATCH = 8
"""Images per request; the service takes at most 16."""


def caption(client: httpx.Client, images: Sequence[Path], fields: dict[str, str]) -> list[tuple[str, str]]:
    """Return the caption and the error of each image; one of them is empty.

    Args:
        client: its base URL is that of the service.
        images: image files.
        fields: decoding options such as `{"strategy": "beam"}`.

    Raises:
        httpx.HTTPError: the service cannot be reached, or fails.
    """
    with ExitStack() as stack:
        files = [("images", (path.name, stack.enter_context(path.open("rb")))) for path in images]
        response = client.post("/v1/caption", files=files, data=fields)
    if response.status_code >= 500:
        response.raise_for_status()
    if response.is_client_error:  # no image could be captioned, or an option is wrong
        message = response.json()["error"]["message"]
        return [("", message)] * len(images)
    results = response.json()["results"]
    return [(each["captions"][0]["text"], "") if not each["error"] else ("", str(each["error"])) for each in results]


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
    with httpx.Client(base_url=options.url, headers=headers, timeout=120) as client:
        for begin in range(0, len(options.images), BATCH):
            images = options.images[begin : begin + BATCH]
            for path, (text, error) in zip(images, caption(client, images, fields), strict=True):
                if error:
                    failed = True
                    print(f"{path}: {error}", file=sys.stderr)
                else:
                    print(f"{path}\t{text}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
