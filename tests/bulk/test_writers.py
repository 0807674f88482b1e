"""Files of captions: what is written is read back, and what a kill tears is cut off and nothing else."""

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
from tests.bulk import said

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
MAKE: dict[str, Callable[[Path, int], Writer]] = {
    "jsonl": lambda path, wanted: JsonlWriter(path / "c.jsonl", wanted, lambda _: True),
    "csv": lambda path, wanted: CsvWriter(path / "c.csv", wanted),
    "tsv": lambda path, wanted: CsvWriter(path / "c.tsv", wanted),
    "parquet": lambda path, wanted: ParquetWriter(path / "c.parquet", wanted, lambda _: True, part_rows=3),
}
every_form = pytest.mark.parametrize("form", MAKE)


def opened(form: str, path: Path, wanted: int = 1) -> tuple[Writer, set[str]]:
    output = MAKE[form](path, wanted)
    output.create()
    return output, output.open()


@every_form
class TestEveryForm:
    def test_images_of_any_name_are_known_again_with_their_captions(self, form: str, tmp_path: Path) -> None:
        """Some names end a line for Python, one is no text at all, and some would need quotation marks."""
        output, held = opened(form, tmp_path)
        assert held == set()
        for number, name in enumerate(NAMES):
            output.write([(name, said.caption(f'caption "{number}", a'))])
        assert opened(form, tmp_path)[1] == set(map(plain, NAMES))
        output.close()
        again, held = opened(form, tmp_path)
        assert held == set(map(plain, NAMES))
        assert {plain(name): found for name, found in again.captions()} == {
            plain(name): [f'caption "{number}", a'] for number, name in enumerate(NAMES)
        }

    def test_several_captions_and_one_with_fewer(self, form: str, tmp_path: Path) -> None:
        output, _ = opened(form, tmp_path, 3)
        rows = [("a.png", said.caption("a", "b", "c")), ("b.png", said.caption("only one"))]
        output.write(rows)
        output.close()
        again, held = opened(form, tmp_path, 3)
        assert held == {"a.png", "b.png"}
        assert list(again.captions()) == [(name, texts(caption)) for name, caption in rows]

    def test_every_place_that_a_kill_may_cut_at_loses_torn_rows_only(self, form: str, tmp_path: Path) -> None:
        output, _ = opened(form, tmp_path)
        output.write([("a.png", said.caption("first"))])
        path = next(path for path in tmp_path.rglob("*") if path.is_file())
        kept = path.read_bytes()
        output.write([("b\n.png", said.caption("second")), ("c.png", said.caption("third"))])
        whole = path.read_bytes() if path.exists() else kept
        for cut in range(len(kept), len(whole)):
            path.write_bytes(whole[:cut])
            again, held = opened(form, tmp_path)
            assert {"a.png"} <= held <= {"a.png", "b\n.png"}
            assert path.read_bytes() in (kept, whole[: len(path.read_bytes())])
            assert {plain(name) for name, _ in again.captions()} == held
        assert form == "parquet" or len(whole) > len(kept)

    def test_file_of_anything_else_is_refused_and_left_as_it_is(self, form: str, tmp_path: Path) -> None:
        path = MAKE[form](tmp_path, 1).path
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
                opened(form, tmp_path)
            assert path.read_bytes() == content

    def test_single_captions_are_not_taken_for_several(self, form: str, tmp_path: Path) -> None:
        # Bug: images with a caption counted as done though three were asked for.
        output, _ = opened(form, tmp_path)
        output.write([("a.png", said.caption("a"))])
        output.close()
        with pytest.raises(DataError, match="choose another --out"):
            opened(form, tmp_path, 3)


def test_cell_counts_and_headers_of_separated_files(tmp_path: Path) -> None:
    output, _ = opened("csv", tmp_path, 2)
    output.write([("a.png", said.caption("a dog, brown", "b"))])
    with (tmp_path / "c.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "caption_1", "caption_2", "score_1", "score_2"],
            ["a.png", "a dog, brown", "b", "-1.5", "-1.5"],
        ]


