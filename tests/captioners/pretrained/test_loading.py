"""Loading from a local stand-in for the hub and from folders: what succeeds, and one clear line for what fails."""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from seesay.captioners import ModelSpec, load_captioner
from seesay.captioners.identity import ModelIdentity
from seesay.captioners.pretrained import load_pretrained
from seesay.config import DecodingOptions
from seesay.errors import CheckpointError, ConfigError, DownloadError, MissingDependencyError, SeesayError
from tests.captioners.pretrained.conftest import Captioners, Folders, Images
from tests.captioners.pretrained.hub import COMMIT, Hub, connect, serve_hub

OPTIONS = DecodingOptions(max_length=4)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder_of: Folders) -> Iterator[Hub]:
    """A hub with one model, `tiny/blip`, and an empty cache."""
    with serve_hub() as found:
        connect(found, tmp_path / "cache", monkeypatch)
        found.repositories["tiny/blip"] = folder_of("blip")
        yield found


def error_of(model: str, **settings: Any) -> SeesayError:
    """The error of loading a model, which is one line and comes at once."""
    started = time.monotonic()
    with pytest.raises(SeesayError) as caught:
        load_pretrained(ModelSpec((model,), "cpu", **settings))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 10
    return caught.value


@pytest.mark.parametrize("model", ["tiny/blip", "tiny/blip@v1"])
def test_a_model_of_the_hub(hub: Hub, images: Images, captioner_of: Captioners, model: str) -> None:
    with load_captioner(model, "cpu") as captioner:
        assert captioner.name == "tiny/blip"
        assert captioner.identities() == (ModelIdentity("tiny/blip", COMMIT),)
        expected = captioner_of("blip").caption(images[0], OPTIONS)
        assert captioner.caption(images[0], OPTIONS).text == expected.text
    assert sum("/resolve/" in request and request.startswith("GET") for request in hub.requests) > 3


