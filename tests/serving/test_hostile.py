"""Hostile uploads and clients: they get an error, and the next valid request is served."""

import logging
import random
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from seesay.captioners.trained import TrainedCaptioner
from seesay.serving import limits
from seesay.serving.limits import Limits
from seesay.serving.uploads import display_name
from tests import tiny
from tests.serving.conftest import Gate, Start
from tests.serving.hostile import Upload, uploads
from tests.serving.servers import PATIENCE, Running, encoded, raw_request, upload, wait_until

GOOD = encoded(0)


def send(client: httpx.Client, *files: Upload, **fields: Any) -> httpx.Response:
    parts = [("images", (each.name or " ", each.content)) for each in files]
    return client.post("/v1/caption", files=parts, data=fields)


def assert_served(client: httpx.Client) -> None:
    answer = client.post("/v1/caption", **upload(GOOD))
    assert answer.status_code == 200, answer.text


def assert_handled(answer: httpx.Response, *files: Upload) -> None:
    """Each file has either captions or an error message of one line."""
    kinds = [each.kind for each in files]
    assert answer.status_code in (200, 400, 413, 422), (kinds, answer.text)
    if answer.status_code == 200:
        results = answer.json()["results"]
    else:
        results = [{"captions": [], "error": answer.json()["error"], "name": ""}]
        assert not any(each.good for each in files), (kinds, answer.text)
    for file, entry in zip(files, results, strict=False):
        if file.good is not None and answer.status_code == 200:
            assert bool(entry["captions"]) == file.good, (file.kind, entry)
        assert bool(entry["captions"]) != bool(entry["error"])
        message = entry["error"]["message"] if entry["error"] else ""
        assert len(message.splitlines()) <= 1
        assert "Traceback" not in message
        assert len(entry["name"]) <= limits.MAX_NAME_CHARACTERS


def test_hostile_uploads_get_an_error_of_one_line_and_the_next_is_served(
    shared: Running, caplog: pytest.LogCaptureFixture
) -> None:
    files = list(uploads(seed=1, count=120))
    with shared.client() as client, caplog.at_level(logging.WARNING):
        for start in range(0, len(files), 6):
            batch = files[start : start + 6]
            assert_handled(send(client, *batch), *batch)
        for file in files[:20]:
            assert_handled(send(client, file), file)
        assert_served(client)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert shared.service.pending.taken == shared.service.receiving.taken == 0


FORMS = {
    "no end": b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nabc',
    "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--b--\r\n",
    "no headers": b"--b\r\n\r\nabc\r\n--b--\r\n",
    "only the end": b"--b--\r\n",
    "another boundary": b'--c\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nabc\r\n--c--\r\n',
    "a name of 5,000 letters": b'--b\r\nContent-Disposition: form-data; name="images"; filename="'
    + b"a" * 5_000
    + b'"\r\n\r\nabc\r\n--b--\r\n',
    "noise": bytes(range(256)) * 20,
    "a header of a megabyte": b"--b\r\nContent-Disposition: " + b"a" * 1_000_000 + b"\r\n\r\nabc\r\n--b--\r\n",
    "many headers": b"--b\r\n" + b"X: y\r\n" * 20_000 + b"\r\nabc\r\n--b--\r\n",
    "many fields": b"".join(
        b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % number for number in range(5_000)
    )
    + b"--b--\r\n",
    "a name of noise": b'--b\r\nContent-Disposition: form-data; name="\xff\xfe\x00"\r\n\r\nabc\r\n--b--\r\n',
    "a field of noise": b'--b\r\nContent-Disposition: form-data; name="bad_words"\r\n\r\n\xff\xfe\x00\x80\r\n--b--\r\n',
    "a field called images": b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\nabc\r\n--b--\r\n',
    "a file called ban": b'--b\r\nContent-Disposition: form-data; name="bad_words"; filename="a"\r\n\r\nx\r\n--b--\r\n',
}


