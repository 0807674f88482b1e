"""The HTTP API over a real connection: results equal those of the captioner, with concurrent requests."""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seesay.captioners.caption import Caption
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions, changed_decoding
from seesay.images.sources import ImageBytes
from seesay.serving import limits
from seesay.serving.app import create_app
from seesay.serving.limits import Limits
from tests.serving.conftest import Start
from tests.serving.servers import Running, encoded, running, upload

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"num_return_sequences": 3, "attention": True},
    {"strategy": "beam", "beam_size": 4, "num_return_sequences": 4, "max_length": 5},
    {"strategy": "sample", "temperature": 1.5, "top_tokens": 3},
    {"strategy": "sample", "sampling_seed": 7, "max_length": 3},
    {"strategy": "beam", "beam_size": 4, "num_beam_groups": 2, "attention": True, "top_tokens": 2},
    {"strategy": "beam", "force_words": ["right"], "bad_words": ["red", "blue"]},
)


def options_of(caption_request: Mapping[str, Any]) -> DecodingOptions:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in caption_request.items()
        if name not in ("attention", "top_tokens")
    }
    return DecodingOptions(**values)


def assert_equals(answer: Mapping[str, Any], caption: Caption) -> None:
    """A caption in JSON equals one of the captioner, up to rounding."""
    assert answer["text"] == caption.text
    assert [word["text"] for word in answer["words"]] == list(caption.words)
    assert answer["score"] == pytest.approx(caption.score, rel=1e-4, abs=1e-4)
    assert answer["finished"] == caption.finished
    assert answer["probability"] == pytest.approx(caption.probability, rel=1e-3)
    probabilities = [word["probability"] for word in (*answer["words"], answer["end"])]
    assert probabilities == pytest.approx(list(np.exp([*caption.log_probs, caption.end_log_prob])), rel=1e-3)
    for place, word in enumerate(answer["words"]):
        if caption.attention is None:
            assert word["attention"] is None
        else:
            np.testing.assert_allclose(word["attention"], caption.attention[place], atol=1e-4)
    for top_tokens, word in zip(caption.top_tokens, (*answer["words"], answer["end"]), strict=False):
        assert [each["text"] for each in word["top_tokens"]] == [text for text, _ in top_tokens]


def assert_same_captions(
    answer: Mapping[str, Any], captioner: TrainedCaptioner, content: bytes, caption_request: Mapping[str, Any]
) -> None:
    caption = captioner.caption(
        ImageBytes("x", content),
        options_of(caption_request),
        attention=caption_request.get("attention", False),
        top_tokens=caption_request.get("top_tokens", 0),
    )
    for found, wanted in zip(answer["captions"], (caption, *caption.alternatives), strict=True):
        assert_equals(found, wanted)


def test_concurrent_requests_share_batches_and_each_gets_the_captions_of_its_image_alone(
    shared: Running, captioner: TrainedCaptioner, images: list[str]
) -> None:
    """42 concurrent requests with seven sets of options, some with several images of several formats."""
    jobs = []
    for number in range(42):
        contents = [Path(images[(number + extra) % len(images)]).read_bytes() for extra in range(1 + number % 3)]
        contents[-1] = encoded(number, ("JPEG", "WEBP", "GIF", "BMP")[number % 4])
        jobs.append((contents, OPTIONS[number % len(OPTIONS)]))
    before = shared.service.metrics.registry.get_sample_value("seesay_batch_images_count") or 0
    with shared.client() as client, ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(lambda job: client.post("/v1/caption", **upload(*job[0], **job[1])), jobs))
    batches = (shared.service.metrics.registry.get_sample_value("seesay_batch_images_count") or 0) - before
    assert batches < sum(len(contents) for contents, _ in jobs) / 2, "requests were not batched"
    texts = set()
    for (contents, caption_request), answer in zip(jobs, answers, strict=True):
        assert answer.status_code == 200, answer.text
        for content, result in zip(contents, answer.json()["results"], strict=True):
            assert_same_captions(result, captioner, content, caption_request)
            texts.add(result["captions"][0]["text"])
    assert len(texts) > 10, "too few distinct captions"
    assert shared.service.pending.taken == shared.service.receiving.taken == 0


