import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seesay.bulk.rows import json_line
from seesay.captioners.caption import Caption
from seesay.review.app import create_app
from seesay.review.files import caption_file
from seesay.review.regeneration import Regenerator
from seesay.review.session import ReviewSession
from seesay.serving.limits import Limits
from tests import tiny
from tests.serving.servers import PATIENT, Running, running

TOKEN = "secret-token"
Open = Callable[..., ReviewSession]
Host = Callable[..., Running]


def generated(text: str, score: float = -1.5) -> Caption:
    words = tuple(text.split())
    return Caption(text, words, (-0.25,) * len(words), -0.5, score, True)


def make_images(folder: Path, number: int) -> list[Path]:
    """Writes images named image-000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"image-{place:03}.png" for place in range(number)]
    for place, path in enumerate(paths):
        tiny.image(place, 60, 40).save(path)
    return paths


def write_captions(path: Path, texts: dict[str, str], **more: Any) -> Path:
    """Writes a file as `seesay caption --out` does; `more` are further fields of each row."""
    lines = [
        json.dumps({**json.loads(json_line(name, generated(text, -1.0 - place), several=False)), **more})
        for place, (name, text) in enumerate(texts.items())
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with four images and `captions.jsonl`."""
    paths = make_images(tmp_path / "images", 4)
    texts = ("a dog runs", "a cat sits", "a dog and a cat", "two red dogs")
    names = [f"images/{path.name}" for path in paths]
    write_captions(tmp_path / "captions.jsonl", dict(zip(names, texts, strict=True)))
    return tmp_path


@pytest.fixture
def review() -> Iterator[Open]:
    """Opens reviews that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda path, sidecar="": stack.enter_context(ReviewSession(caption_file(path, sidecar)))


@pytest.fixture
def host() -> Iterator[Host]:
    """Serves the page of a session."""
    with contextlib.ExitStack() as stack:

        def start(session: ReviewSession, regenerator: Regenerator | None = None) -> Running:
            return stack.enter_context(running(create_app(session, TOKEN, regenerator), Limits(**PATIENT)))

        yield start


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