class TestParts:
    def test_are_full_but_the_last_and_readable_at_any_time(self, tmp_path: Path) -> None:
        output, _ = opened("parquet", tmp_path)
        for number in range(7):
            output.write([(f"{number}.png", said.caption(f"caption {number}"))])
        folder = tmp_path / "c.parquet"
        assert [row["image"] for row in said.parts(folder)] == [f"{number}.png" for number in range(6)]
        assert pq.read_table(folder).num_rows == 6, "what is not full yet is in nobody's way"
        output.close()
        assert sorted(path.name for path in folder.iterdir()) == [f"part-0000{n}.parquet" for n in range(3)]
        row = said.parts(folder)[4]
        assert row == {**row, "caption": "caption 4", "log_probs": [-0.25, -0.25], "finished": True}

    def test_lines_of_a_part_that_was_finished_are_not_counted_twice(self, tmp_path: Path) -> None:
        """A kill between the part's renaming and the removal of its lines."""
        output, _ = opened("parquet", tmp_path)
        output.write([("a.png", said.caption("a")), ("b.png", said.caption("b"))])
        journal = tmp_path / "c.parquet" / "_part-00000.jsonl"
        content = journal.read_bytes()
        output.close()
        journal.write_bytes(content)
        again, held = opened("parquet", tmp_path)
        assert held == {"a.png", "b.png"}
        again.close()
        assert [row["image"] for row in said.parts(tmp_path / "c.parquet")] == ["a.png", "b.png"]

    def test_folder_of_other_tables_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "c.parquet").mkdir()
        (tmp_path / "c.parquet" / "x.parquet").write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"x\.parquet exists and is not a file of captions"):
            opened("parquet", tmp_path)


class TestFailures:
    def test_image_stands_there_once_and_goes_when_it_is_mended(self, tmp_path: Path) -> None:
        path = tmp_path / "errors.jsonl"
        for _ in range(2):
            failures = Failures(path)
            failures.open(())
            failures.note("a.png", "empty")
            failures.note("\udcff.png", "gone")
        assert said.lines(path) == [{"image": "a.png", "error": "empty"}, {"image": "\udcff.png", "error": "gone"}]
        failures.mended("a.png")
        failures.close()
        assert [plain(row["image"]) for row in said.lines(path)] == [plain("\udcff.png")]
        failures = Failures(path)
        failures.open({plain("\udcff.png")})
        failures.close()
        assert not path.exists()

    def test_torn_line_is_cut_off_and_another_file_left(self, tmp_path: Path) -> None:
        path = tmp_path / "errors.jsonl"
        path.write_text('{"image": "a.png", "error": "empty"}\n{"image": "b.p')
        failures = Failures(path)
        failures.open(())
        assert failures.reasons == {"a.png": "empty"}
        failures.note("b.png", "gone")
        assert [row["image"] for row in said.lines(path)] == ["a.png", "b.png"]
        path.write_text("a diary\n")
        with pytest.raises(DataError, match="not a file of captions"):
            Failures(path).open(())
        assert path.read_text() == "a diary\n"


class TestFiles:
    def test_second_writer_is_refused_until_the_first_is_done(self, tmp_path: Path) -> None:
        with (
            only_writer(tmp_path),
            pytest.raises(DataError, match=r"another process is writing to"),
            only_writer(tmp_path),
        ):
            pass
        with only_writer(tmp_path):
            pass

    def test_full_disk_is_one_line(self) -> None:
        if Path("/dev/full").exists():
            with pytest.raises(SeesayError, match=r"cannot write /dev/full \(No space left on device\); make room"):
                append(Path("/dev/full"), b"x")

    def test_names_of_the_longest_length_can_be_written(self, tmp_path: Path) -> None:
        # Bug: the temporary file's name was longer than a name can be.
        path = tmp_path / ("x" * 255)
        write_atomically(path, b"1")
        assert [each.name for each in tmp_path.iterdir()] == [path.name]

    def test_durable_writes_keep_permissions(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(b"0")
        path.chmod(0o640)
        write_atomically(path, b"1", durable=True)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"1", 0o640)
