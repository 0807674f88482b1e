"""Every command that captions, with a model server."""

import json
import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from seesay.bulk import Destination, ray_engine
from seesay.bulk.ray_engine import Cluster, caption_on_ray, describe_models
from seesay.captioners.endpoint import EndpointCaptioner, client
from seesay.captioners.endpoint.captioner import DEFAULT_PROMPT
from seesay.captioners.spec import ModelSpec
from seesay.cli.main import main
from seesay.evaluation import evaluate, read_predictions
from seesay.serving.app import create_app
from seesay.serving.limits import Limits
from tests import processes
from tests.bulk import outputs
from tests.captioners.endpoint.scripted_server import (
    MODEL,
    Reply,
    ScriptedServer,
    completion,
    describe,
    error,
    model_list,
    serving,
)

KEY = "sk-Secret-0123456789abcdef"
PASSWORD = "pa55-Secret-w0rd"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving() as running:
        yield running


class TestCaption:
    def test_a_folder_is_captioned_with_a_summary_of_tokens_and_cost(
        self, server: ScriptedServer, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, folder = tmp_path / "c.jsonl", str(Path(photos[0]).parent)
        command = ["caption", folder, "--endpoint", server.url, "--endpoint-price", "1,10", "--out", str(out)]
        assert main(command) == 0
        printed = capsys.readouterr()
        assert f"{len(photos)} captioned, 0 already there, 0 failed" in printed.out
        assert "24 requests, 2,400 prompt tokens, 168 completion tokens, cost 0.0041" in printed.err
        rows = outputs.lines(out)
        assert [row["image"] for row in rows] == photos
        assert {row["caption"] for row in rows} == {describe(body) for body in server.bodies}
        (recipe,) = json.loads((tmp_path / "c.jsonl.recipe.json").read_text())["seesay_recipes"]
        assert recipe["models"] == [{"name": MODEL, "digest": f"{server.url}/models/{MODEL}"}]
        assert recipe["decoding"]["max_length"] == 512
        assert main([*command, "--strategy", "sample"]) == 0
        warned = capsys.readouterr()
        assert "0 captioned, 24 already there" in warned.out
        assert "strategy greedy, now sample" in warned.err

    def test_the_summary_in_json_has_the_usage(
        self, server: ScriptedServer, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        # Bug: `usage` was empty, although the line was printed.
        command = ["caption", *photos[:2], "--endpoint", server.url, "--out", str(tmp_path / "c.jsonl"), "--json"]
        assert main(command) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["usage"] == "2 requests, 200 prompt tokens, 14 completion tokens"
        assert printed.err.splitlines() == ["seesay: 2 requests, 200 prompt tokens, 14 completion tokens"]

    def test_one_image_is_printed(
        self, server: ScriptedServer, photos: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["caption", photos[0], "--endpoint", server.url, "--model", MODEL, "--prompt", "Say {stem}"]) == 0
        assert capsys.readouterr().out == f"{describe(server.bodies[0])}\n"
        assert server.bodies[0]["messages"][0]["content"][1]["text"] == "Say 00"

    @pytest.mark.parametrize("name", ["c.csv", "c.parquet"])
    def test_other_outputs_have_no_score(
        self, server: ScriptedServer, photos: list[str], tmp_path: Path, name: str
    ) -> None:
        assert main(["caption", *photos[:3], "--endpoint", server.url, "--out", str(tmp_path / name)]) == 0
        if name == "c.csv":
            line = (tmp_path / name).read_text().splitlines()[1]
            assert line.endswith(",,true")
        else:
            assert [row["score"] for row in outputs.parts(tmp_path / name)] == [None] * 3

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--beam-size", "3", "--strategy", "beam"], "decoding.strategy is beam, which model servers lack"),
            (["--bad-words", "cat"], "decoding.bad_words is ('cat',), which model servers lack; drop --bad-words"),
            (["--model", "tiny"], "has no model 'tiny'; did you mean 'tiny-vl'?"),
            (["--precision", "int8"], "drop --device and --precision"),
            # Bug: an empty text was the same as none.
            (["--prompt", ""], "the prompt is blank; write one, or drop --prompt"),
            (["--language", ""], "the language is blank; write one, or drop --language"),
            (["--language", " "], "the language is blank; write one, or drop --language"),
        ],
    )
    def test_unsuitable_flags_are_one_line_before_any_request(
        self,
        server: ScriptedServer,
        photos: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        flags: list[str],
        message: str,
    ) -> None:
        out = tmp_path / "c.jsonl"
        assert main(["caption", photos[0], "--endpoint", server.url, "--out", str(out), *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert server.bodies == []
        assert not out.exists()

    def test_flags_of_servers_need_one(self, photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["caption", photos[0], "--endpoint-price", "1,2"]) == 2
        assert "--endpoint-price is for model servers; add --endpoint URL or drop it" in capsys.readouterr().err

    def test_a_server_that_stops_is_one_line_and_the_job_resumes(
        self, server: ScriptedServer, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["caption", *photos, "--endpoint", server.url, "--out", str(tmp_path / "c.jsonl")]
        server.script = lambda number, _: error("model was retired", 410) if number >= 5 else None
        assert main(command) == 2
        error_line, usage = capsys.readouterr().err.splitlines()[::-1]
        assert error_line.startswith(f"seesay: error: {server.url} does not have the model {MODEL} ")
        assert re.fullmatch(r"seesay: \d+ requests, 500 prompt tokens, 35 completion tokens", usage)
        server.script = lambda *_: None
        assert main(command) == 0
        assert sorted(row["image"] for row in outputs.lines(tmp_path / "c.jsonl")) == photos


class TestSecrets:
    @pytest.mark.parametrize("source", ["SEESAY_ENDPOINT_KEY", "OPENAI_API_KEY", "file", "url"])
    def test_the_key_is_sent_and_appears_nowhere(
        self,
        server: ScriptedServer,
        photos: list[str],
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        source: str,
    ) -> None:
        def echo(number: int, body: dict[str, Any]) -> Reply | None:
            sent = f"your key {server.headers[-1]['Authorization']} {KEY} {PASSWORD} is not allowed"
            return error(sent, 400) if number == 3 else error(sent, 410) if number == 8 else None

        server.script = echo
        url, flags = server.url, []
        if source == "url":
            url = url.replace("http://", f"http://me:{PASSWORD}@")
        elif source == "file":
            (tmp_path / "key").write_text(f"{KEY}\n")
            flags = ["--endpoint-key-file", str(tmp_path / "key")]
        else:
            monkeypatch.setenv(source, KEY)
        out = tmp_path / "out"
        out.mkdir()
        with caplog.at_level(logging.DEBUG):
            code = main(["caption", *photos, "--endpoint", url, *flags, "--out", str(out / "c.jsonl")])
        assert code == 2
        used = server.headers[-1]["Authorization"]
        assert used == f"Bearer {KEY}" if source != "url" else used.startswith("Basic ")
        printed = capfd.readouterr()
        files = "".join(path.read_text() for path in out.iterdir())
        assert "is not allowed" in files  # the reason without the key
        assert (out / "c.jsonl.recipe.json").exists()
        spec = ModelSpec((), endpoint=url)
        secrets = [used.split()[1], PASSWORD] if source == "url" else [KEY]
        for text in (printed.out, printed.err, caplog.text, files, repr(spec)):
            assert not [secret for secret in secrets if secret in text]

    @pytest.mark.parametrize("content", ["", "two words", "line\nbreak", "schlüssel"])
    def test_an_unsuitable_key_is_refused_without_showing_it(
        self,
        server: ScriptedServer,
        photos: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        content: str,
    ) -> None:
        (tmp_path / "key").write_text(content)
        flags = ["--endpoint-key-file", str(tmp_path / "key")]
        assert main(["caption", "photo.jpg", "--endpoint", server.url, *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "key" in line
        assert not content or content not in line


class TestScores:
    def test_a_server_is_evaluated_and_compared_with_a_run(
        self,
        server: ScriptedServer,
        cached_run: Path,
        colours: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        server.script = lambda number, _: Reply(body=completion("red beside blue"))
        command = ["evaluate", MODEL, str(colours), "--endpoint", server.url, "--metrics", "BLEU", "--draws", "20"]
        assert main(command) == 0
        folder = tmp_path / "evaluations" / f"{MODEL}-test"
        printed = capsys.readouterr()
        assert "6 requests, 600 prompt tokens" in printed.err
        assert f"{MODEL} on test: 6 images" in printed.out
        assert [row["caption"] for row in outputs.lines(folder / "predictions.jsonl")] == ["red beside blue"] * 6
        scores = json.loads((folder / "scores.json").read_text())
        assert (scores["system"], scores["decoding"]["max_length"]) == (MODEL, 512)
        assert scores["prompt"] == DEFAULT_PROMPT
        other = ["evaluate", str(cached_run), str(colours), "--metrics", "BLEU", "--draws", "20", "--out", "run"]
        assert main([*other, "--features", str(cached_run.parent / "features")]) == 0
        assert main(["compare", "run", str(folder), "--metrics", "BLEU", "--draws", "20"]) == 0
        assert f"first run, second {folder}" in capsys.readouterr().out

    def test_the_signature_depends_on_prompt_and_language(self, server: ScriptedServer, colours: Path) -> None:
        # Bug: evaluations with different prompts had one signature.
        signatures = []
        for prompt, language in (("Caption.", ""), ("Describe.", ""), ("Describe.", "German")):
            with ModelSpec((), endpoint=server.url, prompt=prompt, language=language).load() as captioner:
                result = evaluate(captioner, colours, metrics=("BLEU",), draws=20)
            signatures.append(result.signature)
        assert result.to_dict()["prompt"] == "Describe. Answer in German."
        assert len(set(signatures)) == 3
        assert all("|prompt:" in signature for signature in signatures)

    def test_feature_stores_are_refused(
        self, server: ScriptedServer, colours: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["evaluate", MODEL, str(colours), "--endpoint", server.url, "--store", "x"]) == 2
        assert "--store has the features of a run; drop it" in capsys.readouterr().err

    def test_an_image_that_the_server_refuses_is_not_scored(self, server: ScriptedServer, colours: Path) -> None:
        server.script = lambda number, _: error("too small", 400) if number == 2 else None
        with ModelSpec((), endpoint=server.url).load() as captioner:
            result = evaluate(captioner, colours, metrics=("BLEU",), draws=20)
        assert len(result.predictions) == 5
        assert len(result.unscored) == 1
        assert any("too small" in problem for problem in result.problems)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
    def test_an_evaluation_that_is_killed_keeps_its_captions(
        self, server: ScriptedServer, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def script(number: int, body: dict[str, Any]) -> Reply | None:
            if number == 9:
                deadline = time.monotonic() + 30  # requests run ahead of the writer
                while not outputs.lines(out / "captions.jsonl") and time.monotonic() < deadline:
                    time.sleep(0.01)
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            return None

        server.script, out = script, tmp_path / "scores"
        command = ["evaluate", MODEL, str(colours), "--endpoint", server.url, "--split", "all", "--out", str(out)]
        command += ["--metrics", "BLEU", "--draws", "20"]
        assert processes.run(_main, command, tmp_path) == -signal.SIGKILL
        before = outputs.lines(out / "captions.jsonl")
        assert before
        assert {path.name for path in out.iterdir()} == {"captions.jsonl", "captions.jsonl.recipe.json"}
        sent = len(server.bodies)
        assert main([*command, "--strategy", "sample"]) == 2
        assert "captions of another model or other options (strategy greedy, now sample" in capsys.readouterr().err
        assert len(server.bodies) == sent
        assert main(command) == 0
        predictions = read_predictions(out / "predictions.jsonl")
        assert len(server.bodies) - sent == len(predictions) - len(before)
        assert set(predictions.values()) == set(map(describe, server.bodies))
        kept = {Path(row["image"]).stem: row["caption"] for row in before}
        assert {Path(name).stem: text for name, text in predictions.items()}.items() >= kept.items()
        assert not list(out.glob("captions.*"))

    def test_images_that_were_refused_are_tried_again_alone(
        self, server: ScriptedServer, colours: Path, tmp_path: Path
    ) -> None:
        server.script = lambda number, _: error("too small", 400) if number == 2 else None
        command = ["evaluate", MODEL, str(colours), "--endpoint", server.url, "--out", str(tmp_path / "scores")]
        command += ["--metrics", "BLEU", "--draws", "20"]
        assert main(command) == 1
        sent = len(server.bodies)
        assert len(read_predictions(tmp_path / "scores" / "predictions.jsonl")) == sent - 1
        assert main(command) == 0
        assert len(server.bodies) == sent + 1
        assert len(read_predictions(tmp_path / "scores" / "predictions.jsonl")) == sent


def _main(command: list[str], folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    main(command)


class TestService:
    @pytest.mark.parametrize("name", [["tiny"], ["--model", "tiny"]])
    def test_the_model_is_an_argument_or_a_flag(
        self, server: ScriptedServer, capsys: pytest.CaptureFixture[str], name: list[str]
    ) -> None:
        # Bug: `serve --model` was an unknown flag, although every other command with --endpoint has it.
        assert main(["serve", *name, "--endpoint", server.url, "--port", "0"]) == 2
        assert "has no model 'tiny'; did you mean 'tiny-vl'?" in capsys.readouterr().err

    def test_the_service_is_a_proxy(self, server: ScriptedServer, photos: list[str]) -> None:
        server.script = lambda number, _: error("too small", 400) if number == 2 else None
        with (
            ModelSpec((), endpoint=server.url).load() as captioner,
            TestClient(create_app(captioner), raise_server_exceptions=False) as http,
        ):
            assert server.bodies == []  # no request to warm up
            files = [("images", Path(photo).read_bytes()) for photo in photos[:4]]
            found = [http.post("/v1/caption", files=[file]) for file in files]
            assert [each.status_code for each in found] == [200, 200, 422, 200]
            (caption,) = found[0].json()["results"][0]["captions"]
            assert caption["text"] == describe(server.bodies[0])
            assert caption["words"][0] == {"text": "an", "probability": None, "attention": None, "top_tokens": None}
            assert (caption["score"], caption["probability"], caption["end"]["probability"]) == (None, None, None)
            assert "too small" in found[2].json()["error"]["message"]
            refused = http.post("/v1/caption", files=files[:1], data={"attention": "true"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_options")
            server.script = lambda *_: error(f"key {KEY}", 401)
            down = http.post("/v1/caption", files=files[:1])
            assert (down.status_code, down.json()["error"]["code"]) == (503, "model_server")
            assert KEY not in down.text

    def test_a_server_that_is_down_has_its_own_error_and_makes_the_service_unready(
        self, photos: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Bug: the response was `busy`, nothing was logged, and the service stayed ready.
        monkeypatch.setattr(client, "RETRY_DELAY", 30.0)
        files = [("images", Path(photos[0]).read_bytes())]
        with serving(models=replace(model_list(MODEL), headers={"Connection": "close"})) as server:
            captioner = EndpointCaptioner.connect(ModelSpec((), endpoint=server.url))
            port = server.server_address[1]
        bounds = Limits(answer_seconds=0.3)
        with captioner, TestClient(create_app(captioner, bounds), raise_server_exceptions=False) as http:
            assert http.get("/readyz").status_code == 200
            found = [http.post("/v1/caption", files=files) for _ in range(2)]
            assert [(each.status_code, each.json()["error"]["code"]) for each in found] == [(503, "model_server")] * 2
            assert str(port) not in found[0].text
            assert f"http://127.0.0.1:{port}/v1: " in caplog.text
            assert http.get("/readyz").status_code == 503
            assert http.get("/healthz").status_code == 200
            monkeypatch.setattr(captioner._client, "reachable", _reachable(captioner._client))
            assert http.get("/readyz").status_code == 200
            captioner.cancel()


def _reachable(of: client.Client) -> Any:
    async def reachable() -> bool:
        of.unreachable = ""
        return True

    return reachable


class TestRay:
    def test_workers_caption_with_the_server(
        self, server: ScriptedServer, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run_here(tasks: list[list[str]], config: Any, cluster: Cluster) -> Iterator[dict[str, Any]]:
            worker = ray_engine._Worker(config)
            yield from (worker({"images": json.dumps(task)}) for task in tasks)
            worker.captioner.close()

        monkeypatch.setattr(ray_engine, "_run", run_here)  # tests/bulk/test_ray.py starts a cluster
        spec, out = ModelSpec((), endpoint=server.url, endpoint_price="1000,0"), tmp_path / "c.parquet"
        recipe = describe_models(spec, lambda defaults: defaults)
        cluster = Cluster(task_batches=2)
        report = caption_on_ray(spec, photos[:10], Destination(out), recipe, cluster, batch_size=4)
        assert (report.captioned, report.skipped, report.failed) == (10, 0, 0)
        assert report.usage == "10 requests, 1,000 prompt tokens, 70 completion tokens, cost 1.0000"
        again = caption_on_ray(spec, photos, Destination(out, strict=True), recipe, cluster, batch_size=4)
        assert (again.captioned, again.skipped) == (14, 10)
        assert again.usage.startswith("14 requests, 1,400 prompt tokens")
        assert sorted(row["image"] for row in outputs.parts(out)) == photos
