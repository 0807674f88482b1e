"""The command `seesay serve`, from start to shutdown."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from seesay.captioners.trained import TrainedCaptioner
from seesay.cli import main as cli
from seesay.errors import SeesayError
from seesay.serving.server import address, listen
from tests import processes
from tests.serving.servers import PATIENCE, encoded, upload, wait_until


def serve_and_stop(run: str, port: int, results: str) -> None:
    """Serves until a thread of this process has sent requests and a signal; exits with the code plus 40."""

    def client() -> None:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as session:
            wait_until(lambda: is_ready(session))
            page = session.get("/").text
            # The key comes from the environment and is not written anywhere.
            rejected = session.post("/v1/caption", **upload(encoded(0))).status_code
            headers = {"Authorization": "Bearer sesame"}
            # Bug: the log had a warning with the words of `bad_words` that are not in the vocabulary.
            found = session.post("/v1/caption", headers=headers, **upload(encoded(0), bad_words="zyzzyva")).json()
        text = found["results"][0]["captions"][0]["text"]
        Path(results).write_text(json.dumps([text, rejected, "<title>seesay</title>" in page]))
        os.kill(os.getpid(), signal.SIGTERM)

    os.environ["SEESAY_API_KEY"] = "sesame"
    threading.Thread(target=client, daemon=True).start()
    with Path(f"{results}.out").open("w") as out, Path(f"{results}.err").open("w") as err:
        sys.stdout, sys.stderr = out, err
        code = cli.main(["serve", run, "--port", str(port), "--device", "cpu"])
    os._exit(code + 40)  # a code that no other exit has


def is_ready(session: httpx.Client) -> bool:
    try:
        return session.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, for a service in another process, which has `PATIENCE` to end."""
    monkeypatch.setattr(processes, "TIMEOUT", PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_the_command_serves_until_a_signal_and_exits_cleanly(cached_run: Path, tmp_path: Path, port: int) -> None:
    results = tmp_path / "results"
    assert processes.run(serve_and_stop, str(cached_run), port, str(results)) == 40
    text, rejected, page = json.loads(results.read_text())
    assert (rejected, page) == (401, True)
    assert text
    assert Path(f"{results}.out").read_text() == (
        f"seesay serves at http://127.0.0.1:{port} (requests need the API key)\n"
    )
    lines = [json.loads(line) for line in Path(f"{results}.err").read_text().splitlines()]
    *others, last = [line["event"] for line in lines if line["event"] != "request"]
    assert last == "stopped"
    assert all("native library" in event for event in others)  # reported where it was not built
    requests = [line for line in lines if line["event"] == "request" and line["route"] == "/v1/caption"]
    assert [(line["status"], line.get("code")) for line in requests] == [(401, "unauthorized"), (200, None)]
    assert not re.search("sesame|zyzzyva", Path(f"{results}.err").read_text())


def serve_and_interrupt_twice(run: str, port: int, errors: str) -> None:
    """Serves until a second Ctrl-C while an image is encoded; exits with the code plus 40."""
    encoding = threading.Event()

    def encode(*_: object) -> object:
        encoding.set()
        threading.Event().wait()
        raise AssertionError

    def post() -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"http://127.0.0.1:{port}/v1/caption", timeout=PATIENCE, trust_env=False, **upload(encoded(0)))

    def client() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as session:
            wait_until(lambda: is_ready(session))
        TrainedCaptioner.encode = encode  # type: ignore[method-assign, assignment]
        threading.Thread(target=post, daemon=True).start()
        encoding.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: not accepts(port))  # the first signal was handled
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=client, daemon=True).start()
    with Path(errors).open("w") as sys.stderr:
        code = cli.main(["serve", run, "--port", str(port), "--device", "cpu"])
    os._exit(code + 40)


def accepts(port: int) -> bool:
    with socket.socket() as other:
        return other.connect_ex(("127.0.0.1", port)) == 0


def test_a_second_interrupt_stops_at_once_and_is_logged_in_a_line(cached_run: Path, tmp_path: Path, port: int) -> None:
    # Bug: the log had a traceback at level error for every request in progress and for the lifespan of the app.
    errors = tmp_path / "errors"
    assert processes.run(serve_and_interrupt_twice, str(cached_run), port, str(errors)) == 40
    lines = [json.loads(line) for line in errors.read_text().splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert (lines[-1]["event"], lines[-1]["cancelled_requests"]) == ("stopped", 1)


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--port {port}", "cannot listen on 127.0.0.1:{port} (Address already in use); choose another"),
        ("--port 99999", "cannot listen on 127.0.0.1:99999"),
        ("--host 192.0.2.1 --port 0", "cannot listen on 192.0.2.1:0"),
        ("--host no.such.host.invalid --port 0", "cannot listen on no.such.host.invalid:0"),
        ("--max-batch 0", "--max-batch and --max-pending must be at least 1"),
        ("--max-wait -1", "--max-wait from 0 to 10 seconds"),
        ("--api-key-file {folder}/none", "--api-key-file {folder}/none cannot be read"),
        ("--api-key-file {folder}/empty", "--api-key-file {folder}/empty is empty"),
    ],
)
def test_invalid_flags_are_reported_in_one_line(
    cached_run: Path, tmp_path: Path, used_port: int, flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    names = {"port": used_port, "folder": tmp_path}
    code = cli.main(["serve", str(cached_run), *flags.format(**names).split()])
    error = capsys.readouterr().err
    assert code == 2
    assert len(error.splitlines()) == 1
    assert message.format(**names) in error


def test_an_empty_key_in_the_environment_is_refused(
    cached_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Bug: with SEESAY_API_KEY set to nothing, as by a failed substitution, the service started without authentication.
    monkeypatch.setenv("SEESAY_API_KEY", " ")
    assert cli.main(["serve", str(cached_run), "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith("seesay: error: SEESAY_API_KEY is empty; ")


def test_a_folder_that_is_no_run_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", str(tmp_path), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert str(tmp_path) in error


def test_address_is_a_url() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        other = listen("::1", 0)
    except SeesayError:
        pytest.skip("this machine has no IPv6")
    with other:
        assert address(other) == f"http://[::1]:{other.getsockname()[1]}"
