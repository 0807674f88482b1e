"""The command, from its start to a clean end."""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from seesay import cli
from seesay.errors import SeesayError
from seesay.serving.server import address, listen
from tests import processes
from tests.serving.servers import PATIENCE, encoded, upload, wait_until


def serve_and_end(run: str, port: int, told: str) -> None:
    """Serves until a thread of this process, which is a client first, sends a signal; exits with a code of its own."""

    def client() -> None:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as session:
            wait_until(lambda: answers(session))
            page = session.get("/").text
            # The key comes from the environment, and nothing of it is written anywhere.
            refused = session.post("/v1/caption", **upload(encoded(0))).status_code
            headers = {"Authorization": "Bearer sesame"}
            found = session.post("/v1/caption", headers=headers, **upload(encoded(0))).json()
        text = found["results"][0]["captions"][0]["text"]
        Path(told).write_text(json.dumps([text, refused, "<title>seesay</title>" in page]))
        os.kill(os.getpid(), signal.SIGTERM)

    os.environ["SEESAY_API_KEY"] = "sesame"
    threading.Thread(target=client, daemon=True).start()
    with Path(f"{told}.out").open("w") as out, Path(f"{told}.err").open("w") as err:
        sys.stdout, sys.stderr = out, err
        code = cli.main(["serve", run, "--port", str(port), "--device", "cpu"])
    os._exit(code + 40)  # so that no other way to end looks like this one


def answers(session: httpx.Client) -> bool:
    try:
        return session.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_command_serves_until_a_signal_and_ends_cleanly(
    cached_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TIMEOUT", PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = tmp_path / "told"
    assert processes.run(serve_and_end, str(cached_run), port, str(told)) == 40
    text, refused, page = json.loads(told.read_text())
    assert (refused, page) == (401, True)
    assert text
    assert Path(f"{told}.out").read_text() == f"seesay serves at http://127.0.0.1:{port}\n"
    lines = [json.loads(line) for line in Path(f"{told}.err").read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "request"] == ["stopped"]
    requests = [line for line in lines if line["event"] == "request" and line["route"] == "/v1/caption"]
    assert [line["status"] for line in requests] == [401, 200]
    assert "sesame" not in Path(f"{told}.err").read_text()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--port {taken}", "cannot listen on 127.0.0.1:{taken} (Address already in use); choose another"),
        ("--port 99999", "cannot listen on 127.0.0.1:99999"),
        ("--host 192.0.2.1 --port 0", "cannot listen on 192.0.2.1:0"),
        ("--host no.such.host.invalid --port 0", "cannot listen on no.such.host.invalid:0"),
        ("--max-batch 0", "--max-batch and --max-pending must be at least 1"),
        ("--max-wait -1", "--max-wait from 0 to 10 seconds"),
        ("--api-key-file {folder}/none", "--api-key-file {folder}/none cannot be read"),
        ("--api-key-file {folder}/empty", "--api-key-file {folder}/empty is empty"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    cached_run: Path, tmp_path: Path, taken: int, flags: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    names = {"taken": taken, "folder": tmp_path}
    code = cli.main(["serve", str(cached_run), *flags.format(**names).split()])
    error = capsys.readouterr().err
    assert code == 2
    assert len(error.splitlines()) == 1
    assert told.format(**names) in error


def test_a_run_that_is_none_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", str(tmp_path), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert str(tmp_path) in error


def test_an_address_is_written_as_a_browser_takes_it() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        other = listen("::1", 0)
    except SeesayError:
        pytest.skip("this machine has no IPv6")
    with other:
        assert address(other) == f"http://[::1]:{other.getsockname()[1]}"
