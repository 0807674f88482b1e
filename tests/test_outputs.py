"""Outputs never replace an input or a foreign file, and only files written by seesay are deleted."""

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seesay.checkpoint import RUN, load_run, read_weights, save_weights
from seesay.cli import main as cli
from seesay.data.annotations import Annotations, write_annotations
from seesay.data.synthetic.scenes import make_scenes
from seesay.errors import CheckpointError, DataError
from seesay.evaluation import evaluate, save_evaluation
from seesay.explanation import write_report
from seesay.export.folder import atomic_folder, check_target
from seesay.outputs import HTML_PAGE, MARKER, check_file, check_inputs, check_name, delete_own, only_writer_of
from seesay.training.train import train
from seesay.training.tuning.tune import tune
from tests import processes, tiny

Run = Callable[..., str]


@pytest.fixture
def run_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command that must fail, in an empty folder, and returns its one-line error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert cli.main([str(argument) for argument in arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run


def content(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestExplain:
    @pytest.mark.parametrize("out", ["photo.html", "photo.png", "p2.png", "p2.html", "notes.html"])
    def test_a_figure_or_page_does_not_replace_a_photo_or_foreign_page(
        self, run_refused: Run, cached_run: Path, tmp_path: Path, out: str
    ) -> None:
        for number, name in enumerate(("photo.png", "p2.png")):
            tiny.image(number).save(tmp_path / name)
        (tmp_path / "notes.html").write_text("<html>mine</html>")
        before = content(tmp_path)
        line = run_refused("explain", "photo.png", "--model", cached_run, "--out", out)
        assert "--out" in line
        assert content(tmp_path) == before

    def test_a_beam_tree_does_not_replace_a_photo(self, run_refused: Run, cached_run: Path, tmp_path: Path) -> None:
        tiny.image(0).save(tmp_path / "photo.png")
        before = content(tmp_path)
        assert "is an input" in run_refused(
            "explain", "photo.png", "--model", cached_run, "--beam-tree", "--out", "photo.png"
        )
        assert content(tmp_path) == before

    def test_arrays_do_not_replace_foreign_ones(self, run_refused: Run, cached_run: Path, tmp_path: Path) -> None:
        tiny.image(0).save(tmp_path / "photo.png")
        (tmp_path / "x.npz").write_bytes(b"PK\3\4 the user's own arrays")
        line = run_refused("explain", "photo.png", "--model", cached_run, "--out", "x.html", "--save-arrays")
        assert "x.npz exists and is not an array archive written by seesay" in line

    def test_own_files_are_replaced(self, cached_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        tiny.image(0).save(tmp_path / "photo.png")
        for _ in range(2):
            for flags in (["--out", "x.html", "--save-arrays"], ["--beam-tree", "--out", "t.png"]):
                assert cli.main(["explain", "photo.png", "--model", str(cached_run), *flags]) == 0


class TestCaption:
    @pytest.fixture(autouse=True)
    def photos(self, tmp_path: Path) -> None:
        """Two images in the current folder."""
        for number in range(2):
            tiny.image(number).save(tmp_path / f"{number}.jpg")

    @pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".heic", ".json", ".csv", ".tags.html"])
    def test_a_sidecar_suffix_of_images_or_data_is_refused(self, run_refused: Run, tmp_path: Path, suffix: str) -> None:
        before = content(tmp_path)
        flags = ["--sidecar", suffix, "--existing", "overwrite", "--out", "c.jsonl"]
        assert f"--sidecar {suffix} is a suffix of images or data" in run_refused("caption", ".", *flags)
        assert content(tmp_path) == before

    @pytest.mark.parametrize("name", ["", " "])
    def test_an_empty_source_is_refused(self, run_refused: Run, tmp_path: Path, name: str) -> None:
        before = content(tmp_path)
        assert "a source is empty" in run_refused("caption", name, "--sidecar", ".txt")
        assert content(tmp_path) == before

    @pytest.mark.parametrize("out", ["", ".", "/"])
    def test_an_output_without_a_name_is_refused(self, run_refused: Run, out: str) -> None:
        assert "--out" in run_refused("caption", "0.jpg", "--out", out)
        assert "--errors" in run_refused("caption", "0.jpg", "--out", "c.jsonl", "--errors", out)

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            ("list.csv --out list.csv", "--out list.csv is an input"),
            ("list.csv --out ./list.csv", "is an input"),
            ("list.csv --out c.csv --errors list.csv", "--errors list.csv is an input"),
            ("in.parquet/0.jpg --out in.parquet", "--out in.parquet contains the input in.parquet/0.jpg"),
            ("0.jpg --out human.jsonl", "human.jsonl exists and is not a file of captions"),
            ("0.jpg --out human.csv", "human.csv exists and is not a file of captions"),
            ("0.jpg --out human.parquet", "is not a file of captions"),
            ("0.jpg --out c.jsonl --errors human.jsonl", "human.jsonl exists and is not a file of captions"),
            ("0.jpg --out c.jsonl --errors c.jsonl", "--errors c.jsonl is the same file as --out"),
        ],
    )
    def test_inputs_and_human_captions_are_not_modified(
        self, run_refused: Run, cached_run: Path, tmp_path: Path, flags: str, line: str
    ) -> None:
        (tmp_path / "in.parquet").mkdir()
        shutil.copyfile("0.jpg", tmp_path / "in.parquet" / "0.jpg")
        (tmp_path / "list.csv").write_text("image,caption,score,finished\n0.jpg,a dog,1,true\n")
        (tmp_path / "human.csv").write_text("image,caption\n1.jpg,a dog\n")
        (tmp_path / "human.jsonl").write_text('{"image": "1.jpg", "caption": "a human wrote this"}\n')
        (tmp_path / "human.parquet").mkdir()
        table = pa.table({"image": ["1.jpg"], "caption": ["a human wrote this"]})
        pq.write_table(table, tmp_path / "human.parquet" / "part-00000.parquet")
        before = content(tmp_path)
        assert line in run_refused("caption", *flags.split(), "--model", cached_run)
        after = content(tmp_path)
        assert {name: after[name] for name in before} == before


