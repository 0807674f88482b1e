"""`seesay models`, and the model that `seesay caption` uses if none is named. The hub is a folder of this test."""

import json
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from seesay.captioners import ModelSpec
from seesay.captioners.recommended import cached_models, default_model, is_cached, recommended_models
from tests import tiny
from tests.captioners.scripted import ScriptedCaptioner
from tests.cli.test_main import Seesay, seesay

__all__ = ["seesay"]  # a fixture

DEFAULT = default_model()
LINE = f"{DEFAULT.name} (MIT, 0.23 B parameters, 0.46 GB)"


def write_cached(hub: Path, name: str, config: object, weights: bool = True, commit: str = "c0ffee42") -> None:
    """Write a model as the hub's client lays it out in its cache."""
    folder = hub / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    if weights:
        (snapshot / "model.safetensors").write_bytes(b"\0" * 2_000_000)


CAPTIONER = {"architectures": ["Florence2ForConditionalGeneration"], "vision_config": {}, "model_type": "florence2"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that answers in place of the hub."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        yield
        server.shutdown()
        thread.join()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")  # nothing listens there any more


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[ModelSpec]:
    """Replace loading; returns what was loaded."""
    specs: list[ModelSpec] = []

    def load(spec: ModelSpec) -> ScriptedCaptioner:
        specs.append(spec)
        return ScriptedCaptioner({"photo": ["A dog."]})

    monkeypatch.setattr(ModelSpec, "load", load)
    return specs


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    tiny.image(0).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let both streams be a terminal, on which a person types a line."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: text, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


class TestDefault:
    def test_a_cached_model_is_used_without_a_question(
        self, seesay: Seesay, hub: Path, offline: None, loaded: list[ModelSpec], photo: Path
    ) -> None:
        write_cached(hub, DEFAULT.name, CAPTIONER)
        result = seesay("caption", photo)
        assert (result.code, result.out) == (0, ["A dog."])
        assert result.err == [f"seesay: no --model and no run under runs/: using {DEFAULT.name}"]
        assert [spec.models for spec in loaded] == [(DEFAULT.name,)]

    def test_yes_downloads_without_a_question(
        self, seesay: Seesay, hub: Path, online: None, loaded: list[ModelSpec], photo: Path
    ) -> None:
        result = seesay("caption", photo, "--yes")
        assert (result.code, result.out) == (0, ["A dog."])
        assert result.err == [f"seesay: no --model and no run under runs/: downloading {LINE} once"]

    def test_without_terminal_and_yes_the_line_says_what_to_do(
        self, seesay: Seesay, hub: Path, online: None, loaded: list[ModelSpec], photo: Path
    ) -> None:
        result = seesay("caption", photo)
        assert (result.code, result.out, loaded) == (2, [], [])
        (line,) = result.err
        assert "add --yes to download the default" in line
        assert LINE in line
        assert "name a model with --model" in line

    @pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
    def test_a_terminal_is_asked(
        self,
        seesay: Seesay,
        hub: Path,
        online: None,
        loaded: list[ModelSpec],
        photo: Path,
        monkeypatch: pytest.MonkeyPatch,
        typed: str,
        code: int,
    ) -> None:
        answer(monkeypatch, typed)
        result = seesay("caption", photo)
        assert result.code == code
        assert len(loaded) == (code == 0)
        assert result.err[0] == f"seesay: no --model and no run under runs/: the default is {LINE}"
        assert "Download it? [y/N]" in result.err[1]
        assert ("nothing was downloaded" in result.err[-1]) is (code == 2)

    @pytest.mark.parametrize("flags", [[], ["--yes"]])
    def test_offline_the_line_says_what_to_do(
        self, seesay: Seesay, hub: Path, offline: None, loaded: list[ModelSpec], photo: Path, flags: list[str]
    ) -> None:
        result = seesay("caption", photo, *flags)
        assert (result.code, loaded) == (2, [])
        (line,) = result.err
        assert "is not in the cache and the hub cannot be reached" in line
        assert "pass --model" in line

    @pytest.mark.parametrize("switch", ["constant", "environment"])
    def test_offline_mode_is_respected(
        self,
        seesay: Seesay,
        hub: Path,
        online: None,
        loaded: list[ModelSpec],
        photo: Path,
        monkeypatch: pytest.MonkeyPatch,
        switch: str,
    ) -> None:
        if switch == "constant":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
        assert "cannot be reached" in seesay("caption", photo, "--yes").err[0]

    def test_a_missing_library_is_named(
        self, seesay: Seesay, hub: Path, online: None, photo: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find = util.find_spec
        monkeypatch.setattr(util, "find_spec", lambda name: None if name == "transformers" else find(name))
        result = seesay("caption", photo, "--yes")
        assert result.code == 2
        assert "pip install 'seesay[hub]'" in result.err[0]

    def test_a_run_is_preferred(
        self,
        seesay: Seesay,
        hub: Path,
        offline: None,
        loaded: list[ModelSpec],
        photo: Path,
        tmp_path: Path,
    ) -> None:
        (tmp_path / "runs" / "mine").mkdir(parents=True)
        (tmp_path / "runs" / "mine" / "model.safetensors").touch()
        assert seesay("caption", photo).code == 0
        assert [spec.models for spec in loaded] == [("runs/mine",)]

    def test_a_server_needs_no_model(
        self, seesay: Seesay, hub: Path, offline: None, loaded: list[ModelSpec], photo: Path
    ) -> None:
        assert seesay("caption", photo, "--endpoint", "http://localhost:1/v1", "--model", "a/b:4b").code == 0
        assert seesay("caption", photo, "--endpoint", "http://localhost:1/v1").code == 0
        assert [spec.models for spec in loaded] == [("a/b:4b",), ()]


class TestCache:
    def test_only_captioners_with_weights_are_listed(self, hub: Path) -> None:
        assert cached_models() == []
        write_cached(hub, "a/florence", CAPTIONER)
        write_cached(hub, "a/interrupted", CAPTIONER, weights=False)
        write_cached(hub, "a/clip", {"architectures": ["CLIPModel"], "vision_config": {}})
        write_cached(hub, "a/t5", {"architectures": ["T5ForConditionalGeneration"]})
        write_cached(
            hub, "a/vit-gpt2", {"architectures": ["VisionEncoderDecoderModel"], "model_type": "vision-encoder-decoder"}
        )
        write_cached(hub, "a/git", {"architectures": ["GitForCausalLM"], "vision_config": {}})
        write_cached(hub, "a/list", [1])
        assert [model.name for model in cached_models()] == ["a/florence", "a/git", "a/vit-gpt2"]
        assert cached_models()[0].size == pytest.approx(0.002, rel=0.01)
        assert is_cached("a/git")
        assert not is_cached("a/interrupted")

    def test_a_machine_without_cache_has_no_models(self, hub: Path) -> None:
        shutil.rmtree(hub)
        assert cached_models() == []


class TestModels:
    def test_runs_cached_and_recommended_models_are_listed(self, seesay: Seesay, hub: Path, tmp_path: Path) -> None:
        for name in ("mine", "other"):
            (tmp_path / "runs" / name).mkdir(parents=True)
            (tmp_path / "runs" / name / "model.safetensors").touch()
        scores = tmp_path / "runs" / "mine" / "predictions" / "test" / "scores.json"
        scores.parent.mkdir(parents=True)
        scores.write_text(json.dumps({"scores": {"CIDEr": 0.629}}))
        write_cached(hub, "a/florence", CAPTIONER)
        result = seesay("models")
        text = "\n".join(result.out)
        assert result.code == 0
        for expected in ("runs/mine", "test 62.9", "runs/other", "a/florence", "c0ffee42", "2026-11", DEFAULT.name):
            assert expected in text

    def test_nothing_at_hand_is_said(self, seesay: Seesay, hub: Path) -> None:
        text = "\n".join(seesay("models").out)
        assert "no trained run under runs/; train one with: seesay train DATA" in text
        assert "no image captioning model in the cache of the hub" in text

    def test_names_are_whole_on_a_narrow_terminal(
        self, seesay: Seesay, hub: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        text = "\n".join(seesay("models").out)
        assert all(model.name in text for model in recommended_models()[1])


def test_the_default_is_small_and_permissive() -> None:
    assert DEFAULT.license in ("MIT", "Apache-2.0", "BSD-3-Clause")
    assert DEFAULT.download < 1
    assert DEFAULT.memory < 2


def test_sizes_are_plausible() -> None:
    date, models = recommended_models()
    assert yaml.safe_load(f"{date}-01").year == 2026
    for model in models:
        assert 2 <= model.download / model.parameters * 1.1 < 4.5, model.name  # bytes per parameter, 16 or 32 bits
        assert model.name.count("/") == 1
