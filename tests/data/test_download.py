"""Downloads from a test server, with archives in the layout of the public ones."""

import hashlib
import http.server
import io
import json
import stat
import struct
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seesay.data.annotations import load_annotations
from seesay.data.download import DATASETS, Archive, PublicDataset, download_dataset
from seesay.data.unpacking import BadArchiveError, unpack
from seesay.errors import DataError, DownloadError


@dataclass
class Server:
    """A web server of files in memory with configurable failures.

    Attributes:
        files: Content by path.
        url: Base URL.
        requests: Path and Range header of every request.
        ranges: Support Range headers.
        break_after: Numbers of bytes after which to close the connection, one per response.
        status: Status codes of the first responses.
        retry_after: Retry-After header of these responses.
        lengths: Send Content-Length.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    retry_after: str = ""
    lengths: bool = True


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.requests.append((self.path, wanted))
            if state.status:
                self.send_response(state.status.pop(0))
                self.send_header("Content-Length", "0")
                if state.retry_after:
                    self.send_header("Retry-After", state.retry_after)
                self.end_headers()
                return
            if self.path not in state.files:
                self.send_error(404)
                return
            content = state.files[self.path]
            etag = f'"{hashlib.md5(content).hexdigest()}"'
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if not state.ranges or self.headers.get("If-Range", etag) != etag:
                start = 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if state.lengths:
                self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", etag)
            self.end_headers()
            stop = start + state.break_after.pop(0) if state.break_after else len(content)
            self.wfile.write(content[start:stop])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()


def make_zip(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


TEXT = make_zip(
    {
        "Flickr8k.token.txt": b"1.jpg#0\tA dog runs .\n2.jpg#0\tTwo men .\n",
        "Flickr8k.lemma.token.txt": b"1.jpg#0\ta dog run .\n2.jpg#0\ttwo man .\n",
        "Flickr_8k.trainImages.txt": b"1.jpg\n",
        "Flickr_8k.devImages.txt": b"2.jpg\n",
        "Flickr_8k.testImages.txt": b"",
        "CrowdFlowerAnnotations.txt": b"1.jpg\t2.jpg#0\t1\t3\t0\n",
        "ExpertAnnotations.txt": b"1.jpg\t2.jpg#0\t1\t1\t2\n",
        "readme.txt": b"If you publish work based on, or use, this corpus, please cite it.\n",
        "__MACOSX/._readme.txt": b"metadata",
    }
)
IMAGES = make_zip(
    {
        "Flicker8k_Dataset/": b"",
        "Flicker8k_Dataset/1.jpg": bytes(range(256)) * 40,
        "Flicker8k_Dataset/2.jpg": bytes(range(255, -1, -1)) * 40,
        "__MACOSX/": b"",
        "__MACOSX/Flicker8k_Dataset/._1.jpg": b"metadata",
    },
    zipfile.ZIP_STORED,
)


@pytest.fixture
def flickr8k(server: Server) -> Server:
    server.files = {"/Flickr8k_text.zip": TEXT, "/Flickr8k_Dataset.zip": IMAGES}
    return server


def fetch(server: Server, folder: Path, name: str = "flickr8k", **options: Any) -> Path:
    return download_dataset(name, folder, base_url=server.url, retry_delay=0.0, **options)


def test_flickr8k_is_downloaded_unpacked_recorded_and_loaded(flickr8k: Server, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    folder = fetch(flickr8k, tmp_path / "data", progress=lambda *step: steps.append(step))
    annotations = load_annotations(folder)
    assert {item.id: item.split for item in annotations} == {"1.jpg": "train", "2.jpg": "val"}
    assert annotations.problems == ()
    assert not (folder / "__MACOSX").exists()
    assert not list(folder.glob("*.zip*"))
    record = json.loads((folder / "downloads.json").read_text())
    assert record["Flickr8k_text.zip"]["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert record["Flickr8k_Dataset.zip"]["bytes"] == len(IMAGES)
    assert record["Flickr8k_Dataset.zip"]["url"] == f"{flickr8k.url}/Flickr8k_Dataset.zip"
    assert ("Flickr8k_Dataset.zip", len(IMAGES), len(IMAGES)) in steps
    assert ("unpacking Flickr8k_Dataset.zip", 20480, 20480) in steps


def test_a_second_call_downloads_only_archives_whose_files_are_missing(flickr8k: Server, tmp_path: Path) -> None:
    fetch(flickr8k, tmp_path)
    flickr8k.requests.clear()
    fetch(flickr8k, tmp_path)
    assert flickr8k.requests == []
    (tmp_path / "Flickr8k.token.txt").unlink()
    fetch(flickr8k, tmp_path, keep_archives=True)
    assert [path for path, _ in flickr8k.requests] == ["/Flickr8k_text.zip"]
    assert (tmp_path / "Flickr8k_text.zip").read_bytes() == TEXT


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_paths_and_only_the_captions_of_its_annotations(server: Server, tmp_path: Path, year: str) -> None:
    captions, zips = {}, {}
    for number, split in enumerate(("train", "val")):
        name = f"{split}{year}"
        content = {
            "images": [{"id": number, "file_name": f"{number}.jpg"}],
            "annotations": [{"image_id": number, "id": 1, "caption": "A dog"}],
        }
        captions[f"annotations/captions_{name}.json"] = json.dumps(content).encode()
        captions[f"annotations/instances_{name}.json"] = b"{}"
        zips[f"/zips/{name}.zip"] = make_zip({f"{name}/{number}.jpg": b"image"})
    server.files = {f"/annotations/annotations_trainval{year}.zip": make_zip(captions), **zips}
    # The published sizes are those of the real archives.
    published = DATASETS[f"coco{year}"]
    small = PublicDataset("", tuple(Archive(one.path, only=one.only) for one in published.archives))
    folder = fetch(server, tmp_path, "small", datasets={"small": small})
    assert {item.id: item.split for item in load_annotations(folder)} == {"0": "train", "1": "val"}
    assert sorted(path.name for path in (folder / "annotations").iterdir()) == [
        f"captions_train{year}.json",
        f"captions_val{year}.json",
    ]


def test_published_sizes() -> None:
    sizes = {one.name: one.size for dataset in DATASETS.values() for one in dataset.archives}
    assert sizes["annotations_trainval2014.zip"] == 252872794
    assert sizes["train2014.zip"] == 13510573713


def test_broken_connections_resume_where_they_stopped(flickr8k: Server, tmp_path: Path) -> None:
    flickr8k.break_after = [100, 1000, 5000, 4000, 3]
    fetch(flickr8k, tmp_path)
    assert flickr8k.requests[:3] == [
        ("/Flickr8k_text.zip", ""),
        ("/Flickr8k_text.zip", "bytes=100-"),
        ("/Flickr8k_text.zip", "bytes=1100-"),
    ]
    assert (tmp_path / "Flicker8k_Dataset/1.jpg").read_bytes() == bytes(range(256)) * 40


def test_the_next_call_resumes_a_killed_download(flickr8k: Server, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(step: str, done: int, total: int | None) -> None:
        if step == "Flickr8k_Dataset.zip":
            raise Killed

    flickr8k.break_after = [len(TEXT), 7000]
    with pytest.raises(Killed):
        fetch(flickr8k, tmp_path, progress=kill)
    received = (tmp_path / "Flickr8k_Dataset.zip.part").stat().st_size
    assert 0 < received < len(IMAGES)
    flickr8k.requests.clear()
    fetch(flickr8k, tmp_path)
    assert flickr8k.requests == [("/Flickr8k_Dataset.zip", f"bytes={received}-")]
    assert len(load_annotations(tmp_path)) == 2


def test_the_next_call_resumes_killed_unpacking(flickr8k: Server, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(step: str, done: int, total: int | None) -> None:
        if step.startswith("unpacking Flickr8k_Dataset"):
            raise Killed

    with pytest.raises(Killed):
        fetch(flickr8k, tmp_path, progress=kill)
    assert (tmp_path / "Flicker8k_Dataset/1.jpg").exists()
    assert not (tmp_path / "Flicker8k_Dataset/2.jpg").exists()
    (tmp_path / "Flicker8k_Dataset/2.jpg.part").write_bytes(b"half")
    flickr8k.requests.clear()
    fetch(flickr8k, tmp_path)
    assert flickr8k.requests == []
    assert sorted(path.name for path in (tmp_path / "Flicker8k_Dataset").iterdir()) == ["1.jpg", "2.jpg"]


def test_a_complete_partial_file_is_used(flickr8k: Server, tmp_path: Path) -> None:
    (tmp_path / "Flickr8k_Dataset.zip.part").write_bytes(IMAGES)
    fetch(flickr8k, tmp_path)
    assert ("/Flickr8k_Dataset.zip", f"bytes={len(IMAGES)}-") in flickr8k.requests
    assert len(load_annotations(tmp_path)) == 2


def test_a_partial_file_longer_than_the_file_is_downloaded_again(flickr8k: Server, tmp_path: Path) -> None:
    (tmp_path / "Flickr8k_Dataset.zip.part").write_bytes(IMAGES + b"more")
    fetch(flickr8k, tmp_path)
    assert len(load_annotations(tmp_path)) == 2


def test_a_server_without_ranges_restarts_the_file(flickr8k: Server, tmp_path: Path) -> None:
    flickr8k.ranges = False
    (tmp_path / "Flickr8k_Dataset.zip.part").write_bytes(b"x" * 500)
    fetch(flickr8k, tmp_path)
    assert len(load_annotations(tmp_path)) == 2


def test_two_versions_are_never_joined(flickr8k: Server, tmp_path: Path) -> None:
    flickr8k.break_after = [len(TEXT), 5000]
    flickr8k.status = []
    old = flickr8k.files["/Flickr8k_Dataset.zip"]

    def swap(step: str, done: int, total: int | None) -> None:
        if step == "Flickr8k_Dataset.zip" and flickr8k.files["/Flickr8k_Dataset.zip"] is old:
            flickr8k.files["/Flickr8k_Dataset.zip"] = make_zip(
                {"Flicker8k_Dataset/1.jpg": b"new" * 9000, "Flicker8k_Dataset/2.jpg": b"new"},
                zipfile.ZIP_STORED,
            )

    fetch(flickr8k, tmp_path, progress=swap)
    assert (tmp_path / "Flicker8k_Dataset/1.jpg").read_bytes() == b"new" * 9000


def test_a_response_without_a_length_is_read_to_its_end(flickr8k: Server, tmp_path: Path) -> None:
    flickr8k.lengths = False
    fetch(flickr8k, tmp_path)
    assert len(load_annotations(tmp_path)) == 2


def test_busy_servers_are_retried(flickr8k: Server, tmp_path: Path) -> None:
    flickr8k.status = [503, 429, 500]
    fetch(flickr8k, tmp_path)
    assert len(load_annotations(tmp_path)) == 2


def test_retry_after_sets_the_delay(flickr8k: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("seesay.data.transfer.time.sleep", waits.append)
    flickr8k.status, flickr8k.retry_after = [503, 429], "9"
    fetch(flickr8k, tmp_path)
    assert waits == [9, 9]


def test_an_existing_archive_is_used_and_kept(flickr8k: Server, tmp_path: Path) -> None:
    # Bug: an archive provided by the user was deleted after unpacking.
    (tmp_path / "Flickr8k_text.zip").write_bytes(TEXT)
    for _ in range(2):
        fetch(flickr8k, tmp_path)
    assert [path for path, _ in flickr8k.requests] == ["/Flickr8k_Dataset.zip"]
    assert [path.name for path in tmp_path.glob("*.zip")] == ["Flickr8k_text.zip"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "Flickr8k_text.zip").write_bytes(b"no zip")
    with pytest.raises(DownloadError, match="it was not downloaded by seesay; remove it"):
        fetch(flickr8k, tmp_path / "other")
    assert (tmp_path / "other" / "Flickr8k_text.zip").read_bytes() == b"no zip"


def test_existing_files_that_differ_from_the_archive_are_not_replaced(flickr8k: Server, tmp_path: Path) -> None:
    (tmp_path / "Flickr8k.token.txt").write_text("my own captions")
    with pytest.raises(DownloadError, match=r"Flickr8k\.token\.txt exists and differs"):
        fetch(flickr8k, tmp_path)
    assert (tmp_path / "Flickr8k.token.txt").read_text() == "my own captions"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "downloads.json").write_text("[]")
    with pytest.raises(DataError, match=r"downloads\.json exists and is not a download record"):
        fetch(flickr8k, tmp_path / "foreign")


def test_a_missing_file_is_an_error_without_retries(flickr8k: Server, tmp_path: Path) -> None:
    del flickr8k.files["/Flickr8k_Dataset.zip"]
    with pytest.raises(DownloadError, match=r"Flickr8k_Dataset.zip: the server returned 404"):
        fetch(flickr8k, tmp_path)
    assert len(flickr8k.requests) == 2


def test_retries_end_and_received_data_is_kept(flickr8k: Server, tmp_path: Path) -> None:
    flickr8k.break_after = [200] + [0] * 20
    with pytest.raises(DownloadError, match="200 bytes are kept, run the command again to resume"):
        fetch(flickr8k, tmp_path)
    assert (tmp_path / "Flickr8k_text.zip.part").stat().st_size == 200


def test_no_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="run the command again"):
        download_dataset("flickr8k", tmp_path, base_url="http://127.0.0.1:9", retry_delay=0.0)


def published(size: int | None = None, sha256: str | None = None) -> dict[str, PublicDataset]:
    return {"one": PublicDataset("", (Archive("Flickr8k_text.zip", size, sha256),))}


def test_a_size_other_than_published_is_refused(flickr8k: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=rf"has {len(TEXT):,} bytes, not {len(TEXT) + 1:,}"):
        fetch(flickr8k, tmp_path, "one", datasets=published(len(TEXT) + 1))
    assert not list(tmp_path.iterdir())
    fetch(flickr8k, tmp_path, "one", datasets=published(len(TEXT)))


def test_more_bytes_than_published_without_a_length_are_refused(flickr8k: Server, tmp_path: Path) -> None:
    flickr8k.lengths = False
    with pytest.raises(DownloadError, match="has more than 100 bytes"):
        fetch(flickr8k, tmp_path, "one", datasets=published(100))


def test_a_digest_other_than_published_is_refused(flickr8k: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"digest .* it was removed"):
        fetch(flickr8k, tmp_path, "one", datasets=published(sha256="0" * 64))
    assert not (tmp_path / "Flickr8k.token.txt").exists()
    assert not list(tmp_path.glob("*.zip*"))
    fetch(flickr8k, tmp_path, "one", datasets=published(sha256=hashlib.sha256(TEXT).hexdigest()))


@pytest.mark.parametrize("content", [b"<html>please log in</html>", TEXT[:-30], b""])
def test_a_file_that_is_not_a_zip_is_removed(flickr8k: Server, tmp_path: Path, content: bytes) -> None:
    flickr8k.files["/Flickr8k_text.zip"] = content
    with pytest.raises(DownloadError, match="run the command again"):
        fetch(flickr8k, tmp_path)
    flickr8k.files["/Flickr8k_text.zip"] = TEXT
    fetch(flickr8k, tmp_path)
    assert len(load_annotations(tmp_path)) == 2


def test_a_flipped_byte_fails_the_checksum(flickr8k: Server, tmp_path: Path) -> None:
    bad = bytearray(IMAGES)
    bad[IMAGES.index(bytes(range(100)))] ^= 1
    flickr8k.files["/Flickr8k_Dataset.zip"] = bytes(bad)
    with pytest.raises(DownloadError, match=r"is damaged .*CRC.* it was removed"):
        fetch(flickr8k, tmp_path)
    assert not (tmp_path / "Flicker8k_Dataset/1.jpg").exists()


def test_invalid_names_and_urls(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"'coco'; choose one of flickr8k, coco2014, coco2017"):
        download_dataset("coco", tmp_path)
    with pytest.raises(DownloadError, match="not an http"):
        download_dataset("flickr8k", tmp_path, base_url="file:///etc")
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="cannot be written"):
        download_dataset("flickr8k", tmp_path / "file", base_url="http://127.0.0.1:9")


# Unpacking


def write(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(make_zip(members))
    return path


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "C:/evil.txt", "..\\evil.txt"])
def test_members_outside_the_folder_are_refused_before_writing(tmp_path: Path, name: str) -> None:
    archive = write(tmp_path / "x.zip", {"good.txt": b"good", name: b"evil"})
    with pytest.raises(BadArchiveError, match="outside its folder"):
        unpack(archive, tmp_path / "in/side")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    member = zipfile.ZipInfo("link")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(BadArchiveError, match="link or device"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_bomb_is_refused_before_writing(tmp_path: Path) -> None:
    archive = write(tmp_path / "x.zip", {"zeros": b"\0" * 3_000_000})
    with pytest.raises(BadArchiveError, match="would unpack to 3,000,000 bytes"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_with_wrong_sizes_writes_no_more_than_stated(tmp_path: Path) -> None:
    raw = make_zip({"zeros": b"\0" * 3_000_000})
    forged = raw.replace(struct.pack("<I", 3_000_000), struct.pack("<I", 1000))
    (tmp_path / "x.zip").write_bytes(forged)
    with pytest.raises(BadArchiveError, match="damaged"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert all(path.stat().st_size <= 1000 for path in (tmp_path / "out").rglob("*"))


def test_too_little_disk_space_is_an_error_and_the_archive_is_kept(
    flickr8k: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("seesay.data.unpacking.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
        with pytest.raises(DownloadError, match="has 10 bytes free"):
            fetch(flickr8k, tmp_path)
    assert (tmp_path / "Flickr8k_text.zip").exists()
    flickr8k.requests.clear()
    fetch(flickr8k, tmp_path)
    assert [path for path, _ in flickr8k.requests] == ["/Flickr8k_Dataset.zip"]