class TestNames:
    @pytest.mark.parametrize("out", ["", ".", "..", "/"])
    @pytest.mark.parametrize(
        "command",
        ["train {data}", "tune {data}", "explain {photo} --model {run}", "export {run}", "evaluate {run} {data}"],
    )
    def test_an_output_without_a_name_is_refused(
        self,
        run_refused: Run,
        cached_run: Path,
        colours: Path,
        images: list[str],
        tmp_path: Path,
        command: str,
        out: str,
    ) -> None:
        words = command.format(data=colours, photo=images[0], run=cached_run).split()
        line = run_refused(*words, "--out", out)
        assert "is not the name of a file or folder" in line or f"--out {Path(out)}: the suffix" in line
        assert list(tmp_path.iterdir()) == []

    def test_links_and_other_paths_of_an_input_are_recognised(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a.jpg").touch()
        (tmp_path / "link").symlink_to(tmp_path / "data")
        for out, input_path in (
            ("link/a.jpg", "data/a.jpg"),
            ("data/a.jpg", "link/a.jpg"),
            ("data/../data/a.jpg", "data/a.jpg"),
            ("data/a.jpg", "data/a.jpg::member"),
        ):
            with pytest.raises(DataError, match="is an input"):
                check_inputs(tmp_path / out, [tmp_path / input_path])
        ignored = [None, "", "https://example.org/a.jpg", f"{tmp_path}/data/{'x' * 300}", "a\0b"]
        with pytest.raises(DataError, match="contains the input"):
            check_inputs(tmp_path / "data", [*ignored, tmp_path / "link" / "a.jpg"])
        check_inputs(tmp_path / "data" / "b.jpg", [tmp_path / "data", tmp_path / "data" / "a.jpg"])
        check_name("a")

    def test_a_file_does_not_replace_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"which is a folder; pass a file with --json"):
            check_file(tmp_path, HTML_PAGE, "--json")


