import csv
import errno
import glob
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seesay.bulk import find_images
from seesay.errors import DataError, ImageError
from seesay.images import loading as images
from seesay.images.loading import read_image
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one of them in a subfolder, and a text file."""
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    tiny.image(0).save(tmp_path / "photos" / "b.JPG", "JPEG")
    tiny.image(1).save(tmp_path / "photos" / "deep" / "a.png")
    (tmp_path / "photos" / "notes.txt").touch()
    return tmp_path / "photos"


@pytest.fixture
def both(folder: Path) -> list[str]:
    return [str(folder / "b.JPG"), str(folder / "deep" / "a.png")]


def found(*sources: object, column: str = "") -> list[str]:
    return find_images([str(source) for source in sources], column).images


class TestFiles:
    def test_folders_globs_files_and_urls_are_listed_in_order_without_repeats(
        self, folder: Path, both: list[str]
    ) -> None:
        url, member = "https://example.org/x*.jpg", "photos.tar::x[1].jpg"
        assert found(folder) == both
        assert found(url, folder / "**" / "*.png", member, both[0], folder) == [url, both[1], member, both[0]]

    def test_folders_are_searched_recursively_and_links_upwards_are_not_followed(self, folder: Path) -> None:
        deep = folder.joinpath(*"123456789")
        deep.mkdir(parents=True)
        tiny.image(0).save(deep / "z.png")
        (deep / "again").symlink_to(folder)
        (folder / ".hidden").mkdir()
        tiny.image(0).save(folder / ".hidden" / "h.png")
        assert str(deep / "z.png") in found(folder)
        assert len(found(folder)) == 3

    def test_every_suffix_of_data_sets_is_found(self, tmp_path: Path) -> None:
        # Bug: .jfif, .ppm and .avif were not found in folders, although data sets of them could be trained on.
        for suffix in ("jfif", "ppm", "avif", "jpe"):
            (tmp_path / f"a.{suffix}").touch()
        assert len(found(tmp_path)) == 4

    def test_every_supported_format_is_found(self, tmp_path: Path) -> None:
        # Bug: .jp2, .pgm and .heic were not found in folders, although single files could be captioned.
        Image.init()
        suffixes = {suffix for suffix, name in Image.EXTENSION.items() if name in images.FORMATS} | {".heic", ".mpo"}
        for suffix in suffixes:
            (tmp_path / f"a{suffix}").touch()
        assert {Path(name).suffix for name in found(tmp_path)} == suffixes

    def test_files_of_other_image_formats_are_counted_and_named(self, folder: Path, both: list[str]) -> None:
        for name in ("c.jxl", "d.CR2", "deep/e.svg"):
            (folder / name).touch()
        result = find_images([str(folder), f"{folder}/../photos"])
        assert result.images == both
        assert result.remark() == (
            "3 files of unsupported formats skipped (.cr2, .jxl, .svg); convert to JPEG or PNG: "
            f"{folder / 'c.jxl'}, {folder / 'd.CR2'}, {folder / 'deep/e.svg'}"
        )
        with tarfile.open(folder / "t.tar", "w") as tar:
            tar.add(folder / "c.jxl", "c.jxl")
        with pytest.raises(DataError, match=r"t\.tar contains no images; 1 file .* skipped.*\.jxl"):
            found(folder / "t.tar")

    def test_folder_that_cannot_be_listed_is_reported(
        self, folder: Path, both: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Bug: the images of a folder without permission were silently skipped.
        scandir = os.scandir

        def refuse(path: Any) -> Any:
            if Path(path).name == "deep":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        result = find_images([str(folder)])
        assert result.images == both[:1]
        assert list(result.broken.values()) == [f"{folder / 'deep'} cannot be listed (Permission denied)"]

    def test_one_image_named_in_several_ways_is_found_once(
        self, folder: Path, both: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Bug: photos/, ./photos/b.JPG and the absolute path were three images.
        monkeypatch.chdir(folder.parent)
        (folder.parent / "same").symlink_to(folder)
        spellings = ("./photos/b.JPG", "photos", "photos/deep/../b.JPG", folder, "same", "same/deep/*.png")
        assert found(*spellings) == ["./photos/b.JPG", "photos/deep/a.png"]
        assert found("x.tar::a.jpg", "./x.tar::a.jpg", folder.parent / "x.tar::./a.jpg") == ["x.tar::a.jpg"]

    @pytest.mark.parametrize(
        "pattern", ["**", "**/*", "**/*.*g", "*/**/[ab].*", "**/deep/**", "**/deep/*.p?g", "**/*.JPG"]
    )
    def test_glob_of_all_folders_lists_each_once(
        self, folder: Path, both: list[str], monkeypatch: pytest.MonkeyPatch, pattern: str
    ) -> None:
        # Bug: with links to parent folders, a glob with ** did not terminate.
        monkeypatch.chdir(folder.parent)
        (folder / "notes.txt").unlink()
        (folder / ".hidden.png").touch()
        matching = glob.glob(pattern, recursive=True)  # noqa: PTH207
        expected = {path for path in matching if Path(path).is_file()}
        for number in range(12):
            (folder / f"link{number}").symlink_to(folder / "deep")
            (folder / "deep" / f"link{number}").symlink_to(folder)
        assert set(found(pattern)) == expected != set()
        assert set(found(f"{folder.parent}/{pattern}")) == {str(folder.parent / name) for name in expected}

    def test_name_with_a_zero_byte_is_one_failure(self, folder: Path, both: list[str]) -> None:
        # Bug: it stopped the job with a traceback.
        rows = [json.dumps({"image": name}) for name in ("a\0/b.jpg", "b.JPG")]
        (folder / "t.jsonl").write_text("\n".join(rows))
        result = find_images([str(folder / "t.jsonl")])
        assert result.images == both[:1]
        assert list(result.broken.values()) == [f"{folder}/a?/b.jpg: no file can have this name"]

    def test_links_to_a_file_are_separate_images(self, folder: Path, both: list[str]) -> None:
        (folder / "deep" / "z.png").symlink_to(folder / "deep" / "a.png")
        assert found(folder) == [*both, str(folder / "deep" / "z.png")]

    def test_a_name_like_a_glob_is_a_file_if_it_exists(self, folder: Path) -> None:
        tiny.image(2).save(folder / "x[1].png")
        assert found(folder / "x[1].png") == [str(folder / "x[1].png")]

    def test_a_source_without_images_is_an_error(self, folder: Path) -> None:
        (folder / "empty").mkdir()
        with pytest.raises(DataError, match="empty contains no images"):
            found(folder / "empty")
        with pytest.raises(DataError, match=r"no file matches .*\*\.gif"):
            found(folder / "*.gif")

    def test_a_missing_file_is_reported_later_by_the_reader(self, folder: Path) -> None:
        assert found(folder / "gone.jpg") == [str(folder / "gone.jpg")]

    @pytest.mark.parametrize("name", ["photoss", "photoss/", "a.b/photoss"])
    def test_a_missing_folder_is_an_error(self, folder: Path, name: str) -> None:
        # Bug: it was listed as a failed image, after the model had been loaded.
        with pytest.raises(DataError, match="no such file or folder; check the path"):
            find_images([f"{folder}/{name}"])


class TestLists:
    def test_names_are_relative_to_the_list_or_the_current_folder(
        self, folder: Path, both: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "list.txt").write_text("deep/a.png\r\n\r\nphotos/b.JPG\nhttps://example.org/a.jpg\ngone.png\n")
        monkeypatch.chdir(folder.parent)
        assert found("photos/list.txt") == [
            "photos/deep/a.png",
            "photos/b.JPG",
            "https://example.org/a.jpg",
            "photos/gone.png",
        ]

    def test_standard_input_is_a_list(self, both: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*both, ""])))
        assert found("-") == both

    def test_an_empty_list_is_an_error(self, folder: Path) -> None:
        with pytest.raises(DataError, match=r"notes\.txt lists no images"):
            found(folder / "notes.txt")


class TestTables:
    @pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t")])
    def test_column_of_names(self, folder: Path, both: list[str], name: str, delimiter: str) -> None:
        with (folder / name).open("w", newline="") as file:
            rows = csv.writer(file, delimiter=delimiter)
            rows.writerows([["price", "file_name", "photo2"], [1, "b.JPG", "deep/a.png"], [2, "deep/a.png", "b.JPG"]])
        assert found(folder / name) == both
        assert found(folder / name, column="photo2") == both[::-1]
        with pytest.raises(DataError, match=r"has no column 'colour' \(columns: 'price', 'file_name', 'photo2'\)"):
            found(folder / name, column="colour")

    def test_json_lines(self, folder: Path, both: list[str]) -> None:
        (folder / "t.jsonl").write_text(json.dumps({"image": "b.JPG"}) + "\n" + json.dumps({"image": "deep/a.png"}))
        assert found(folder / "t.jsonl") == both

    def test_rows_without_an_image_are_reported(self, folder: Path, both: list[str]) -> None:
        (folder / "t.csv").write_text("image,n\nb.JPG,1\n,2\nb.JPG,3\n ,4\n")
        result = find_images([str(folder / "t.csv")])
        assert result.images == both[:1]
        assert list(result.broken.values()) == [f"{folder / 't.csv'}: 2 rows without an image: 2, 4"]

    def test_a_table_without_an_image_column_is_an_error(self, folder: Path) -> None:
        (folder / "t.csv").write_text("colour,size\nred,5\n")
        with pytest.raises(DataError, match=r"no image column \(columns: 'colour', 'size'\); choose one with --column"):
            found(folder / "t.csv")

    def test_parquet_of_names(self, folder: Path, both: list[str]) -> None:
        pq.write_table(pa.table({"n": [1, 2], "file_name": ["b.JPG", "deep/a.png"]}), folder / "t.parquet")
        assert found(folder / "t.parquet") == both

    @pytest.mark.parametrize("form", ["bytes", "struct"])
    def test_parquet_of_bytes_is_read_row_by_row(self, folder: Path, both: list[str], form: str) -> None:
        contents = [Path(name).read_bytes() for name in both]
        cells = contents if form == "bytes" else [{"bytes": each, "path": None} for each in contents]
        pq.write_table(pa.table({"file_name": ["x", "y"], "thumb": cells}), folder / "t.parquet", row_group_size=1)
        names = found(folder / "t.parquet", column="thumb")
        assert names == [f"{folder / 't.parquet'}::thumb::{row}" for row in range(2)]
        assert [read_image(name).tobytes() for name in names] == [read_image(name).tobytes() for name in both]

    def test_a_file_that_is_not_parquet_is_an_error(self, folder: Path) -> None:
        (folder / "t.parquet").write_bytes(b"PAR1 no")
        with pytest.raises(DataError, match=r"t\.parquet cannot be read as Parquet"):
            found(folder / "t.parquet")


class TestArchives:
    @pytest.fixture
    def shard(self, folder: Path, both: list[str]) -> Path:
        with tarfile.open(folder.parent / "shard-0.tar", "w") as tar:
            for number, name in enumerate(both):
                tar.add(name, f"{number}{Path(name).suffix}")
                text = tarfile.TarInfo(f"{number}.txt")
                tar.addfile(text, io.BytesIO())
        return folder.parent / "shard-0.tar"

    def test_images_of_a_shard_are_read_without_unpacking(self, shard: Path, both: list[str]) -> None:
        names = found(shard)
        assert names == [f"{shard}::0.JPG", f"{shard}::1.png"]
        assert [read_image(name).tobytes() for name in names] == [read_image(name).tobytes() for name in both]

    def test_a_folder_of_shards_contains_their_images(self, shard: Path) -> None:
        (shard.parent / "shards").mkdir()
        shard.rename(shard.parent / "shards" / shard.name)
        assert len(found(shard.parent / "shards")) == 2

    def test_a_truncated_shard_contains_its_readable_images_and_is_reported(self, shard: Path, both: list[str]) -> None:
        # Bug: none of its images could be read, although those before the truncation are complete.
        with tarfile.open(shard) as tar:
            second = tar.getmember("1.png")
        shard.write_bytes(shard.read_bytes()[: second.offset_data + second.size // 2])
        result = find_images([str(shard)])
        assert result.images == [f"{shard}::0.JPG", f"{shard}::1.png"]
        assert "shard-0.tar: truncated after 2 images" in result.broken[str(shard)]
        assert read_image(result.images[0]).tobytes() == read_image(both[0]).tobytes()
        with pytest.raises(ImageError, match="damaged or truncated"):
            read_image(result.images[1])

    def test_invalid_or_compressed_archives_are_an_error(self, folder: Path) -> None:
        (folder / "a.tar").write_bytes(b"no tar" * 200)
        with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar"):
            found(folder / "a.tar")
        with pytest.raises(DataError, match=r"b\.tgz is compressed; unpack it"):
            found(folder / "b.tgz")


class TestColumns:
    """Columns of tables that a prompt uses are kept by image."""

    ROWS = ({"file": "b.JPG", "place": "Rome, Italy", "tags": ["cat", "dog"]}, {"file": "deep/a.png", "place": None})

    @pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
    def test_wanted_columns_are_read(self, folder: Path, both: list[str], name: str) -> None:
        table = folder / name
        if name == "t.jsonl":
            table.write_text("\n".join(map(json.dumps, self.ROWS)))
        elif name == "t.parquet":
            pq.write_table(pa.Table.from_pylist(list(self.ROWS)), table)
        else:
            with table.open("w", newline="") as file:
                writer = csv.writer(file, delimiter="\t" if name == "t.tsv" else ",")
                writer.writerows([("file", "place", "tags"), ("b.JPG", "Rome, Italy", "cat, dog"), ("deep/a.png",)])
        listed = find_images([str(table)], wanted={"place", "tags", "absent"})
        assert listed.images == both
        assert listed.columns[both[0]] == {"place": "Rome, Italy", "tags": "cat, dog"}
        assert listed.columns[both[1]]["place"] == ""
        assert list(listed.column_names) == ["file", "place", "tags"]
        assert find_images([str(table)]).columns == {}

    def test_columns_beside_embedded_images_are_read(self, tmp_path: Path, both: list[str]) -> None:
        content = [Path(image).read_bytes() for image in both]
        pq.write_table(pa.table({"image": content, "place": ["Rome", "Bern"]}), tmp_path / "t.parquet")
        listed = find_images([str(tmp_path / "t.parquet")], wanted=["place"])
        assert [listed.columns[image]["place"] for image in listed.images] == ["Rome", "Bern"]
