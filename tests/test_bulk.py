import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from seesay.bulk import caption_to_jsonl, find_pictures, json_line
from seesay.captioner import Caption, Captioner
from seesay.config import DecodingOptions
from seesay.errors import DataError, ImageError
from tests import tiny


@pytest.fixture(scope="module")
def captioner(cached_run: Path) -> Captioner:
    return Captioner.load(cached_run, "cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one of them deeper, and what is no picture."""
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    tiny.picture(0).save(tmp_path / "photos" / "b.JPG", "JPEG")
    tiny.picture(1).save(tmp_path / "photos" / "deep" / "a.png")
    (tmp_path / "photos" / "notes.txt").touch()
    return tmp_path / "photos"


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


class TestFinding:
    def test_folders_globs_files_and_addresses_in_their_order_without_repeats(self, folder: Path) -> None:
        first, second = str(folder / "b.JPG"), str(folder / "deep" / "a.png")
        url, member = "https://example.org/x*.jpg", "photos.tar::x[1].jpg"
        assert find_pictures([str(folder)]) == [first, second]
        assert find_pictures([url, str(folder / "**" / "*.png"), member, first, str(folder)]) == [
            url,
            second,
            member,
            first,
        ]

    def test_name_that_looks_like_a_glob_is_a_file_where_there_is_one(self, folder: Path) -> None:
        tiny.picture(2).save(folder / "x[1].png")
        assert find_pictures([str(folder / "x[1].png")]) == [str(folder / "x[1].png")]

    def test_source_that_names_nothing_is_refused(self, folder: Path) -> None:
        (folder / "empty").mkdir()
        with pytest.raises(DataError, match="empty holds no pictures"):
            find_pictures([str(folder / "empty")])
        with pytest.raises(DataError, match=r"no file matches .*\*\.gif"):
            find_pictures([str(folder / "*.gif")])

    def test_missing_file_is_left_to_the_reader_to_tell(self, folder: Path) -> None:
        assert find_pictures([str(folder / "gone.jpg")]) == [str(folder / "gone.jpg")]


class TestWriting:
    def test_line_says_what_the_caption_says(self, captioner: Captioner, pictures: list[str], tmp_path: Path) -> None:
        report = caption_to_jsonl(captioner, pictures[:3], tmp_path / "new" / "out.jsonl")
        assert (report.captioned, report.skipped, report.unreadable) == (3, 0, 0)
        captions = captioner.caption(pictures[:3])
        lines = read(tmp_path / "new" / "out.jsonl")
        written = [json_line(picture, caption, False) for picture, caption in zip(pictures, captions, strict=False)]
        assert lines == [json.loads(line) for line in written]
        assert lines[0]["image"] == pictures[0]
        assert lines[0]["caption"] == captions[0].text

    def test_pictures_that_are_there_are_skipped(
        self, captioner: Captioner, pictures: list[str], tmp_path: Path
    ) -> None:
        out = tmp_path / "out.jsonl"
        caption_to_jsonl(captioner, pictures[:2], out)
        before = out.read_bytes()
        report = caption_to_jsonl(captioner, pictures[:4], out)
        assert (report.captioned, report.skipped) == (2, 2)
        assert out.read_bytes().startswith(before)
        assert [line["image"] for line in read(out)] == pictures[:4]
        assert caption_to_jsonl(captioner, pictures[:4], out).captioned == 0

    @pytest.mark.parametrize("cut", [1, 8, 40])
    def test_half_a_line_of_a_killed_job_is_written_anew(
        self, captioner: Captioner, pictures: list[str], tmp_path: Path, cut: int
    ) -> None:
        out = tmp_path / "out.jsonl"
        caption_to_jsonl(captioner, pictures[:3], out)
        whole = out.read_bytes()
        out.write_bytes(whole[:-cut])
        report = caption_to_jsonl(captioner, pictures[:3], out)
        assert (report.captioned, report.skipped) == (1, 2)
        kept = whole[: whole[:-1].rfind(b"\n") + 1]
        assert out.read_bytes().startswith(kept)
        # Captioned alone this time, not in a batch of three: the last digits of its numbers may differ.
        before, after = json.loads(whole[len(kept) :]), read(out)[2]
        assert after == {**before, **{name: after[name] for name in ("score", "log_probs", "end_log_prob")}}
        assert after["log_probs"] == pytest.approx(before["log_probs"], abs=1e-4)

    def test_unreadable_pictures_are_told_and_tried_again(
        self, captioner: Captioner, pictures: list[str], tmp_path: Path
    ) -> None:
        broken, out = tmp_path / "b.png", tmp_path / "out.jsonl"
        broken.write_bytes(b"")
        told: list[tuple[str, type]] = []
        report = caption_to_jsonl(
            captioner, [str(broken), pictures[0]], out, report=lambda name, found: told.append((name, type(found)))
        )
        assert (report.captioned, report.unreadable) == (1, 1)
        assert told == [(str(broken), ImageError), (pictures[0], Caption)]
        tiny.picture(0).save(broken)
        assert caption_to_jsonl(captioner, [str(broken), pictures[0]], out).captioned == 1

    @pytest.mark.parametrize(
        "name", ["line\u2028separator.png", "next\x85line.png", "new\nline.png", "\udcff.png", "日本.png"]
    )
    def test_names_of_any_characters_are_known_again(self, captioner: Captioner, tmp_path: Path, name: str) -> None:
        """Some of them end a line for Python, not for JSON; one is no text at all."""
        tiny.picture(0).save(tmp_path / "a.png")
        (tmp_path / "a.png").rename(tmp_path / name)
        out = tmp_path / "out.jsonl"
        assert caption_to_jsonl(captioner, [str(tmp_path / name)], out).captioned == 1
        assert caption_to_jsonl(captioner, [str(tmp_path / name)], out).skipped == 1
        assert read(out)[0]["image"] == str(tmp_path / name)

    @pytest.mark.parametrize(
        "content", [b"shopping list\nmilk", b"\x89PNG\r\n\x1a\nbytes", b"milk", b'{"id": 1}\n', b"[1]\n", b"\xff\xfe\n"]
    )
    def test_file_of_anything_else_is_refused_and_left_as_it_is(
        self, captioner: Captioner, pictures: list[str], tmp_path: Path, content: bytes
    ) -> None:
        """Its last line was once cut off before the file was looked at."""
        out = tmp_path / "out"
        out.write_bytes(content)
        with pytest.raises(DataError, match="not a file of captions; choose another --out"):
            caption_to_jsonl(captioner, pictures[:1], out)
        assert out.read_bytes() == content

    def test_score_can_be_computed_from_a_line(self, captioner: Captioner, pictures: list[str], tmp_path: Path) -> None:
        # Bug: the end's log-probability, which the score counts, was nowhere to be found.
        caption_to_jsonl(captioner, pictures[:3], tmp_path / "c.jsonl", DecodingOptions("beam", length_penalty=1.3))
        for line in map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines()):
            total = sum(line["log_probs"]) + line["end_log_prob"]
            assert line["score"] == pytest.approx(total / (len(line["log_probs"]) + 1) ** 1.3, abs=1e-5)

    def test_scores_that_are_no_numbers_are_null(self, captioner: Captioner, pictures: list[str]) -> None:
        # Bug: they were written as NaN and Infinity, which JSON does not have.
        caption = replace(captioner.caption(pictures[0]), score=math.nan, end_log_prob=-math.inf, log_probs=(math.inf,))
        line = json.loads(json_line("a", caption, True), parse_constant=pytest.fail)
        assert (line["score"], line["end_log_prob"], line["log_probs"]) == (None, None, [None])
        assert line["captions"][0]["score"] is None

    def test_single_captions_are_not_taken_for_several(
        self, captioner: Captioner, pictures: list[str], tmp_path: Path
    ) -> None:
        # Bug: pictures with a caption counted as done though three were asked for.
        out = tmp_path / "c.jsonl"
        caption_to_jsonl(captioner, pictures[:2], out)
        before = out.read_bytes() + b'{"image'
        out.write_bytes(before)
        three = DecodingOptions(num_captions=3)
        with pytest.raises(DataError, match=r"c\.jsonl holds one caption, not 3, of 2 of the pictures; choose another"):
            caption_to_jsonl(captioner, pictures[:3], out, three)
        assert out.read_bytes() == before
        assert caption_to_jsonl(captioner, pictures[2:4], out, three).captioned == 2
        assert caption_to_jsonl(captioner, pictures[:4], out).skipped == 4

    def test_lists_are_there_also_where_only_one_caption_was_found(
        self, captioner: Captioner, pictures: list[str], tmp_path: Path
    ) -> None:
        # Bug: such a line had no list, as if one had been asked for, and was refused the next time.
        out = tmp_path / "c.jsonl"
        words = captioner.run.tokenizer.vocabulary
        options = DecodingOptions(num_captions=3, max_length=1, ban=tuple(words[5:]), min_length=1)
        for report in (caption_to_jsonl(captioner, pictures[:2], out, options) for _ in range(2)):
            assert report.captioned + report.skipped == 2
        assert [len(line["captions"]) for line in map(json.loads, out.read_text().splitlines())] == [1, 1]