def test_a_cached_model_needs_no_network(hub: Hub, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    with load_captioner("tiny/blip", "cpu") as captioner:
        expected = captioner.caption(images[0], OPTIONS).text
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with load_captioner("tiny/blip", "cpu") as captioner:
        assert captioner.caption(images[0], OPTIONS).text == expected
        assert captioner.identities() == (ModelIdentity("tiny/blip", COMMIT),)
    assert hub.requests == []


def test_files_that_are_not_downloaded_are_not_missed_offline(
    hub: Hub, folder: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photo.png", "pytorch_model.bin", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("large")
    hub.repositories["tiny/blip"] = folder
    load_captioner("tiny/blip", "cpu").close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with load_captioner("tiny/blip", "cpu") as captioner:
        assert captioner.caption(images[0], OPTIONS) is not None


def test_a_file_that_was_damaged_on_the_way_is_downloaded_again(hub: Hub, images: Images) -> None:
    hub.damaged.add("model.safetensors")
    error = error_of("tiny/blip")
    assert isinstance(error, DownloadError)
    assert "tiny/blip was damaged on the way (1 files); run the command again" in str(error)
    hub.damaged.clear()
    with load_captioner("tiny/blip", "cpu") as captioner:
        assert captioner.caption(images[0], OPTIONS) is not None


def test_a_transfer_that_breaks_is_repeated(hub: Hub, images: Images) -> None:
    hub.interrupted.add("model.safetensors")
    with contextlib.suppress(DownloadError):  # older versions of the hub's library do not repeat it themselves
        load_captioner("tiny/blip", "cpu").close()
    assert hub.interrupted == set()
    with load_captioner("tiny/blip", "cpu") as captioner:
        assert captioner.caption(images[0], OPTIONS) is not None
    transfers = [request for request in hub.requests if request.startswith("GET") and "model.safetensors" in request]
    assert len(transfers) == 2


def test_an_unreachable_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = error_of("tiny/blip")
    assert isinstance(error, DownloadError)
    assert "not in the cache and cannot be downloaded (http://127.0.0.1:9 does not answer)" in str(error)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in str(error_of("tiny/blip"))


@pytest.mark.parametrize(
    ("refusal", "kind", "message"),
    [
        ((404, "RepoNotFound"), ConfigError, "the hub has no model of this name; check the name"),
        ((401, "RepoNotFound"), DownloadError, "the hub refuses access (401): the name is wrong or the model is"),
        ((401, "GatedRepo"), DownloadError, "tiny/blip is gated: accept its licence"),
        ((403, "GatedRepo"), DownloadError, "tiny/blip is gated: accept its licence"),
    ],
)
def test_refusals_of_the_hub(hub: Hub, refusal: tuple[int, str], kind: type[SeesayError], message: str) -> None:
    hub.refused["tiny/blip"] = refusal
    error = error_of("tiny/blip")
    assert isinstance(error, kind)
    assert message in str(error)


def test_an_unknown_revision(hub: Hub) -> None:
    assert "tiny/blip@v9: the hub has no such revision" in str(error_of("tiny/blip@v9"))


def test_names_of_florence(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "seesay"):
        assert "florence-community/Florence-2-base-ft" in str(error_of("microsoft/Florence-2-base-ft"))
    assert "microsoft/Florence-2-base-ft needs code from the hub; florence-community" in caplog.text


@pytest.fixture
def folder(folder_of: Folders, tmp_path: Path) -> Path:
    """A copy of a model that a test may damage."""
    return Path(shutil.copytree(folder_of("blip"), tmp_path / "copy"))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    error = error_of(str(folder))
    assert isinstance(error, CheckpointError)
    assert "copy lacks model.safetensors: the download was interrupted" in str(error)


def test_a_folder_that_lacks_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")
    shards = {str(number): f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    assert "copy lacks model-00002-of-00003.safetensors and 1 more files" in str(error_of(str(folder)))


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    error = error_of(str(folder))
    assert isinstance(error, CheckpointError)
    assert "the weights of" in str(error)
    assert "download the model again" in str(error)


def test_truncated_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    assert "config.json is not readable; download the model again" in str(error_of(str(folder)))


def test_a_damaged_processor(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "the processor of" in str(error_of(str(folder)))


def test_a_type_that_is_not_supported(folder: Path) -> None:
    change_config(folder, model_type="bert")
    error = error_of(str(folder))
    assert isinstance(error, ConfigError)
    assert "has the type 'bert', which is not supported; choose a model of these types: blip, blip-2" in str(error)
    change_config(folder, model_type="moondream1", auto_map={"AutoModel": "code.Model"})
    assert "needs code from the hub, which seesay does not run" in str(error_of(str(folder)))


def test_prompts_and_languages_that_do_not_fit(folder_of: Folders) -> None:
    assert "takes no prompt; drop --prompt" in str(error_of(str(folder_of("vision_encoder_decoder")), prompt="a"))
    assert "takes no language; drop --language" in str(error_of(str(folder_of("blip")), language="German"))
    assert "choose from <CAPTION>, <DETAILED_CAPTION>" in str(error_of(str(folder_of("florence2")), prompt="What?"))
    assert "a code of two letters" in str(error_of(str(folder_of("paligemma")), language="German"))


def test_quantised_weights_need_bitsandbytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "bitsandbytes")
    error = error_of(str(folder), precision="int4")
    assert isinstance(error, MissingDependencyError)
    assert "precision int4 needs bitsandbytes, which is not installed; run: pip install" in str(error)


def hide(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Make a library appear to be absent."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == library else find(name, *rest))


def test_transformers_may_be_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "transformers")
    assert "needs transformers, which is not installed; run: pip install 'seesay[hub]'" in str(error_of(str(folder)))


def test_the_digest_of_a_folder_follows_its_content(folder: Path) -> None:
    with load_captioner(folder, "cpu") as captioner:
        (before,) = captioner.identities()
    change_config(folder, note="changed")
    with load_captioner(folder, "cpu") as captioner:
        (after,) = captioner.identities()
    assert before.name == after.name == str(folder)
    assert before.digest != after.digest


def test_a_chat_model_without_a_template(folder_of: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("llava"), tmp_path / "base"))
    for path in (*folder.glob("chat_template*"), *folder.glob("*.json")):
        if path.name.startswith("chat_template"):
            path.unlink()
        elif "chat_template" in (values := json.loads(path.read_text(encoding="utf-8"))):
            path.write_text(json.dumps({**values, "chat_template": None}), encoding="utf-8")
    error = error_of(str(folder))
    assert isinstance(error, CheckpointError)
    assert "has no chat template" in str(error)