def test_reranked_requests_in_one_batch_equal_those_of_the_captioner_alone(
    start: Start, indexed_run: Path, images: list[str]
) -> None:
    served = TrainedCaptioner.load(indexed_run, "cpu")
    choices: tuple[dict[str, Any], ...] = (
        {"rerank": "consensus"},
        {"rerank": "consensus", "rerank_neighbours": 1, "num_return_sequences": 4},
        {"rerank": "mbr", "attention": True},
        {"strategy": "beam", "beam_size": 4},
    )
    jobs = [(Path(image).read_bytes(), choice) for image in images[:8] for choice in choices]
    with start(served=served, max_wait=0.2).client() as client, ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(lambda job: client.post("/v1/caption", **upload(job[0], **job[1])), jobs))
    texts: dict[str, list[str]] = {}
    for (content, fields), answer in zip(jobs, answers, strict=True):
        assert answer.status_code == 200, answer.text
        assert answer.json()["options"]["strategy"] == "beam"
        options = changed_decoding(
            served.defaults, {name: value for name, value in fields.items() if name != "attention"}
        )
        caption = served.caption(ImageBytes("0.png", content), options, attention="attention" in fields)
        (result,) = answer.json()["results"]
        for found, wanted in zip(result["captions"], (caption, *caption.alternatives), strict=True):
            assert_equals(found, wanted)
        texts.setdefault(fields.get("rerank", "none"), []).append(caption.text)
    assert texts["consensus"][::2] != texts["none"], "the same captions would prove nothing"


def test_response_contains_image_size_and_options(shared: Running, captioner: TrainedCaptioner) -> None:
    with shared.client() as client:
        answer = client.post("/v1/caption", **upload(encoded(1, "JPEG"), strategy="beam", beam_size=2)).json()
    assert answer["model"] == captioner.run.folder.name
    assert answer["options"]["strategy"] == "beam"
    assert answer["options"]["beam_size"] == 2
    assert answer["options"]["max_length"] == 8  # the longest training caption
    (result,) = answer["results"]
    assert {key: result[key] for key in ("name", "width", "height", "grid", "error")} == {
        "name": "0.png", "width": 60, "height": 40, "grid": [2, 2], "error": None,
    }  # fmt: skip
    assert result["frame"] == {"left": 0, "top": 0, "width": 1, "height": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beam_size": 3}, "beam_size is read by strategy beam only; the strategy is greedy"),
        ({"strategy": "best"}, "strategy is 'best'; choose one of greedy, sample, beam"),
        ({"strategy": "beam", "beam_size": 11}, "beam_size is 11; it must be at most 10"),
        ({"strategy": "beam", "beam_size": "many"}, "beam_size must be a whole number, not 'many'"),
        (
            {"strategy": "beam", "num_return_sequences": 5},
            "num_return_sequences is 5, but a beam of 3 ends in as many at most",
        ),
        ({"strategy": "sample", "temperature": "nan"}, "temperature is nan; it must be finite"),
        ({"strategy": "sample", "temperature": "1e999"}, "temperature is 1e999; it must be finite"),
        ({"beem": 3}, "unknown field 'beem'; known are prompt, attention, top_tokens"),
        ({"max_length": [3, 4]}, "'max_length' is given twice"),
        ({"max_length": "9" * 3000}, "max_length is 999"),
        ({"bad_words": ["x" * 61]}, "bad_words: string should have at most 60 characters"),
        ({"bad_words": ["x"] * 11}, "bad_words: tuple should have at most 10 items"),
        ({"strategy": "beam", "force_words": ["purpel"]}, "'purpel' is not in the vocabulary"),
        (
            {"strategy": "beam", "force_words": ["red red red red red", "blue blue blue blue"]},
            "force_words has 9 words",
        ),
        (
            {"strategy": "beam", "force_words": ["red red red red red red red red"], "max_length": 7},
            "above max_length, 7",
        ),
        ({"top_tokens": 11}, "top_tokens is 11; it must be at most 10"),
        ({"rerank": "mbr", "strategy": "greedy"}, "rerank is read by strategy beam only; the strategy is greedy"),
        ({"rerank": "mbr", "rerank_candidates": 11}, "rerank_candidates is 11; it must be at most 10"),
        ({"rerank": "mbr", "rerank_neighbours": 5}, "rerank_neighbours is read by rerank consensus only"),
        ({"rerank": "consensus"}, "rerank is consensus, but run has no index of training images"),
    ],
)
def test_invalid_options_are_reported_in_one_line(shared: Running, fields: dict[str, Any], message: str) -> None:
    with shared.client() as client:
        answer = client.post("/v1/caption", **upload(encoded(0), **fields))
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid_options"
    assert message in error["message"]
    assert "\n" not in error["message"]


