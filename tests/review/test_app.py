"""The HTTP API of the review page: access, limits, actions, errors."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from seesay.captioners.caption import Caption
from seesay.data.annotations import load_annotations
from seesay.errors import ConfigError
from seesay.review import limits
from seesay.review.regeneration import Regenerator
from seesay.review.session import ReviewSession
from seesay.serving.static import CONTENT_SECURITY_POLICY
from tests.review.conftest import TOKEN, Host, Open, read_rows
from tests.review.scripted import ScriptedCaptioner


@pytest.fixture
def session(folder: Path, review: Open) -> ReviewSession:
    return review(folder / "captions.jsonl")


@pytest.fixture
def client(session: ReviewSession, host: Host) -> Iterator[httpx.Client]:
    server = host(session, Regenerator(ScriptedCaptioner("default {stem}")))
    with httpx.Client(base_url=f"{server.url}/{TOKEN}/", headers={"Origin": server.url}, trust_env=False) as client:
        yield client


def act(client: httpx.Client, action: str, **content: Any) -> dict[str, Any]:
    response = client.post(f"api/{action}", json={"revision": 0, **content})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"code", "message"}
    return str(response.json()["error"]["message"])


def test_every_path_needs_the_token(client: httpx.Client, session: ReviewSession) -> None:
    root = str(client.base_url).removesuffix(f"{TOKEN}/")
    for path in ("", "wrong/", "wrong/api/rows", "wrong/thumbnails/0", "wrong/review.js", f"{TOKEN}x/api/rows", "é/"):
        error(client.get(root + path), 404)
    for action in ("edit", "mark", "revert", "replace", "regenerate", "undo", "redo", "save"):
        content = {"revision": 0, "rows": [0], "review": "accepted"}
        error(client.post(f"{root}wrong/api/{action}", json=content), 404)
    assert session.revision == 0


def test_requests_of_other_pages_are_refused(client: httpx.Client, session: ReviewSession) -> None:
    content = {"revision": 0, "rows": [0], "review": "accepted"}
    host = f"{client.base_url.host}:{client.base_url.port}"
    for origin in ("", "null", "http://evil.example", f"https://{host}", f"http://{client.base_url.host}:1"):
        message = error(client.post("api/mark", json=content, headers={"Origin": origin}), 403)
        assert "must come from the review page" in message
    assert session.revision == 0
    assert client.post("api/mark", json=content).status_code == 200


def test_only_listed_images_and_own_files_are_served(client: httpx.Client, folder: Path) -> None:
    Image.new("RGB", (5, 5)).save(folder / "secret.png")
    for path in (
        "thumbnails/4",
        "thumbnails/-1",
        "thumbnails/secret.png",
        "thumbnails/..%2f..%2fsecret.png",
        "..%2fapp.py",
        "%2e%2e%2fapp.py",
        "..%5capp.py",
        "sub/../../app.py",
        "captions.jsonl",
        "%2fetc%2fpasswd",
    ):
        assert client.get(path).status_code in (400, 404, 422), path
    assert client.get("thumbnails/0?size=huge").status_code == 400
    assert client.get("review.js").text.startswith("// The review page")
    assert client.get("dom.js").status_code == client.get("style.css").status_code == 200


def test_thumbnails_and_their_errors(client: httpx.Client, folder: Path) -> None:
    response = client.get("thumbnails/1?size=small")
    assert response.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(response.content)).size == (60, 40)
    (folder / "images/image-002.png").write_bytes(b"no image")
    assert "not an image" in error(client.get("thumbnails/2"), 422)
    (folder / "images/image-003.png").unlink()
    assert "no such file" in error(client.get("thumbnails/3"), 422)


def test_responses_have_the_security_headers(client: httpx.Client) -> None:
    for path in ("", "review.js", "api/rows", "thumbnails/0", "nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_the_page_loads_nothing_from_elsewhere_and_sets_no_markup() -> None:
    web = Path(limits.__file__).parent / "web"
    for path in web.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path.name
        assert not re.search(r"\s(on\w+|style)=[\"']", text), (
            f"{path.name}: the policy blocks inline handlers and styles"
        )


def test_actions_return_what_changed(client: httpx.Client, session: ReviewSession) -> None:
    rows = client.get("api/rows").json()
    assert [row["caption"] for row in rows["rows"]] == [entry.state.caption for entry in session.entries]
    assert rows["name"].endswith("captions.jsonl")
    reply = act(client, "edit", row=1, caption=" a person's ", accept=True)
    assert [(row["row"], row["caption"], row["review"]) for row in reply["rows"]] == [(1, "a person's", "accepted")]
    assert (reply["unsaved"], reply["undo"], reply["redo"]) == (1, "edit and accept", "")
    reply = act(client, "replace", rows=[0, 2], find="dog", replacement="cat", preview=True)
    assert reply["message"] == "found at 2 places in 2 captions"
    assert session.revision == 1
    act(client, "replace", rows=[0, 2], find="dog", replacement="cat")
    assert session.entries[2].state.caption == "a cat and a cat"
    act(client, "revert", rows=[0])
    assert act(client, "undo")["message"] == "undone: restore the model's caption"
    assert act(client, "redo")["message"] == "redone: restore the model's caption"
    assert act(client, "redo")["message"] == "nothing to redo"
    assert act(client, "save")["message"] == "saved 2 captions"
    assert act(client, "save")["unsaved"] == 0
    assert [row.get("review") for row in read_rows(session.file.rescue_path.with_name("captions.jsonl"))] == [
        None,
        "accepted",
        "edited",
        None,
    ]


def test_a_conflict_is_reported_and_nothing_is_overwritten(client: httpx.Client, folder: Path) -> None:
    act(client, "mark", rows=[0], review="accepted")
    (folder / "captions.jsonl").write_text("theirs")
    response = client.post("api/save", json={"revision": 0})
    assert "was changed by another program" in error(response, 409)
    assert (folder / "captions.jsonl").read_text() == "theirs"


@pytest.mark.parametrize(
    ("action", "content", "status"),
    [
        ("edit", {"row": 0}, 400),
        ("edit", {"row": 4, "caption": "x"}, 422),
        ("edit", {"row": 0, "caption": "x" * (limits.MAX_CAPTION_CHARACTERS + 1)}, 400),
        ("edit", {"row": 0, "caption": "zero\0"}, 400),
        ("edit", {"row": 0, "caption": "x", "unknown": 1}, 400),
        ("mark", {"rows": [0], "review": "perfect"}, 400),
        ("mark", {"rows": [-1], "review": "accepted"}, 422),
        ("replace", {"rows": [0], "find": "", "replacement": "x"}, 400),
        ("regenerate", {"rows": []}, 400),
        ("regenerate", {"rows": [0] * (limits.MAX_REGENERATED + 1)}, 400),
        ("regenerate", {"rows": [0], "options": {"beam_size": "99"}}, 422),
        ("regenerate", {"rows": [0], "options": {"strategy": "sample", "beam_size": "2"}}, 422),
        ("regenerate", {"rows": [0], "options": {"strategy": "sample", "top_k": "5"}}, 422),
    ],
)
def test_bad_requests_change_nothing(
    client: httpx.Client, session: ReviewSession, action: str, content: dict[str, Any], status: int
) -> None:
    error(client.post(f"api/{action}", json={"revision": 0, **content}), status)
    assert session.revision == 0


def test_bodies_are_checked(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    error(client.post("api/undo", content=b"no json"), 400)
    error(client.post("api/edit", content=b'{"revision": 0, "row": 0, "caption": "\\ud800"}'), 400)
    monkeypatch.setattr(limits, "MAX_BODY_BYTES", 100)
    assert "larger than" in error(client.post("api/undo", content=b" " * 101), 413)


def test_captions_are_generated_again_with_options_and_prompt(
    client: httpx.Client, session: ReviewSession, folder: Path
) -> None:
    model = client.get("api/rows").json()["model"]
    assert (model["name"], model["takes_prompts"], model["options"]["beam_size"]) == ("scripted", True, 3)
    act(client, "regenerate", rows=[0, 1])
    assert session.entries[1].state.caption == "default {stem} beam 3 60"
    (folder / "images/image-002.png").unlink()
    reply = act(client, "regenerate", rows=[2, 3], options={"strategy": "greedy"}, prompt="describe")
    assert session.entries[3].state.caption.startswith("describe greedy")
    assert session.entries[2].state.caption == "a dog and a cat"
    assert reply["message"].startswith("1 caption generated; failed: ")
    assert "no such file" in reply["message"]
    act(client, "undo")
    assert session.entries[3].state.caption == "two red dogs"


def test_a_prompt_of_the_page_is_literal_and_the_captioners_own_keeps_its_variables(folder: Path) -> None:
    captioner = ScriptedCaptioner("default {stem}")
    regenerator = Regenerator(captioner)
    image = str(folder / "images/image-001.png")
    prompts = ("", captioner.prompt_text, "{stem}")
    captions = [regenerator.caption([image], None, prompt)[0] for prompt in prompts]
    texts = [each.text.split(" beam")[0] for each in captions if isinstance(each, Caption)]
    assert texts == ["default {stem}", "default {stem}", "{{stem}}"]
    with pytest.raises(ConfigError, match="blank"):
        regenerator.caption([image], None, " ")
    regenerator.close()
    assert captioner.closed


def test_without_a_model_nothing_is_generated(session: ReviewSession, host: Host) -> None:
    server = host(session)
    with server.client() as client:
        address = f"{server.url}/{TOKEN}/api"
        assert client.get(f"{address}/rows").json()["model"] is None
        response = client.post(
            f"{address}/regenerate", json={"revision": 0, "rows": [0]}, headers={"Origin": server.url}
        )
        assert "--model" in error(response, 400)


def test_the_export_is_training_data(client: httpx.Client, tmp_path: Path) -> None:
    assert "no caption is accepted" in error(client.get("api/export"), 422)
    act(client, "mark", rows=[0, 2], review="accepted")
    response = client.get("api/export")
    assert "attachment" in response.headers["content-disposition"]
    (tmp_path / "accepted.jsonl").write_bytes(response.content)
    found = load_annotations(tmp_path / "accepted.jsonl")
    assert [item.captions for item in found] == [("a dog runs",), ("a dog and a cat",)]


def test_names_that_are_not_text_and_numbers_that_are_not_json(folder: Path, review: Open, host: Host) -> None:
    path = folder / "captions.jsonl"
    path.write_text('{"image": "caf\\udce9.png", "caption": "a dog", "score": NaN}\n')
    session = review(path)
    server = host(session)
    with server.client() as client:
        (row,) = json.loads(client.get(f"{server.url}/{TOKEN}/api/rows").text, parse_constant=pytest.fail)["rows"]
        assert (row["image"], row["score"]) == ("caf\udce9.png", None)
        assert "no such file" in error(client.get(f"{server.url}/{TOKEN}/thumbnails/0"), 422)