@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile")  # Starlette does not close a part without an end
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("charset", ["", "; charset=utf-7", "; charset=nothing"])
def test_malformed_forms_are_rejected(shared: Running, kind: str, charset: str) -> None:
    with shared.client() as client:
        headers = {"Content-Type": f"multipart/form-data; boundary=b{charset}"}
        answer = client.post("/v1/caption", content=FORMS[kind], headers=headers)
        assert answer.status_code in (400, 422), answer.text
        assert len(answer.json()["error"]["message"].splitlines()) == 1
        assert_served(client)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\images\\a.png", "a.png"),
        ("a\nb\x00\u2028c.png", "a b c.png"),
        ("", "image 1"),
        ("/", "image 1"),
        ("x" * 500 + ".png", "x" * 96 + ".png"),
        ("bild ü 猫.png", "bild ü 猫.png"),
    ],
)
def test_display_names_are_one_short_line(name: str, shown: str) -> None:
    assert display_name(name, 0) == shown


# Clients.


def test_a_full_queue_rejects_requests_with_retry_after(start: Start, gate: Callable[[], Gate]) -> None:
    server = start(max_pending=3, max_batch=1)
    blocked = gate()
    with server.client() as client, ThreadPoolExecutor(3) as pool:
        first = [pool.submit(client.post, "/v1/caption", **upload(GOOD)) for _ in range(2)]
        wait_until(lambda: server.service.pending.taken == 2)
        refused = client.post("/v1/caption", **upload(GOOD, GOOD))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/readyz").status_code == 200
        first.append(pool.submit(client.post, "/v1/caption", **upload(GOOD)))  # one place was free
        wait_until(lambda: server.service.pending.taken == 3)
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        blocked.open.set()
        assert [answer.result().status_code for answer in first] == [200] * 3
        assert server.service.pending.taken == 0
        assert_served(client)


