"""Jobs with a model: every image is captioned or listed exactly once, also after kills."""

import codecs
import itertools
import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from seesay import files
from seesay.bulk import BulkReport, Destination, caption_collection, find_images, job, json_line, writers
from seesay.bulk.sinks import Existing, Sidecars, merge_text
from seesay.captioners.trained import TrainedCaptioner
from seesay.cli.main import main
from seesay.config import DecodingOptions
from seesay.data.annotations import load_annotations
from seesay.errors import ConfigError, DataError
from seesay.images.metadata import read_description
from tests import processes, tiny
from tests.bulk import outputs


@pytest.fixture(scope="module")
def captioner(cached_run: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(cached_run, "cpu")


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Five images, of which the third is empty and the last truncated."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        tiny.image(number).save(folder / f"{number}.jpg")
    (folder / "2.jpg").write_bytes(b"")
    content = (folder / "4.jpg").read_bytes()
    (folder / "4.jpg").write_bytes(content[: len(content) // 2])
    return sorted(map(str, folder.iterdir()))


def _output(path: Path) -> writers.Writer:
    output = Destination(path).output(1, lambda _: True)
    assert output is not None
    return output


def run(
    captioner: TrainedCaptioner, images: list[str], destination: Destination, **options: Any
) -> tuple[int, int, int]:
    report: BulkReport = caption_collection(captioner, images, destination, **options)
    return report.captioned, report.skipped, report.failed


def test_counts_add_up_if_captions_cannot_be_written_beside_images(
    captioner: TrainedCaptioner, photos: list[str], tmp_path: Path
) -> None:
    # Bug: such an image was counted as captioned and as failed, so that 5 images were reported as "3 captioned, 3
    # failed".
    for name in ("0.txt", "1.txt"):
        (tmp_path / "photos" / name).mkdir()
    for destination in (Destination(sidecar=".txt"), Destination(tmp_path / "c.jsonl", ".txt")):
        for counts in ((1, 0, 4), (0, 1, 4)):
            assert run(captioner, photos, destination) == counts
        (tmp_path / "photos" / "3.txt").unlink()


def test_an_invalid_file_name_is_one_failure(captioner: TrainedCaptioner, photos: list[str], tmp_path: Path) -> None:
    # Bug: one name above 255 bytes in a list stopped the whole job.
    long = f"{'x' * 300}.jpg"
    names = tmp_path / "names.txt"
    names.write_text("\n".join([photos[0], long, f"{'x' * 300}.tar::a.jpg", f"photos/{'y' * 252}.jpg", photos[1]]))
    found = find_images([str(names)])
    errors: list[str] = []
    assert run(captioner, found.images, Destination(tmp_path / "c.jsonl"), print_error=errors.append) == (2, 0, 3)
    assert len(errors) == 3
    files_only = [name for name in found.images if "::" not in name]
    assert run(captioner, files_only, Destination(sidecar=".txt")) == (2, 0, 2)


class TestReviewedCaptions:
    """A review edits captions in the output; the next job brings them to the images."""

    @pytest.fixture
    def out(self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path) -> Path:
        """The output of a job on three images, of which the first is corrected and the second rejected."""
        out = tmp_path / "c.jsonl"
        assert run(captioner, self.good(photos), Destination(out)) == (3, 0, 0)
        rows = outputs.lines(out)
        rows[0] |= {"model_caption": rows[0]["caption"], "caption": "my own words", "review": "accepted"}
        rows[1]["review"] = "rejected"
        out.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return out

    @staticmethod
    def good(photos: list[str]) -> list[str]:
        return [photos[0], photos[1], photos[3]]

    @pytest.mark.parametrize("existing", get_args(Existing))
    def test_a_corrected_caption_replaces_the_model_s(
        self, captioner: TrainedCaptioner, photos: list[str], out: Path, existing: Any
    ) -> None:
        # Bug: texts beside and inside images kept the caption of the model.
        images, before = self.good(photos), "photo: "
        run(captioner, images, Destination(sidecar=".txt", embed="both", before=before))
        beside = [Path(image).with_suffix(".txt") for image in images]
        unchanged = [path.read_text() for path in beside[1:]]
        destination = Destination(out, ".txt", "both", existing=existing, before=before)
        assert caption_collection(captioner, images, destination).rewritten == 1
        assert beside[0].read_text() == "photo: my own words\n"
        for field in ("xmp", "exif"):
            assert read_description(Path(images[0]).read_bytes(), field) == "photo: my own words"
        assert [path.read_text() for path in beside[1:]] == unchanged
        assert caption_collection(captioner, images, destination).rewritten == 0

    def test_a_text_by_hand_is_kept(self, captioner: TrainedCaptioner, photos: list[str], out: Path) -> None:
        beside = Path(photos[0]).with_suffix(".txt")
        beside.write_text("by hand")
        run(captioner, self.good(photos), Destination(out, ".txt", existing="overwrite"))
        assert beside.read_text() == "by hand"

    def test_a_rejected_caption_is_not_written(self, captioner: TrainedCaptioner, photos: list[str], out: Path) -> None:
        # Bug: it was written into the image.
        images = self.good(photos)
        report = caption_collection(captioner, images, Destination(out, ".txt", "xmp"))
        assert (report.captioned, report.skipped, report.rewritten) == (0, 3, 2)
        assert [Path(image).with_suffix(".txt").exists() for image in images] == [True, False, True]
        assert read_description(Path(images[1]).read_bytes(), "xmp") == ""

    def test_alt_text_of_an_earlier_plain_job(self, captioner: TrainedCaptioner, photos: list[str], out: Path) -> None:
        # Bug: the plain caption was written.
        run(captioner, self.good(photos), Destination(out, ".txt"), style="alt-text")
        assert Path(photos[0]).with_suffix(".txt").read_text() == "My own words.\n"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_images_with_another_spelling_are_not_captioned_again(
    captioner: TrainedCaptioner, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    # Bug: `seesay caption .` in the folder of the images added every image a second time.
    monkeypatch.chdir(tmp_path)
    out = tmp_path / f"c.{suffix}"
    assert run(captioner, ["photos/0.jpg", "./photos/1.jpg"], Destination(Path(out.name))) == (2, 0, 0)
    absolute = [photos[0], photos[1]]
    assert run(captioner, absolute, Destination(out)) == (0, 2, 0)
    monkeypatch.chdir(tmp_path / "photos")
    assert run(captioner, ["0.jpg", "./1.jpg", "3.jpg"], Destination(out)) == (1, 2, 0)
    assert run(captioner, ["../photos/3.jpg"], Destination(out)) == (0, 1, 0)


class TestReranking:
    def test_captions_are_those_of_each_image_alone(
        self, indexed_run: Path, images: list[str], photos: list[str], tmp_path: Path
    ) -> None:
        """Broken images between others, in batches, and once more after an interruption."""
        captioner = TrainedCaptioner.load(indexed_run, "cpu")
        options = DecodingOptions(strategy="beam", rerank="consensus")
        mixed = [*images[:3], *photos, *images[3:8]]
        destination = Destination(tmp_path / "c.jsonl", strict=True)
        assert run(captioner, mixed[:6], destination, options=options, batch_size=4) == (5, 0, 1)
        assert run(captioner, mixed, destination, options=options, batch_size=4) == (6, 5, 2)
        rows = outputs.lines(tmp_path / "c.jsonl")
        assert len(rows) == 11
        for row in rows:
            assert row["caption"] == captioner.caption(row["image"], options).text
        plain = [captioner.caption(row["image"], DecodingOptions(strategy="beam", beam_size=6)).text for row in rows]
        assert [row["caption"] for row in rows] != plain, "the same captions would prove nothing"
        with pytest.raises(DataError, match="rerank_neighbours 4, now 2"):
            run(captioner, images, destination, options=options.replace(rerank_neighbours=2))

    def test_the_command_needs_no_strategy(
        self, indexed_run: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["caption", str(Path(photos[0]).parent), "--model", str(indexed_run), "--device", "cpu"]
        out = tmp_path / "c.jsonl"
        assert main([*command, "--rerank", "consensus", "--out", str(out)]) == 1  # two images are broken
        captioner = TrainedCaptioner.load(indexed_run, "cpu")
        options = DecodingOptions(strategy="beam", rerank="consensus")
        for row in outputs.lines(out):
            assert row["caption"] == captioner.caption(row["image"], options).text
        capsys.readouterr()
        assert main([*command, "--rerank", "mbr", "--strategy", "greedy", "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error == "seesay: error: --rerank is read by --strategy beam only; the strategy is greedy\n"


class TestOutput:
    @pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.tsv", "c.parquet"])
    def test_output_contains_the_captioners_captions_and_a_second_run_adds_do_nothing(
        self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path, name: str
    ) -> None:
        destination = Destination(tmp_path / "new" / name)
        assert run(captioner, photos, destination, batch_size=2) == (3, 0, 2)
        output = _output(tmp_path / "new" / name)
        output.open()
        expected = {photos[index]: [captioner.caption(photos[index]).text] for index in (0, 1, 3)}
        assert dict(output.captions()) == expected
        assert run(captioner, photos, destination) == (0, 3, 2)
        assert len(list(output.captions())) == 3

    def test_lines_contain_the_captions(self, captioner: TrainedCaptioner, images: list[str], tmp_path: Path) -> None:
        assert run(captioner, images[:3], Destination(tmp_path / "c.jsonl")) == (3, 0, 0)
        captions = captioner.caption(images[:3])
        written = [json_line(image, caption, False) for image, caption in zip(images, captions, strict=False)]
        assert outputs.lines(tmp_path / "c.jsonl") == [json.loads(line) for line in written]

    def test_broken_images_are_listed_once_and_retried(
        self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path
    ) -> None:
        destination = Destination(tmp_path / "c.jsonl")
        errors: list[str] = []
        for _ in range(2):
            run(captioner, photos, destination, print_error=errors.append, broken={"shard.tar": "shard.tar: truncated"})
            listed = outputs.lines(tmp_path / "c.errors.jsonl")
            assert [row["image"] for row in listed] == ["shard.tar", photos[2], photos[4]]
            assert "the file is empty" in listed[1]["error"]
        assert len(errors) == 6
        tiny.image(2).save(photos[2])
        assert run(captioner, photos, destination) == (1, 3, 1)
        assert [row["image"] for row in outputs.lines(tmp_path / "c.errors.jsonl")] == ["shard.tar", photos[4]]

    def test_progress_includes_images_of_earlier_jobs(
        self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path
    ) -> None:
        calls: list[tuple[int, int]] = []
        for _ in range(2):
            run(
                captioner,
                photos,
                Destination(tmp_path / "c.csv"),
                batch_size=2,
                progress=lambda done, total: calls.append((done, total)),
            )
        assert calls == [(0, 5), (2, 5), (4, 5), (5, 5), (3, 5), (5, 5)]

    def test_score_can_be_computed_from_a_line(
        self, captioner: TrainedCaptioner, images: list[str], tmp_path: Path
    ) -> None:
        # Bug: the end's log-probability, which is part of the score, was not written.
        options = DecodingOptions(strategy="beam", length_penalty=1.3)
        run(captioner, images[:3], Destination(tmp_path / "c.jsonl"), options=options)
        for line in outputs.lines(tmp_path / "c.jsonl"):
            total = sum(line["log_probs"]) + line["end_log_prob"]
            assert line["score"] == pytest.approx(total / (len(line["log_probs"]) + 1) ** 1.3, abs=1e-5)

    def test_scores_that_are_not_finite_are_null(self, captioner: TrainedCaptioner, images: list[str]) -> None:
        # Bug: they were written as NaN and Infinity, which are not valid JSON.
        caption = replace(
            captioner.caption(images[0]), score=float("nan"), end_log_prob=-float("inf"), log_probs=(float("inf"),)
        )
        line = json.loads(json_line("a", caption, True), parse_constant=pytest.fail)
        assert (line["score"], line["end_log_prob"], line["log_probs"]) == (None, None, [None])
        assert line["captions"][0]["score"] is None

    def test_single_captions_are_rejected_if_several_are_requested_unless_of_other_images(
        self, captioner: TrainedCaptioner, images: list[str], tmp_path: Path
    ) -> None:
        # Bug: images with one caption counted as done although three were requested.
        out = tmp_path / "c.jsonl"
        run(captioner, images[:2], Destination(out))
        before = out.read_bytes() + b'{"image'
        out.write_bytes(before)
        three = DecodingOptions(num_return_sequences=3)
        with pytest.raises(DataError, match=r"c\.jsonl has one caption, not 3, for 2 of the images; choose another"):
            run(captioner, images[:3], Destination(out), options=three)
        assert out.read_bytes() == before
        assert run(captioner, images[2:4], Destination(out), options=three) == (2, 0, 0)
        assert run(captioner, images[:4], Destination(out)) == (0, 4, 0)

    def test_lists_are_written_even_if_only_one_caption_was_found(
        self, captioner: TrainedCaptioner, images: list[str], tmp_path: Path
    ) -> None:
        # Bug: such a line had no list, as if one caption had been requested, and the next job failed.
        words = captioner.run.tokenizer.vocabulary
        options = DecodingOptions(num_return_sequences=3, max_length=1, bad_words=tuple(words[5:]), min_length=1)
        for _ in range(2):
            run(captioner, images[:2], Destination(tmp_path / "c.jsonl"), options=options)
        assert [len(line["captions"]) for line in outputs.lines(tmp_path / "c.jsonl")] == [1, 1]


class TestSidecars:
    def test_skip_writes_only_missing_texts(
        self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "photos" / "0.txt").write_text("mine")
        (tmp_path / "photos" / "1.txt").write_text(" \n")
        destination = Destination(sidecar=".txt", before="photo of ", errors=tmp_path / "e.jsonl")
        assert run(captioner, photos, destination) == (2, 1, 2)
        text = captioner.caption(photos[1]).text
        assert (tmp_path / "photos" / "1.txt").read_text() == f"photo of {text}\n"
        assert (tmp_path / "photos" / "0.txt").read_text() == "mine"
        assert run(captioner, photos, destination) == (0, 3, 2)

    @pytest.mark.parametrize("existing", ["overwrite", "append", "prefix", "suffix"])
    def test_an_existing_text_is_changed_once(
        self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path, existing: Any
    ) -> None:
        text = captioner.caption(photos[0]).text
        beside = tmp_path / "photos" / "0.caption"
        beside.write_bytes(b"m\xffine\r\n")
        destination = Destination(tmp_path / "c.jsonl", ".caption", existing=existing)
        assert run(captioner, photos[:2], destination) == (2, 0, 0)
        expected = {
            "overwrite": f"{text}\n",
            "append": f"m\udcffine\n{text}\n",
            "prefix": f"{text}, m\udcffine\n",
            "suffix": f"m\udcffine, {text}\n",
        }[existing]
        assert beside.read_bytes() == expected.encode("utf-8", "surrogateescape")
        beside.write_text("changed by hand afterwards")
        assert run(captioner, photos[:2], destination) == (0, 2, 0)
        assert beside.read_text() == "changed by hand afterwards"

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig", "cp1252", "latin-1"])
    @pytest.mark.parametrize("existing", ["append", "prefix", "suffix"])
    def test_text_file_keeps_its_encoding(self, photos: list[str], encoding: str, existing: Any) -> None:
        # Bug: UTF-8 was appended to UTF-16.
        mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
        beside = Path(photos[0]).with_suffix(".txt")
        for lines in ("une grêle\r\nd’été", "ein Hündchen"):
            lines = lines.replace("’", "'") if encoding == "latin-1" else lines
            beside.write_bytes(mark + lines.encode(encoding))
            for _ in range(2):
                Sidecars(".txt", existing).write(photos[0], "un chat blessé")
            text = beside.read_bytes().removeprefix(mark).decode(encoding)
            end = "\r\n" if "\r" in lines else "\n"
            assert text == merge_text(lines, "un chat blessé", existing).replace(f"{lines}\n", f"{lines}{end}") + end

    def test_text_that_the_encoding_lacks_is_an_error(self, photos: list[str]) -> None:
        beside = Path(photos[0]).with_suffix(".txt")
        beside.write_bytes("grêle".encode("cp1252"))
        with pytest.raises(DataError, match=r"0\.txt: cp1252 cannot encode '狗'; convert the file to UTF-8"):
            Sidecars(".txt", "append").write(photos[0], "狗")
        assert beside.read_bytes() == "grêle".encode("cp1252")
        Sidecars(".txt", "overwrite").write(photos[0], "狗")
        assert beside.read_text(encoding="utf-8") == "狗\n"

    def test_a_binary_file_is_not_replaced(self, photos: list[str]) -> None:
        beside = Path(photos[0]).with_suffix(".dat")
        beside.write_bytes(b"\0\1\2")
        for existing in get_args(Existing)[1:]:
            with pytest.raises(DataError, match=r"0\.dat is not a text file"):
                Sidecars(".dat", existing).write(photos[0], "a dog")
        assert beside.read_bytes() == b"\0\1\2"

    def test_missing_texts_are_written_from_the_output_without_the_model(
        self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(captioner, photos[:2], Destination(tmp_path / "c.csv"))
        monkeypatch.setattr(TrainedCaptioner, "encode", None)
        assert run(captioner, photos[:2], Destination(tmp_path / "c.csv", ".txt")) == (0, 2, 0)
        assert len(list((tmp_path / "photos").glob("*.txt"))) == 2

    def test_images_that_differ_only_in_their_suffix_have_separate_texts(
        self, captioner: TrainedCaptioner, tmp_path: Path
    ) -> None:
        for number, name in enumerate(("a.png", "a.jpg", "b.png")):
            tiny.image(number).save(tmp_path / name)
        names = find_images([str(tmp_path)]).images
        run(captioner, names, Destination(sidecar=".txt", errors=tmp_path / "e"))
        texts = {path.name: path.read_text().strip() for path in tmp_path.glob("*.txt")}
        assert texts == {
            name: captioner.caption(tmp_path / image).text
            for name, image in (("a.png.txt", "a.png"), ("a.jpg.txt", "a.jpg"), ("b.txt", "b.png"))
        }

    def test_sidecar_names_do_not_depend_on_the_images_of_the_job(
        self, captioner: TrainedCaptioner, tmp_path: Path
    ) -> None:
        # Bug: a.jpg and a.png, captioned in two runs, shared a.txt: three images captioned, two text files.
        names = ["a.jpg", "a.png", "b.png"]
        for number, name in enumerate(names):
            tiny.image(number).save(tmp_path / name)
        destination = Destination(sidecar=".txt", errors=tmp_path / "e")
        for name in names:
            assert run(captioner, [str(tmp_path / name)], destination) == (1, 0, 0)
        assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["a.jpg.txt", "a.png.txt", "b.txt"]
        assert run(captioner, find_images([str(tmp_path)]).images, destination) == (0, 3, 0)
        read = {Path(item.image).name: item.captions for item in load_annotations(tmp_path)}
        assert read == {name: (captioner.caption(tmp_path / name).text,) for name in names}

    def test_images_that_are_not_files_are_an_error(self, captioner: TrainedCaptioner, tmp_path: Path) -> None:
        for name in ("shard.tar::a.jpg", "https://example.org/a.jpg"):
            with pytest.raises(DataError, match="is not a file; use --out"):
                run(captioner, [name], Destination(sidecar=".txt"))


@pytest.mark.parametrize(
    ("existing", "after"),
    [("skip", "old"), ("overwrite", "new"), ("append", "old\nnew"), ("prefix", "new, old"), ("suffix", "old, new")],
)
def test_merging_twice_has_no_further_effect(existing: Any, after: str) -> None:
    assert merge_text("old", "new", existing) == after
    assert merge_text(after, "new", existing) == after
    assert merge_text(" ", "new", existing) == "new"
    assert merge_text("new", "new", existing) == "new"
    assert merge_text("renew", "new", existing) != "renew" or existing == "skip"


class TestDescriptions:
    @pytest.mark.parametrize(("field", "fields"), [("xmp", ["xmp"]), ("exif", ["exif"]), ("both", ["xmp", "exif"])])
    def test_are_written_into_the_files_once(
        self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path, field: Any, fields: list[Any]
    ) -> None:
        before = Path(photos[0]).read_bytes()
        text = captioner.caption(photos[0]).text
        destination = Destination(embed=field, errors=tmp_path / "e.jsonl")
        assert run(captioner, photos, destination) == (3, 0, 2)
        after = Path(photos[0]).read_bytes()
        assert [read_description(after, each) for each in fields] == [text] * len(fields)
        assert after[after.index(b"\xff\xda") :] == before[before.index(b"\xff\xda") :]
        assert captioner.caption(photos[0]).text == text
        assert run(captioner, photos, destination) == (0, 3, 2)
        assert Path(photos[0]).read_bytes() == after

    def test_unsupported_files_and_links_are_listed_and_captioned_in_the_output(
        self, captioner: TrainedCaptioner, photos: list[str], tmp_path: Path
    ) -> None:
        tiny.image(0).save(tmp_path / "a.gif")
        (tmp_path / "link.jpg").symlink_to(photos[0])
        before = Path(photos[0]).read_bytes()
        images = [str(tmp_path / "a.gif"), str(tmp_path / "link.jpg"), photos[1]]
        for existing in ("skip", "append"):
            out = tmp_path / f"{existing}.jsonl"
            for counts in ((1, 0, 2), (0, 1, 2)):
                assert run(captioner, images, Destination(out, embed="xmp", existing=existing)) == counts
                listed = outputs.lines(out.with_suffix(".errors.jsonl"))
                assert [row["image"] for row in listed] == images[:2]
                assert "only in JPEG, PNG, WebP and TIFF" in listed[0]["error"]
                assert "is a symbolic link" in listed[1]["error"]
            assert len(outputs.lines(out)) == 3
        assert Path(photos[0]).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no output for the captions; give --out, --sidecar or --embed"),
        ({"sidecar": "txt"}, "such as .txt, not 'txt'"),
        ({"out": Path("c.jsonl"), "existing": "append"}, "apply to --sidecar or --embed"),
        ({"sidecar": ".txt", "existing": "append"}, "--existing append changes existing texts; add --out FILE"),
    ],
)
def test_contradicting_destinations_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Destination(**options)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of 200 images, most of them links to one of twenty, every tenth broken."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(20):
        tiny.image(number, 24, 20).save(folder / f"source{number}.jpg")
    links = folder / "links"
    links.mkdir()
    for number in range(200):
        if number % 10 == 7:
            (links / f"{number:03d}.jpg").write_bytes(b"\xff\xd8\xff broken")
        else:
            (links / f"{number:03d}.jpg").symlink_to(folder / f"source{number % 20}.jpg")
    return find_images([str(links)]).images


class TestKills:
    """A job of 200 images, 20 of them broken, has the same result however often it was killed."""

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
    @pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.parquet"])
    def test_kills_at_random_moments_lose_or_repeat_do_nothing(
        self, cached_run: Path, captioner: TrainedCaptioner, many: list[str], tmp_path: Path, name: str
    ) -> None:
        out = tmp_path / name
        rng = random.Random(name)
        before = 0
        for moment in range(5):
            index, call = rng.randrange(len(_MOMENTS)), rng.randint(1, 3)
            code = processes.run(_job_that_dies, cached_run, many, out, index, call)
            assert code in (-signal.SIGKILL, 0), f"call {call} of {_MOMENTS[index][1]}, moment {moment}"
            now = len(_output(out).open()) if out.exists() else 0
            assert now >= before, "a kill lost captions"
            before = now
        assert run(captioner, many, Destination(out), batch_size=_BATCH)[2] == 20
        output = _output(out)
        output.open()
        captions = list(output.captions())
        broken = [image for index, image in enumerate(many) if index % 10 == 7]
        assert sorted(image for image, _ in captions) == sorted(set(many) - set(broken))
        assert sorted(row["image"] for row in outputs.lines(tmp_path / "c.errors.jsonl")) == broken
        fresh = {image: caption.text for image, caption in zip(many[:7], captioner.caption(many[:7]), strict=True)}
        assert all(found == [fresh[image]] for image, found in captions if image in fresh)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
    @pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14, 17, 18])
    def test_a_kill_at_any_write_adds_a_text_once(self, cached_run: Path, tmp_path: Path, call: int) -> None:
        """Every write of a job of two batches: pending file, output, sidecars, deletion of the pending file."""
        for number in range(4):
            tiny.image(number).save(tmp_path / f"{number}.png")
            (tmp_path / f"{number}.txt").write_text("old\n")
        names = sorted(map(str, tmp_path.glob("*.png")))
        code = processes.run(_appending_job_that_dies, cached_run, names, tmp_path / "c.jsonl", call)
        assert code == (-signal.SIGKILL if call <= 17 else 0)
        captioner = TrainedCaptioner.load(cached_run, "cpu")
        run(captioner, names, Destination(tmp_path / "c.jsonl", ".txt", existing="append"))
        rows = {row["image"]: row["caption"] for row in outputs.lines(tmp_path / "c.jsonl")}
        assert sorted(rows) == names
        assert len(outputs.lines(tmp_path / "c.jsonl")) == 4
        for name in names:
            assert Path(name).with_suffix(".txt").read_text() == f"old\n{rows[name]}\n"
        assert not [path for path in tmp_path.iterdir() if path.name.endswith(".pending")]


_BATCH = 16


def _write_part(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data[: len(data) * 2 // 3])


def _do_nothing(*_: object, **__: object) -> None:
    pass


_MOMENTS: list[tuple[Any, str, Callable[..., None]]] = [
    (writers, "append", _write_part),
    (writers, "append", _do_nothing),
    (writers, "append", files.append),
    (job._Job, "add_batch", _do_nothing),
    (job._Job, "fail", _do_nothing),
    (TrainedCaptioner, "_encode_batch", _do_nothing),
]


def _job_that_dies(model: Path, images: list[str], out: Path, index: int, call: int) -> None:
    captioner = TrainedCaptioner.load(model, "cpu")
    owner, method, before = _MOMENTS[index]
    processes.die_at(owner, method, call, before)
    caption_collection(captioner, images, Destination(out), batch_size=_BATCH)


def _appending_job_that_dies(model: Path, images: list[str], out: Path, call: int) -> None:
    """Counts all writes and deletions: 1 of the recipe, and 8 per batch of two."""
    from seesay.bulk import sinks

    captioner = TrainedCaptioner.load(model, "cpu")
    calls = itertools.count(1)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def count_and_call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == call:
                processes.die()
            return function(*arguments, **options)

        return count_and_call

    writers.append = counted(writers.append)  # type: ignore[attr-defined]
    sinks.write_atomically = counted(sinks.write_atomically)  # type: ignore[attr-defined]
    job.write_atomically = counted(job.write_atomically)  # type: ignore[attr-defined]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    destination = Destination(out, ".txt", existing="append")
    caption_collection(captioner, images, destination, batch_size=2)