def test_an_unreadable_image_does_not_affect_the_others(shared: Running, captioner: TrainedCaptioner) -> None:
    with shared.client() as client:
        answer = client.post("/v1/caption", **upload(encoded(3), b"no image", encoded(4)))
        alone = client.post("/v1/caption", **upload(b"", b"no image"))
    assert answer.status_code == 200
    good, bad, other = answer.json()["results"]
    assert (bad["captions"], bad["error"]["code"]) == ([], "unreadable_image")
    assert bad["error"]["message"].startswith("1.png: not an image of a known format (JPEG, PNG")
    assert_same_captions(good, captioner, encoded(3), {})
    assert_same_captions(other, captioner, encoded(4), {})
    assert (alone.status_code, alone.json()["error"]["code"]) == (422, "unreadable_image")
    assert alone.json()["error"]["message"].startswith("0.png: the file is empty")


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("POST", "/v1/caption", "application/json", 415),
        ("POST", "/v1/caption", "multipart/form-data", 400),
        ("POST", "/v1/caption", "multipart/form-data; boundary=b", 400),
        ("GET", "/v1/caption", "", 405),
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/nothing", "", 404),
        ("GET", "/../../etc/passwd", "", 404),
        ("DELETE", "/", "", 405),
    ],
)
def test_other_requests_get_errors_of_the_same_form(
    shared: Running, method: str, path: str, kind: str, status: int
) -> None:
    with shared.client() as client:
        answer = client.request(method, path, content=b"{}", headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message"}


def test_too_large_requests_are_rejected(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 3_000_000)
    monkeypatch.setattr(limits, "MAX_BODY_BYTES", 5_000_000)
    monkeypatch.setattr(limits, "MAX_DRAINED_BYTES", 8_000_000)
    server = start()
    with server.client() as client:
        big = client.post("/v1/caption", **upload(encoded(0) + bytes(3_000_000), encoded(1)))
        assert [bool(result["error"]) for result in big.json()["results"]] == [True, False]
        assert "3 MB, more than the 3 allowed" in big.json()["results"][0]["error"]["message"]
        alone = client.post("/v1/caption", **upload(encoded(0) + bytes(3_000_000)))
        assert (alone.status_code, alone.json()["error"]["code"]) == (413, "too_large")
        body = client.post("/v1/caption", **upload(bytes(7_000_000)))
        assert (body.status_code, body.json()["error"]["code"]) == (413, "too_large")
        many = client.post("/v1/caption", **upload(*[encoded(0)] * (limits.MAX_IMAGES + 1)))
        assert many.status_code == 400
        assert "Maximum number of files is 16" in many.json()["error"]["message"]
        field = client.post("/v1/caption", **upload(encoded(0), bad_words="x" * 5000))
        assert field.status_code == 400
        assert client.post("/v1/caption", **upload(encoded(0))).status_code == 200


def test_a_key_is_required_by_the_api_only(start: Start) -> None:
    server = start(api_key="sesame")
    with server.client() as client:
        for sent in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}, {"Authorization": "ö"}):
            headers = [(name.encode(), value.encode()) for name, value in sent.items()]
            answer = client.post("/v1/caption", headers=headers, **upload(encoded(0)))
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert client.get("/v1/models", headers=headers).status_code == 401
        good = {"Authorization": "Bearer sesame"}
        assert client.post("/v1/caption", headers=good, **upload(encoded(0))).status_code == 200
        assert client.get("/v1/models", headers=good).status_code == 200
        assert [client.get(path).status_code for path in ("/", "/healthz", "/readyz", "/metrics")] == [200] * 4