class TestTrain:
    def test_a_folder_that_contains_the_data_is_refused(self, colours: Path, weights: Path, tmp_path: Path) -> None:
        data = shutil.copytree(colours, tmp_path / "proj" / "data")
        before = content(tmp_path)
        for out in (tmp_path / "proj", data):
            for overwrite in (False, True):
                with pytest.raises(DataError, match="input"):
                    train(tiny.cached(weights), data, out, features=tmp_path / "f", overwrite=overwrite)
        assert content(tmp_path) == before

    def test_a_config_of_the_user_is_not_replaced(self, colours: Path, weights: Path, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("mine: 1\n")
        with pytest.raises(DataError, match=r"config\.yaml would be replaced, .*--out"):
            train(tiny.cached(weights), colours, tmp_path, features=tmp_path / "f", overwrite=True)
        assert content(tmp_path) == {"config.yaml": b"mine: 1\n"}

    def test_overwrite_deletes_only_files_written_by_seesay(self, cached_run: Path, tmp_path: Path) -> None:
        run = shutil.copytree(cached_run, tmp_path / "run")
        mine = ("notes.txt", "data/photo.jpg", "checkpoints/mine.ckpt", "predictions/test/notes.md")
        for name in mine:
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text("mine")
        delete_own(run, RUN)
        assert sorted(content(run)) == sorted(mine)

    def test_an_own_run_is_deleted_completely(self, cached_run: Path, tmp_path: Path) -> None:
        run = shutil.copytree(cached_run, tmp_path / "run")
        delete_own(run, RUN)
        assert not run.exists()

    def test_a_foreign_folder_is_not_deleted(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").touch()
        delete_own(tmp_path, RUN)
        assert (tmp_path / "config.yaml").exists()

    def test_a_second_training_in_a_folder_is_refused_with_the_holder(
        self, colours: Path, weights: Path, tmp_path: Path
    ) -> None:
        holder = rf"another process \(pid {os.getpid()} on {socket.gethostname()}\) is writing to .*; wait for it"
        with only_writer_of(tmp_path / "run", RUN), pytest.raises(DataError, match=holder):
            train(tiny.cached(weights), colours, tmp_path / "run", features=tmp_path / "f")
        assert list(tmp_path.iterdir()) == []  # the empty folder is deleted

    def test_a_killed_process_releases_the_folder(self, tmp_path: Path) -> None:
        assert processes.run(_die_holding, tmp_path) == 9
        with only_writer_of(tmp_path, RUN):
            assert json.loads((tmp_path / MARKER).read_text())["pid"] == os.getpid()


def _die_holding(folder: Path) -> None:
    with only_writer_of(folder, RUN):
        (folder / "config.yaml").touch()
        os._exit(9)


class TestFolders:
    def test_tuning_does_not_replace_foreign_files(self, colours: Path, weights: Path, tmp_path: Path) -> None:
        (tmp_path / "best.yaml").write_text("mine")
        with pytest.raises(DataError, match=r"best\.yaml would be replaced"):
            tune(tiny.cached(weights), colours, tmp_path, trials=1, features=tmp_path / "f", overwrite=True)
        assert content(tmp_path) == {"best.yaml": b"mine"}

    def test_evaluation_does_not_replace_its_predictions(
        self, run_refused: Run, colours: Path, annotations: Annotations, tmp_path: Path
    ) -> None:
        (tmp_path / "mine").mkdir()
        lines = (json.dumps({"id": item.id, "caption": "red"}) for item in annotations.split("test"))
        (tmp_path / "mine" / "predictions.jsonl").write_text("\n".join(lines))
        before = content(tmp_path)
        line = run_refused("evaluate", "mine/predictions.jsonl", colours, "--out", "mine")
        assert "--out mine contains the input mine/predictions.jsonl" in line
        result = evaluate("mine/predictions.jsonl", colours, split="test", metrics=("BLEU",))
        with pytest.raises(DataError, match=r"predictions\.jsonl would be replaced"):
            save_evaluation(result, tmp_path / "mine")
        assert content(tmp_path) == before
        for _ in range(2):
            save_evaluation(result, tmp_path / "own")

    def test_export_does_not_delete_foreign_files(self, tmp_path: Path) -> None:
        target = tmp_path / "onnx"
        target.mkdir()
        (target / "export.json").write_text('{"seesay": "0.1.0"}')
        check_target(target)
        (target / "notes.txt").write_text("mine")
        with (
            pytest.raises(DataError, match=r"contains notes\.txt, which is not part of an export"),
            atomic_folder(target),
        ):
            pass
        assert (target / "notes.txt").read_text() == "mine"

    def test_scenes_do_not_replace_foreign_images(self, tmp_path: Path) -> None:
        make_scenes(tmp_path / "own", 1, 0, 0)
        (tmp_path / "own" / "captions.jsonl").unlink()  # as after a kill
        make_scenes(tmp_path / "own", 1, 0, 0)
        shutil.rmtree(tmp_path / "own")
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "scene-train-00000.png").write_text("mine")
        with pytest.raises(DataError, match=r"scene-train-00000\.png exists and is not an image written by"):
            make_scenes(tmp_path, 1, 0, 0)
        assert content(tmp_path) == {"images/scene-train-00000.png": b"mine"}

    def test_a_damaged_marker_is_ignored(self, tmp_path: Path) -> None:
        for text in ("", "[1]", '{"kind": ["run"]}', '{"kind": "ru'):
            (tmp_path / MARKER).write_text(text)
            (tmp_path / "config.yaml").touch()
            delete_own(tmp_path, RUN)
            assert (tmp_path / "config.yaml").exists()


def test_the_demo_does_not_replace_a_foreign_page(run_refused: Run, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert "report.html exists and is not a page written by seesay" in run_refused("demo", "--out", tmp_path)
    assert "is not the name of a file or folder" in run_refused("demo", "--out", ".")
    assert content(tmp_path) == {"report.html": b"mine"}


def test_extraction_does_not_replace_other_files(
    run_refused: Run, colours: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "a.safetensors.old.tmp").write_bytes(b"mine")
    encoder = ["--encoder", tiny.ENCODER, "--encoder-weights", weights, "--image-size", tiny.SIZE, "--device", "cpu"]
    assert "photo.jpg is not a feature store" in run_refused("extract", colours, *encoder, "--out", "photo.jpg")
    assert "is not the name of a file" in run_refused("extract", colours, *encoder, "--out", ".")
    assert "contains the input" in run_refused("extract", colours, *encoder, "--out", colours.parent)
    assert cli.main(["extract", str(colours), *map(str, encoder), "--out", "a.safetensors"]) == 0
    assert (tmp_path / "a.safetensors.old.tmp").read_bytes() == b"mine"


class TestData:
    @pytest.mark.parametrize("out", ["photo.jpg", "captions.csv", "human.jsonl"])
    def test_convert_does_not_replace_an_image_or_annotations(self, run_refused: Run, tmp_path: Path, out: str) -> None:
        tiny.image(0).save(tmp_path / "photo.jpg")
        (tmp_path / "captions.csv").write_text("image,caption\nphoto.jpg,a dog\n")
        (tmp_path / "human.jsonl").write_text('{"image": "photo.jpg", "caption": "a human wrote this"}\n')
        before = content(tmp_path)
        run_refused("data", "convert", "captions.csv", out)
        run_refused("data", "convert", "captions.csv", out, "--overwrite")
        assert content(tmp_path) == before

    def test_convert_with_swapped_arguments_destroys_nothing(
        self, run_refused: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tiny.image(0).save(tmp_path / "photo.jpg")
        (tmp_path / "captions.csv").write_text("image,caption\nphoto.jpg,a dog\n")
        for _ in range(2):  # the same content may be written again
            assert cli.main(["data", "convert", "captions.csv", "out.jsonl"]) == 0
        before = content(tmp_path)
        assert "captions.csv exists and is not" in run_refused("data", "convert", "out.jsonl", "captions.csv")
        (tmp_path / "other.csv").write_text("image,caption\nphoto.jpg,a cat\n")
        assert "contains other annotations" in run_refused("data", "convert", "other.csv", "out.jsonl")
        assert content(tmp_path) == {**before, "other.csv": b"image,caption\nphoto.jpg,a cat\n"}
        assert cli.main(["data", "convert", "other.csv", "out.jsonl", "--overwrite"]) == 0
        assert "a cat" in (tmp_path / "out.jsonl").read_text()


def test_a_report_does_not_replace_a_foreign_page(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html>mine</html>")
    with pytest.raises(DataError, match=r"index\.html exists and is not a page written by seesay"):
        write_report(tmp_path / "index.html", "x", [])


class TestPermissions:
    def test_files_follow_the_umask(self, cached_run: Path, annotations: Annotations, tmp_path: Path) -> None:
        # Bug: model.safetensors and converted annotations were 0600, unreadable for other users.
        before = os.umask(0o022)
        try:
            run = shutil.copytree(cached_run, tmp_path / "run", copy_function=shutil.copyfile)
            weights = read_weights(load_run(run))
            (run / "model.safetensors").unlink()
            save_weights(run, weights)
            write_annotations(annotations, tmp_path / "captions.jsonl")
            make_scenes(tmp_path / "scenes", 1, 0, 0)
        finally:
            os.umask(before)
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
        assert {path for path, mode in modes.items() if mode != 0o644} == set()

    def test_weights_without_read_permission_are_reported_as_such(
        self, cached_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Bug: safetensors reports them as missing, and the message was that the first epoch had not ended.
        run = load_run(cached_run)

        def deny(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("seesay.checkpoint.check_readable", deny)
        with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read \(Permission denied\)"):
            read_weights(run)