def test_too_many_queued_bytes_reject_requests(
    start: Start, gate: Callable[[], Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_PENDING_BYTES", 2 * len(GOOD))
    server = start(max_batch=1)
    blocked = gate()
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/caption", **upload(GOOD, GOOD))
        wait_until(lambda: server.service.pending.taken == 2)
        assert client.post("/v1/caption", **upload(GOOD)).status_code == 503
        assert server.service.pending.taken == 2
        blocked.open.set()
        assert first.result().status_code == 200
        assert_served(client)


def test_a_disconnected_client_frees_its_place_and_its_images_are_dropped(
    start: Start, gate: Callable[[], Gate]
) -> None:
    server = start(max_pending=8, max_batch=1)
    blocked = gate()
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/caption", **upload(GOOD))
        assert blocked.reached.wait(PATIENCE)
        connections = []
        for _ in range(7):
            connections.append(server.open())
            connections[-1].sendall(b"".join(raw_request(GOOD)))
        wait_until(lambda: server.service.pending.taken == 8)
        wait_until(lambda: server.service._batcher.waiting == 7)
        assert client.post("/v1/caption", **upload(GOOD)).status_code == 503
        for number, connection in enumerate(connections):
            if number % 2:  # reset, not closed
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        wait_until(lambda: server.service.pending.taken == 1)
        assert server.service._batcher.waiting == 0
        blocked.open.set()
        assert first.result().status_code == 200
        assert_served(client)
    assert blocked.batches == [1, 1], "images of disconnected clients were captioned"


def test_slow_and_broken_bodies_occupy_no_place(start: Start) -> None:
    server = start(max_pending=1)
    head, body = raw_request(GOOD)
    slow = [server.open() for _ in range(20)]
    for connection in slow:
        connection.sendall(head + body[:40])
    wait_until(lambda: server.service.receiving.taken == 20)
    with server.client() as client:
        assert server.service.pending.taken == 0
        assert_served(client)
        for connection in slow[:10]:
            connection.close()
        wait_until(lambda: server.service.receiving.taken == 10)
        for connection in slow[10:]:  # served once complete
            connection.sendall(body[40:])
            assert connection.recv(12).startswith(b"HTTP/1.1 200")
            connection.close()
        assert_served(client)
    assert server.service.pending.taken == server.service.receiving.taken == 0


def test_a_body_that_arrives_too_slowly_is_rejected(start: Start) -> None:
    server = start(receive_seconds=0.2)
    head, body = raw_request(GOOD)
    with server.open() as connection:
        connection.sendall(head + body[:40])
        assert connection.recv(12).startswith(b"HTTP/1.1 408")
    assert server.service.receiving.taken == 0


def test_too_many_concurrent_bodies_are_rejected(start: Start) -> None:
    server = start(max_receiving=2)
    head, body = raw_request(GOOD)
    with server.client() as client, server.open() as one, server.open() as other:
        for connection in (one, other):
            connection.sendall(head + body[:40])
        wait_until(lambda: server.service.receiving.taken == 2)
        answer = client.post("/v1/caption", **upload(GOOD))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_timed_out_request_frees_its_place(start: Start, gate: Callable[[], Gate]) -> None:
    server = start(answer_seconds=0.3, max_batch=1)
    blocked = gate()
    with server.client() as client:
        answer = client.post("/v1/caption", **upload(GOOD))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        assert "retry-after" in answer.headers
        assert server.service.pending.taken == 0
        blocked.open.set()


def test_a_client_that_does_not_read_its_response_occupies_no_place(start: Start) -> None:
    server = start()
    head, body = raw_request(GOOD)
    silent = [server.open() for _ in range(5)]
    for connection in silent:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(head + body)
    counted = server.service.metrics.registry.get_sample_value
    wait_until(lambda: counted("seesay_images_total", {"outcome": "captioned"}) == 5)
    wait_until(lambda: server.service.pending.taken == 0)
    for connection in silent:
        connection.close()


def test_shutdown_finishes_accepted_requests(start: Start, gate: Callable[[], Gate]) -> None:
    server = start(max_batch=2)
    blocked = gate()
    with server.client() as client, ThreadPoolExecutor(9) as pool:
        responses: list[Future[httpx.Response]]
        responses = [pool.submit(client.post, "/v1/caption", **upload(encoded(seed))) for seed in range(9)]
        wait_until(lambda: server.service.pending.taken == 9)
        server.server.should_exit = True
        wait_until(lambda: not server.server.servers[0].is_serving())
        with pytest.raises(OSError):  # noqa: PT011  refused or reset, depending on the system
            server.open()
        time.sleep(0.2)
        assert server.thread.is_alive()
        blocked.open.set()
        assert [answer.result(PATIENCE).status_code for answer in responses] == [200] * 9
    server.thread.join(PATIENCE)
    assert not server.thread.is_alive()
    assert not server.service.alive


def test_an_image_that_breaks_the_encoder_does_not_affect_the_others(
    start: Start, captioner: TrainedCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    encode, bad = captioner.encode, captioner.prepare(tiny.image(1)).inputs[0].tobytes()

    def fragile(model_inputs: Any) -> Any:
        if any(view[0].tobytes() == bad for view in model_inputs):
            raise RuntimeError("out of memory")
        return encode(model_inputs)

    monkeypatch.setattr(captioner, "encode", fragile)
    with server.client() as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda seed: client.post("/v1/caption", **upload(encoded(seed))), range(6)))
        assert [answer.status_code for answer in answers] == [200, 500, 200, 200, 200, 200]
    monkeypatch.undo()


def test_bodies_truncated_anywhere_leave_no_place_occupied(start: Start) -> None:
    server = start()
    random_ = random.Random(0)
    head, body = raw_request(GOOD)
    for _ in range(40):
        with server.open() as connection:
            connection.sendall((head + body)[: random_.randrange(1, len(head + body))])
    with server.client() as client:
        assert_served(client)
    wait_until(lambda: server.service.receiving.taken == server.service.pending.taken == 0)


def test_the_documented_limits_are_the_real_ones() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    for value in (
        f"{limits.MAX_FILE_BYTES / 1e6:g} MB",
        f"{limits.MAX_PIXELS / 1e6:g} megapixels",
        f"{limits.MAX_BODY_BYTES / 1e6:g} MB",
        f"{limits.MAX_IMAGES} images",
        f"{limits.RECEIVE_SECONDS:g} s",
        f"{limits.ANSWER_SECONDS:g} s",
        f"{Limits().max_pending} images",
        f"{limits.MAX_PENDING_BYTES / 1e6:g} MB",
        ", ".join(limits.FORMATS),
    ):
        assert value in text, value
