"""Caption files: written rows are read back, and only rows truncated by a kill are removed."""

import csv
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seesay.bulk.failures import Failures
from seesay.bulk.parquet_writer import ParquetWriter
from seesay.bulk.rows import plain, texts
from seesay.bulk.writers import CsvWriter, JsonlWriter, Writer
from seesay.errors import DataError, SeesayError
from seesay.files import append, only_writer, write_atomically
from tests.bulk import outputs

NAMES = [
    "a.jpg",
    "line\u2028separator.png",
    "next\x85line.png",
    "new\nline.png",
    "back\rwards.png",
    "\udcff.png",
    "日本.png",
    'a,"b.png',
]
WRITERS: dict[str, Callable[[Path, int], Writer]] = {
    "jsonl": lambda path, count: JsonlWriter(path / "c.jsonl", count, lambda _: True),
    "csv": lambda path, count: CsvWriter(path / "c.csv", count),
    "tsv": lambda path, count: CsvWriter(path / "c.tsv", count),
    "parquet": lambda path, count: ParquetWriter(path / "c.parquet", count, lambda _: True, part_rows=3),
}
every_format = pytest.mark.parametrize("format", WRITERS)


def opened(format: str, path: Path, num_captions: int = 1) -> tuple[Writer, set[str]]:
    output = WRITERS[format](path, num_captions)
    output.create()
    return output, output.open()


@every_format
class TestEveryFormat:
    def test_images_of_any_name_are_read_back_with_their_captions(self, format: str, tmp_path: Path) -> None:
        """Some names contain line separators, one is not UTF-8, and some need quoting."""
        output, names = opened(format, tmp_path)
        assert names == set()
        for number, name in enumerate(NAMES):
            output.write([(name, outputs.caption(f'caption "{number}", a'))])
        assert opened(format, tmp_path)[1] == set(map(plain, NAMES))
        output.close()
        again, names = opened(format, tmp_path)
        assert names == set(map(plain, NAMES))
        assert {plain(name): captions for name, captions in again.captions()} == {
            plain(name): [f'caption "{number}", a'] for number, name in enumerate(NAMES)
        }

    def test_several_captions_and_one_with_fewer(self, format: str, tmp_path: Path) -> None:
        output, _ = opened(format, tmp_path, 3)
        rows = [("a.png", outputs.caption("a", "b", "c")), ("b.png", outputs.caption("only one"))]
        output.write(rows)
        output.close()
        again, names = opened(format, tmp_path, 3)
        assert names == {"a.png", "b.png"}
        assert list(again.captions()) == [(name, texts(caption)) for name, caption in rows]

    def test_truncation_at_any_byte_loses_incomplete_rows_only(self, format: str, tmp_path: Path) -> None:
        output, _ = opened(format, tmp_path)
        output.write([("a.png", outputs.caption("first"))])
        path = next(path for path in tmp_path.rglob("*") if path.is_file())
        kept = path.read_bytes()
        output.write([("b\n.png", outputs.caption("second")), ("c.png", outputs.caption("third"))])
        full = path.read_bytes() if path.exists() else kept
        for end in range(len(kept), len(full)):
            path.write_bytes(full[:end])
            again, names = opened(format, tmp_path)
            assert {"a.png"} <= names <= {"a.png", "b\n.png"}
            assert path.read_bytes() in (kept, full[: len(path.read_bytes())])
            assert {plain(name) for name, _ in again.captions()} == names
        assert format == "parquet" or len(full) > len(kept)

    def test_other_files_are_an_error_and_stay_unchanged(self, format: str, tmp_path: Path) -> None:
        path = WRITERS[format](tmp_path, 1).path
        for content in (
            b"shopping list\nmilk",
            b"\x89PNG\r\n\x1a\nbytes",
            b"milk",
            b'{"id": 1}\n',
            b"[1]\n",
            b"\xff\n",
        ):
            path.write_bytes(content)
            with pytest.raises(DataError, match="choose another --out"):
                opened(format, tmp_path)
            assert path.read_bytes() == content

    def test_single_captions_are_an_error_if_several_are_requested(self, format: str, tmp_path: Path) -> None:
        # Bug: images with one caption counted as done although three were requested.
        output, _ = opened(format, tmp_path)
        output.write([("a.png", outputs.caption("a"))])
        output.close()
        with pytest.raises(DataError, match="choose another --out"):
            opened(format, tmp_path, 3)