def test_models_describes_the_served_model(shared: Running, captioner: TrainedCaptioner) -> None:
    with shared.client() as client:
        (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == captioner.run.folder.name
    assert (model["decoder"], model["encoder"], model["grid"]) == ("attention", "test_resnet", [2, 2])
    assert model["attention"] is True
    assert model["vocabulary"] == len(captioner.run.tokenizer)
    assert model["options"]["max_length"] == 8
    assert model["limits"]["images"] == limits.MAX_IMAGES


def test_a_model_is_described_by_its_name(shared: Running, captioner: TrainedCaptioner, start: Start) -> None:
    # Bug: there was no such route, with which clients of OpenAI's protocol check their model.
    with shared.client() as client:
        found = client.get(f"/v1/models/{captioner.name}").json()
        assert found == client.get("/v1/models").json()["data"][0]
        other = client.get("/v1/models/ada/garden")
    assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found")
    with start(api_key="sesame").client() as client:
        assert client.get(f"/v1/models/{captioner.name}").status_code == 401


def test_head_is_answered_as_get_without_a_body(shared: Running) -> None:
    # Bug: monitors that send HEAD got status 405.
    with shared.client() as client:
        for path in ("/", "/app.js", "/healthz", "/readyz", "/metrics"):
            answer = client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["content-type"] == client.get(path).headers["content-type"]
        assert client.head("/nothing").status_code == 404


def test_metrics_count_requests_and_images(start: Start) -> None:
    server = start()
    with server.client() as client:
        client.post("/v1/caption", **upload(encoded(0), encoded(1), b"bad"))
        client.get("/nothing-1")
        client.get("/nothing-2")
        text = client.get("/metrics").text
    assert 'seesay_requests_total{route="/v1/caption",status="200"} 1.0' in text
    assert 'seesay_images_total{outcome="captioned"} 2.0' in text
    assert 'seesay_images_total{outcome="unreadable_image"} 1.0' in text
    assert 'seesay_requests_total{route="/{name}",status="404"} 2.0' in text
    assert "seesay_pending_images 0.0" in text
    assert "nothing-1" not in text, "a client could create any number of series"


def test_log_lines_contain_the_request_but_no_names_or_captions(
    shared: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "seesay.serving"), shared.client() as client:
        first = client.post("/v1/caption", headers={"X-Request-ID": "mine-1"}, **upload(encoded(0)))
        other = client.get("/healthz", headers={"X-Request-ID": "not one\tword"})
    assert first.headers["x-request-id"] == "mine-1"
    assert other.headers["x-request-id"] not in ("", "not one\tword")
    from seesay.serving.telemetry import JsonFormatter

    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [(line["event"], line["route"], line["status"]) for line in lines] == [
        ("request", "/v1/caption", 200),
        ("request", "/healthz", 200),
    ]
    assert lines[0]["id"] == "mine-1"
    assert lines[0]["images"] == 1
    assert lines[0]["bytes"] > len(encoded(0))
    text = first.json()["results"][0]["captions"][0]["text"]
    assert not any(text in json.dumps(line) or "0.png" in json.dumps(line) for line in lines)


def test_an_internal_error_is_a_response_without_traceback(
    start: Start, captioner: TrainedCaptioner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    monkeypatch.setattr(captioner, "prepare", lambda image: 1 // 0)
    with server.client() as client:
        answer = client.post("/v1/caption", **upload(encoded(0)))
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal"
        assert "Error" not in answer.text
        monkeypatch.undo()
        assert client.post("/v1/caption", **upload(encoded(0))).status_code == 200
    failed = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failed) == 1
    assert failed[0].exc_info is not None


def test_security_headers_are_on_every_response(shared: Running) -> None:
    with shared.client() as client:
        for path in ("/", "/app.js", "/healthz", "/nothing"):
            headers = client.get(path).headers
            policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["connect-src"] == policy["script-src"] == "'self'"
            assert headers["x-content-type-options"] == "nosniff"
        first = client.get("/app.js")
        assert client.get("/app.js", headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_an_ensemble_can_be_served(captioner: TrainedCaptioner) -> None:
    from seesay.captioners.ensemble import EnsembleCaptioner

    both = EnsembleCaptioner([captioner, captioner])
    with running(create_app(both), Limits()) as server, server.client() as client:
        answer = client.post("/v1/caption", **upload(encoded(2), attention=True)).json()
        assert answer["model"] == "run+run"
        assert_same_captions(answer["results"][0], both, encoded(2), {"attention": True})
