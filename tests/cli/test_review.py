"""`seesay review` as a process: the address it prints, saving at the end, export, and its errors."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from seesay.cli.main import main
from seesay.data.annotations import load_annotations
from tests.review.conftest import folder as folder  # a fixture
from tests.review.conftest import read_rows, write_captions
from tests.serving.servers import PATIENCE


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["review", *map(str, arguments)])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize("conflict", [False, True])
def test_changes_are_saved_at_the_end(folder: Path, conflict: bool) -> None:
    path = folder / "captions.jsonl"
    command = [sys.executable, "-m", "seesay", "review", "captions.jsonl"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, text=True, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(
                r"seesay reviews captions\.jsonl at ((http://127\.0\.0\.1:\d+)/[\w-]{32}/)\n", process.stdout.readline()
            )
            assert found
            body = {"revision": 0, "rows": [1], "review": "accepted"}
            address = f"{found[1]}api/mark"
            reply = httpx.post(address, json=body, headers={"Origin": found[2]}, timeout=PATIENCE, trust_env=False)
            assert reply.status_code == 200
            if conflict:
                path.write_text("theirs")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    rescued = folder / "captions.unsaved.jsonl"
    if conflict:
        assert process.returncode == 2
        assert "was changed by another program" in errors
        assert path.read_text() == "theirs"
        assert read_rows(rescued)[0]["review"] == "accepted"
    else:
        assert process.returncode == 0
        assert read_rows(path)[1]["review"] == "accepted"
        assert not rescued.exists()


def test_accepted_captions_are_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = folder / "captions.jsonl", folder / "data.jsonl"
    code, _, err = run(capsys, path, "--export", out)
    assert (code, "no caption is accepted yet" in err) == (2, True)
    rows = [{**row, "review": "accepted"} for row in read_rows(path)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert run(capsys, path, "--export", out)[:2] == (0, f"{out}: images with accepted captions: 4\n")
    assert len(load_annotations(out)) == 4
    code, _, err = run(capsys, path, "--export", path)
    assert (code, "is an input" in err) == (2, True)
    assert run(capsys, path, "--export", folder / "data.csv")[0] == 2


def test_errors_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([folder / "nothing.jsonl"], "there is no"),
        ([folder], "--sidecar .txt"),
        ([folder / "captions.jsonl", "--port", "99999"], "choose another --port"),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert message in " ".join(err.split())
        assert "Traceback" not in err


def test_only_the_page_needs_the_extra(folder: Path) -> None:
    write_captions(folder / "captions.jsonl", {"images/image-000.png": "a dog"}, review="accepted")
    code = (
        "import sys; sys.modules |= dict.fromkeys(('fastapi', 'starlette', 'uvicorn')); "
        "from seesay.cli.main import main; sys.exit(main(['review', 'captions.jsonl', *sys.argv[1:]]))"
    )

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)

    assert start("--export", "data.jsonl").returncode == 0
    page = start()
    assert (page.returncode, "pip install 'seesay[serve]'" in page.stderr) == (2, True)