def test_columns_of_a_csv_file(tmp_path: Path) -> None:
    output, _ = opened("csv", tmp_path, 2)
    output.write([("a.png", outputs.caption("a dog, brown", "b"))])
    with (tmp_path / "c.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "caption_1", "caption_2", "score_1", "score_2"],
            ["a.png", "a dog, brown", "b", "-1.5", "-1.5"],
        ]


class TestParts:
    def test_are_full_except_the_last_and_readable_at_any_time(self, tmp_path: Path) -> None:
        output, _ = opened("parquet", tmp_path)
        for number in range(7):
            output.write([(f"{number}.png", outputs.caption(f"caption {number}"))])
        folder = tmp_path / "c.parquet"
        assert [row["image"] for row in outputs.parts(folder)] == [f"{number}.png" for number in range(6)]
        assert pq.read_table(folder).num_rows == 6, "the journal must not be read"
        output.close()
        assert sorted(path.name for path in folder.iterdir()) == [f"part-0000{n}.parquet" for n in range(3)]
        row = outputs.parts(folder)[4]
        assert row == {**row, "caption": "caption 4", "log_probs": [-0.25, -0.25], "finished": True}

    def test_the_journal_of_a_finished_part_is_not_counted_twice(self, tmp_path: Path) -> None:
        """A kill after the part was renamed and before its journal was deleted."""
        output, _ = opened("parquet", tmp_path)
        output.write([("a.png", outputs.caption("a")), ("b.png", outputs.caption("b"))])
        journal = tmp_path / "c.parquet" / "_part-00000.jsonl"
        content = journal.read_bytes()
        output.close()
        journal.write_bytes(content)
        again, names = opened("parquet", tmp_path)
        assert names == {"a.png", "b.png"}
        again.close()
        assert [row["image"] for row in outputs.parts(tmp_path / "c.parquet")] == ["a.png", "b.png"]

    def test_a_folder_of_other_tables_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "c.parquet").mkdir()
        (tmp_path / "c.parquet" / "x.parquet").write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"x\.parquet exists and is not a file of captions"):
            opened("parquet", tmp_path)


class TestFailures:
    def test_an_image_is_listed_once_and_removed_when_resolved(self, tmp_path: Path) -> None:
        path = tmp_path / "errors.jsonl"
        for _ in range(2):
            failures = Failures(path)
            failures.open(())
            failures.add("a.png", "empty")
            failures.add("\udcff.png", "gone")
        assert outputs.lines(path) == [{"image": "a.png", "error": "empty"}, {"image": "\udcff.png", "error": "gone"}]
        failures.resolve("a.png")
        failures.close()
        assert [plain(row["image"]) for row in outputs.lines(path)] == [plain("\udcff.png")]
        failures = Failures(path)
        failures.open({plain("\udcff.png")})
        failures.close()
        assert not path.exists()

    def test_an_incomplete_line_is_removed_and_another_file_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "errors.jsonl"
        path.write_text('{"image": "a.png", "error": "empty"}\n{"image": "b.p')
        failures = Failures(path)
        failures.open(())
        assert failures.reasons == {"a.png": "empty"}
        failures.add("b.png", "gone")
        assert [row["image"] for row in outputs.lines(path)] == ["a.png", "b.png"]
        path.write_text("a diary\n")
        with pytest.raises(DataError, match="not a file of captions"):
            Failures(path).open(())
        assert path.read_text() == "a diary\n"


class TestFiles:
    def test_a_second_writer_is_an_error_until_the_first_is_done(self, tmp_path: Path) -> None:
        with (
            only_writer(tmp_path),
            pytest.raises(DataError, match=r"another process is writing to"),
            only_writer(tmp_path),
        ):
            pass
        with only_writer(tmp_path):
            pass

    def test_a_full_disk_is_an_error_of_one_line(self) -> None:
        if Path("/dev/full").exists():
            with pytest.raises(SeesayError, match=r"cannot write /dev/full \(No space left on device\); free space"):
                append(Path("/dev/full"), b"x")

    def test_names_of_the_longest_length_can_be_written(self, tmp_path: Path) -> None:
        # Bug: the temporary file's name exceeded the maximum length.
        path = tmp_path / ("x" * 255)
        write_atomically(path, b"1")
        assert [each.name for each in tmp_path.iterdir()] == [path.name]

    def test_durable_writes_keep_permissions(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(b"0")
        path.chmod(0o640)
        write_atomically(path, b"1", durable=True)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"1", 0o640)
