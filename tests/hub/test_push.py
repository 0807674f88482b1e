"""Push to a local stand-in for the hub and load from it: what is sent, what is equal, and one line for what fails."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from seesay import load_captioner
from seesay.captioners.recommended import cached_models
from seesay.config import resolve_config
from seesay.errors import CheckpointError, ConfigError, DownloadError, SeesayError, UploadError
from seesay.hub.card import CardOptions
from seesay.hub.facts import read_facts
from seesay.hub.push import PushOptions, push, write_repository
from tests.captioners.pretrained.hub import Hub
from tests.cli.test_main import Seesay, seesay

__all__ = ["seesay"]  # a fixture

# Of the hub's library, which passes the file to its HTTP library under an older name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

NAME = "ada/colours"
PLAIN = CardOptions()
FILES = {".gitattributes", "README.md", "captioner.json", "config.yaml", "curves.png", "metrics.csv"} | {
    "model.safetensors",
    "tokenizer.json",
}


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def error_of(run: Path, name: str = NAME, **options: Any) -> SeesayError:
    """The error of a push, which is one line."""
    with pytest.raises(SeesayError) as caught:
        push(run, name, PushOptions(**options))
    assert "\n" not in str(caught.value)
    return caught.value


class TestRoundTrip:
    def test_a_pushed_run_generates_the_same_captions(
        self, hub: Hub, run: Path, images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = [caption.text for caption in load_captioner(run).caption(images)]
        assert len(set(expected)) > 5
        done = push(run, NAME)
        assert (done.url, done.private) == (f"{hub.url}/{NAME}", True)
        assert files_of(hub.repositories[NAME]) == FILES
        shutil.rmtree(run)
        with load_captioner(NAME) as captioner:
            assert captioner.name == NAME
            (identity,) = captioner.identities()
            assert [caption.text for caption in captioner.caption(images)] == expected
        assert identity.name == NAME
        assert [(model.name, model.revision) for model in cached_models()] == [(NAME, done.commit)]
        hub.requests.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with load_captioner(NAME) as captioner:
            assert [caption.text for caption in captioner.caption(images)] == expected
        assert hub.requests == []

    def test_a_revision_selects_an_earlier_push(self, hub: Hub, run: Path, loop_run: Path, images: list[str]) -> None:
        first = push(run, NAME)
        second = push(loop_run, NAME)
        assert first.commit != second.commit
        for revision, source in ((first.commit, run), (second.commit, loop_run)):
            with load_captioner(f"{NAME}@{revision}") as found, load_captioner(source) as expected:
                assert found.caption(images[0]).text == expected.caption(images[0]).text
                assert found.describe() == expected.describe()

    def test_runs_of_the_hub_and_of_this_machine_are_ensembled(self, hub: Hub, run: Path, images: list[str]) -> None:
        push(run, NAME)
        with load_captioner([NAME, run]) as ensemble, load_captioner(run) as single:
            assert ensemble.name == f"{NAME}+mine"
            assert ensemble.caption(images[0]).text == single.caption(images[0]).text

    def test_files_of_an_earlier_run_are_deleted_and_large_ones_sent_once(self, hub: Hub, run: Path) -> None:
        push(run, NAME)
        (run / "curves.png").unlink()
        hub.requests.clear()
        push(run, NAME)
        assert files_of(hub.repositories[NAME]) == FILES - {"curves.png"}
        assert [request for request in hub.requests if request.startswith("PUT")] == []

    def test_an_interrupted_push_resumes(self, hub: Hub, run: Path) -> None:
        hub.failures = {f"POST /api/models/{NAME}/commit": 500}
        error = error_of(run)
        assert isinstance(error, UploadError)
        assert str(error) == f"{NAME}: the hub answered 500; run the same command later to resume"
        hub.requests.clear()
        push(run, NAME)
        assert [request for request in hub.requests if request.startswith("PUT")] == []
        assert files_of(hub.repositories[NAME]) == FILES


class TestWhatIsSent:
    def test_no_path_of_this_machine(self, hub: Hub, run: Path, colours: Path, weights: Path, tmp_path: Path) -> None:
        info = json.loads((run / "captioner.json").read_text())
        assert info["data"] == str(colours)
        push(run, NAME)
        folder = hub.repositories[NAME]
        assert json.loads((folder / "captioner.json").read_text())["data"] == colours.name
        config = resolve_config(file=folder / "config.yaml")
        assert config.encoder.encoder_weights == weights.name
        changed = config.replace(encoder=config.encoder.replace(encoder_weights=str(weights)))
        assert changed == resolve_config(file=run / "config.yaml")
        for path in folder.iterdir():
            content = path.read_bytes()
            for secret in (colours, weights.parent, run, tmp_path, Path.home(), Path.cwd()):
                assert f"{secret}/".encode() not in content, path
                assert f"{secret}\n".encode() not in content, path

    def test_no_training_data_and_nothing_else_in_the_folder(self, hub: Hub, run: Path) -> None:
        for name in ("notes.txt", "checkpoints/mine.ckpt", "retrieval.safetensors", "model/code.py", "features/a.npy"):
            (run / name).parent.mkdir(exist_ok=True)
            (run / name).write_text("private")
        push(run, NAME)
        assert files_of(hub.repositories[NAME]) == FILES
        assert not any(b"private" in content for content in hub.objects.values())

    def test_a_public_repository_is_asked_for(self, hub: Hub, run: Path) -> None:
        assert not push(run, NAME, PushOptions(public=True)).private
        assert hub.private == set()

    def test_the_card_alone(self, hub: Hub, run: Path) -> None:
        assert "push the run first" in str(error_of(run, card_only=True))
        push(run, NAME)
        before = {path.name: path.read_bytes() for path in hub.repositories[NAME].iterdir()}
        push(run, NAME, PushOptions(CardOptions(license="mit"), card_only=True))
        after = {path.name: path.read_bytes() for path in hub.repositories[NAME].iterdir()}
        assert {name for name in after if after[name] != before[name]} == {"README.md"}
        assert b"license: mit" in after["README.md"]


class TestRefusals:
    def test_an_unfinished_run(self, hub: Hub, run: Path) -> None:
        info = json.loads((run / "captioner.json").read_text())
        info["progress"] |= {"finished": False, "epochs": 3}
        (run / "captioner.json").write_text(json.dumps(info))
        assert "is not finished (3 epochs); finish it with seesay train DATA" in str(error_of(run))
        assert hub.requests == []

    def test_what_is_not_a_run(self, hub: Hub, tmp_path: Path) -> None:
        assert "is not a run folder" in str(error_of(tmp_path))
        assert hub.requests == []

    def test_a_damaged_run_is_noticed_before_anything_is_sent(self, hub: Hub, run: Path) -> None:
        path = run / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        error = error_of(run)
        assert isinstance(error, CheckpointError)
        assert "model.safetensors is damaged or cut short" in str(error)
        path.unlink()
        assert "has no weights" in str(error_of(run))
        assert hub.repositories == {}

    @pytest.mark.parametrize("name", ["colours", "a/b/c", "ada/ colours", "ada/x@main", "", "ada/a--b", "../x"])
    def test_a_name_that_the_hub_does_not_allow(self, hub: Hub, run: Path, name: str) -> None:
        assert "is not a name for the hub" in str(error_of(run, name))
        assert hub.requests == []

    def test_no_token(self, hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "absent"))
        assert "run: hf auth login, or set HF_TOKEN" in str(error_of(run))
        assert hub.requests == []

    def test_a_token_that_the_hub_does_not_know(self, hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_other")
        assert "the hub refuses the token (401)" in str(error_of(run))

    def test_another_owner(self, hub: Hub, run: Path) -> None:
        error = error_of(run, "bob/colours")
        assert isinstance(error, UploadError)
        assert "bob/colours: the token may not write there (403)" in str(error)

    def test_offline(self, hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert "cannot be reached (http://127.0.0.1:9 does not answer)" in str(error_of(run))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "cannot be reached (HF_HUB_OFFLINE is set)" in str(error_of(run))

    def test_a_repository_of_another_kind_is_not_overwritten(self, hub: Hub, run: Path, tmp_path: Path) -> None:
        hub.repositories[NAME] = tmp_path / "other"
        hub.repositories[NAME].mkdir()
        (hub.repositories[NAME] / "config.json").write_text("{}")
        assert "has files of another kind, such as config.json; choose another name" in str(error_of(run))
        assert files_of(hub.repositories[NAME]) == {"config.json"}

    def test_a_licence_that_the_hub_does_not_know(self, hub: Hub, run: Path) -> None:
        error = error_of(run, card=CardOptions(license="free"))
        assert isinstance(error, ConfigError)
        assert 'the hub refuses the model card: Invalid metadata in README.md. - "license" must be' in str(error)

    def test_an_example_that_is_no_image(self, hub: Hub, run: Path) -> None:
        assert "no such file" in str(error_of(run, card=CardOptions(example="absent.jpg")))
        assert hub.repositories == {}


class TestDownload:
    def load_error(self, name: str) -> SeesayError:
        with pytest.raises(SeesayError) as caught:
            load_captioner(name, "cpu")
        assert "\n" not in str(caught.value)
        return caught.value

    def test_a_repository_without_a_captioner(self, hub: Hub, tmp_path: Path) -> None:
        hub.repositories[NAME] = tmp_path / "data"
        hub.repositories[NAME].mkdir()
        (hub.repositories[NAME] / "README.md").write_text("images")
        assert "has neither captioner.json nor config.json" in str(self.load_error(NAME))

    def test_unknown_names_and_revisions(self, hub: Hub, run: Path) -> None:
        push(run, NAME)
        assert "the hub has no model of this name" in str(self.load_error("ada/absent"))
        assert "the hub has no such revision" in str(self.load_error(f"{NAME}@v9"))

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("captioner.json", "{", "captioner.json is damaged"),
            ("captioner.json", "[]", "captioner.json is damaged"),
            ("config.yaml", "a: [", "is not valid YAML"),
            ("config.yaml", "!!python/object/apply:os.system ['true']", "is not valid YAML"),
            ("tokenizer.json", "{}", "tokenizer.json"),
            ("model.safetensors", "cut", "is damaged or cut short"),
        ],
    )
    def test_a_damaged_repository(self, hub: Hub, run: Path, file: str, content: str, message: str) -> None:
        push(run, NAME)
        (hub.repositories[NAME] / file).write_text(content)
        assert message in str(self.load_error(NAME))

    def test_a_file_that_was_damaged_on_the_way(self, hub: Hub, run: Path) -> None:
        push(run, NAME)
        hub.damaged.add("model.safetensors")
        error = self.load_error(NAME)
        assert isinstance(error, DownloadError)
        assert "was damaged on the way" in str(error)

    def test_code_in_a_repository_is_neither_downloaded_nor_run(
        self, hub: Hub, run: Path, tmp_path: Path, images: list[str]
    ) -> None:
        push(run, NAME)
        mark = tmp_path / "executed"
        for name in ("captioner.py", "model/modeling.py", "checkpoints/last.ckpt", "adapter/adapter_model.bin"):
            path = hub.repositories[NAME] / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"open({str(mark)!r}, 'w')")
        with load_captioner(NAME) as captioner:
            captioner.caption(images[0])
            (folder,) = captioner.folders
        assert files_of(folder) == {"captioner.json", "config.yaml", "model.safetensors", "tokenizer.json"}
        assert not mark.exists()


class TestCard:
    def card(self, run: Path, folder: Path, options: CardOptions = PLAIN) -> tuple[dict[str, Any], str]:
        write_repository(read_facts(run), folder, NAME, options)
        _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
        return yaml.safe_load(metadata), text

    def test_it_has_the_scores_of_the_run(self, run: Path, tmp_path: Path) -> None:
        metadata, text = self.card(run, tmp_path / "out", CardOptions("mit", ("colours",)))
        scores = json.loads((run / "predictions/test/scores.json").read_text())
        for name, value in scores["scores"].items():
            low, high = scores["intervals_95"][name]
            assert f"| {name} | {100 * value:.1f} | {100 * low:.1f} to {100 * high:.1f} |\n" in text
        assert scores["signature"] in text
        assert metadata["library_name"] == "seesay"
        assert (metadata["license"], metadata["pipeline_tag"]) == ("mit", "image-to-text")
        assert metadata["tags"] == ["seesay", "image-captioning", "colours"]
        (entry,) = metadata["model-index"]
        (result,) = entry["results"]
        assert result["dataset"] == {"name": "colours", "type": "colours", "split": "test"}
        published = {metric["name"].removesuffix(" (times 100)"): metric["value"] for metric in result["metrics"]}
        assert published == {name: round(100 * value, 2) for name, value in scores["scores"].items()}

    def test_it_has_data_recipe_and_limits(self, run: Path, tmp_path: Path) -> None:
        info = json.loads((run / "captioner.json").read_text())
        _, text = self.card(run, tmp_path / "out")
        assert f"- train split: {info['captions']['train']}\n" in text
        assert "24 images" in info["captions"]["train"]
        assert f"| encoder weights before training | file, digest {info['features']['digest']} |" in text
        assert "| epochs | 20, best: " in text
        assert f"| best val_cider | {info['progress']['best']:.1f} |" in text
        assert f"the {info['vocabulary_size']} tokens of the vocabulary" in text
        weights = re.search(r"\| stored parameters \| ([\d,]+) \|", text)
        assert weights is not None
        from safetensors.numpy import load_file

        total = sum(tensor.size for tensor in load_file(run / "model.safetensors").values())
        assert int(weights[1].replace(",", "")) == total

    def test_the_snippet_prints_what_the_card_says(
        self, run: Path, tmp_path: Path, images: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        metadata, text = self.card(run, tmp_path / "out", CardOptions(example=images[0]))
        (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        exec(code.replace(NAME, str(run)).replace("photo.jpg", images[0]), {})
        assert f"It printed:\n\n```\n{capsys.readouterr().out}```" in text
        assert Path(images[0]).name not in text
        assert "license" not in metadata

    def test_a_run_without_evaluation(self, run: Path, tmp_path: Path) -> None:
        shutil.rmtree(run / "predictions")
        metadata, text = self.card(run, tmp_path / "out")
        assert "This run was not evaluated" in text
        assert "Its quality is unknown" in text
        assert "model-index" not in metadata

    def test_files_that_are_no_evaluation_are_left_out(self, run: Path, tmp_path: Path) -> None:
        (run / "predictions/test/scores.json").write_text('{"scores": {"CIDEr": "high"}}')
        assert "This run was not evaluated" in self.card(run, tmp_path / "out")[1]


class TestCommands:
    def test_push_then_caption_offline(
        self, seesay: Seesay, hub: Hub, run: Path, colours: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        result = seesay("push", run, NAME)
        assert result.code == 0, result.err
        assert result.out[0].startswith(f"{hub.url}/{NAME} (private), commit ")
        assert result.out[1] == f"use it with: seesay caption IMAGES --model {NAME}"
        photo = next((colours / "images").glob("*.png"))
        online = seesay("caption", photo, "--model", NAME)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        offline = seesay("caption", photo, "--model", NAME)
        assert (online.code, offline.code) == (0, 0)
        assert online.out == offline.out == seesay("caption", photo, "--model", run).out
        assert any(NAME in line for line in seesay("models").out)
        scores = seesay("evaluate", NAME, colours, "--metrics", "BLEU", "--draws", "50")
        assert scores.code == 0, scores.err
        saved = json.loads((tmp_path / "evaluations/ada-colours-test/scores.json").read_text())
        assert saved["system"] == NAME

    def test_a_dry_run_writes_a_folder_and_sends_nothing(
        self, seesay: Seesay, hub: Hub, run: Path, images: list[str], tmp_path: Path
    ) -> None:
        result = seesay("push", run, NAME, "--dry-run", "--license", "mit", "--tag", "a", "b")
        assert (result.code, result.out) == (
            0,
            ["written to hub/colours, nothing was uploaded; read hub/colours/README.md"],
        )
        folder = tmp_path / "hub/colours"
        assert files_of(folder) == FILES - {".gitattributes"}
        assert not any(path.is_symlink() for path in folder.rglob("*"))
        assert hub.requests == []
        with load_captioner(folder) as copy, load_captioner(run) as original:
            assert copy.caption(images[0]).text == original.caption(images[0]).text
        (folder / "notes.txt").write_text("mine")
        assert seesay("push", run, NAME, "--dry-run").code == 0  # replaces its own files only
        assert (folder / "notes.txt").read_text() == "mine"
        failed = seesay("push", run, NAME, "--dry-run", "--out", "failed", "--example", "absent.jpg")
        assert failed.code == 2
        assert not (tmp_path / "failed").exists()
        (tmp_path / "other").mkdir()
        (tmp_path / "other/README.md").write_text("mine")
        assert "would be replaced" in seesay("push", run, NAME, "--dry-run", "--out", "other").err[0]
        assert "add --dry-run or drop --out" in seesay("push", run, NAME, "--out", "other").err[0]

    def test_a_finished_training_is_pushed(
        self, seesay: Seesay, hub: Hub, run: Path, colours: Path, features: Path
    ) -> None:
        command = ("train", colours, "--config", run / "config.yaml", "--out", run, "--features", features)
        assert seesay(*command).code == 0
        assert hub.requests == []  # never without being asked
        result = seesay(*command, "--push-to-hub", NAME)
        assert result.code == 0, result.err
        assert files_of(hub.repositories[NAME]) == FILES

    def test_a_wrong_name_is_noticed_before_training(
        self, seesay: Seesay, hub: Hub, colours: Path, tmp_path: Path
    ) -> None:
        result = seesay("train", colours, "--out", "new", "--push-to-hub", "colours")
        assert result.code == 2
        assert "write OWNER/NAME" in result.err[0]
        assert not (tmp_path / "new").exists()
