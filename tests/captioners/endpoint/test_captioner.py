"""A captioner of a scripted model server: every failure that was reported in the wild."""

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seesay.bulk import Destination, caption_collection
from seesay.bulk.job import BulkReport
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.captioners.endpoint import EndpointCaptioner, client
from seesay.captioners.endpoint.captioner import DEFAULT_PROMPT
from seesay.captioners.spec import ModelSpec
from seesay.config import DecodingOptions
from seesay.errors import ConfigError, EndpointError, ImageError, MissingDependencyError
from seesay.retries import backoff_seconds
from tests import processes
from tests.bulk import outputs
from tests.captioners.endpoint.scripted_server import (
    MODEL,
    Reply,
    Script,
    ScriptedServer,
    completion,
    describe,
    error,
    jpeg,
    model_list,
    serving,
)


@contextmanager
def connected(script: Script = lambda *_: None, **fields: Any) -> Iterator[tuple[ScriptedServer, EndpointCaptioner]]:
    with (
        serving(script) as server,
        EndpointCaptioner.connect(ModelSpec((), endpoint=server.url, **fields)) as captioner,
    ):
        yield server, captioner


def once(reply: Reply, times: int = 1) -> Script:
    """Return a script whose first replies are a failure."""
    return lambda number, _: reply if number < times else None


class TestConnection:
    def test_the_only_model_is_used_and_identified_by_its_address(self) -> None:
        with connected() as (server, captioner):
            assert captioner.name == MODEL
            (identity,) = captioner.identities()
            assert (identity.name, identity.digest) == (MODEL, f"{server.url}/models/{MODEL}")
            assert captioner.folders == ()

    @pytest.mark.parametrize(
        ("models", "listed", "message"),
        [
            (("qwen3-vk",), ("qwen3-vl", "llava"), "has no model 'qwen3-vk'; did you mean 'qwen3-vl'?"),
            ((), ("a", "b"), "has several models; choose one with --model: a, b"),
            ((), (), "does not list its models; name one with --model"),
            (("a", "b"), ("a", "b"), "pass one --model instead of 2"),
        ],
    )
    def test_another_model_is_refused(self, models: tuple[str, ...], listed: tuple[str, ...], message: str) -> None:
        with serving(models=model_list(*listed)) as server, pytest.raises(ConfigError) as caught:
            EndpointCaptioner.connect(ModelSpec(models, endpoint=server.url))
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        "models", [error("no such route", 404), Reply(405), Reply(body={"models": [{"name": "m:latest"}]})]
    )
    def test_a_server_without_the_list_and_a_name_without_its_tag_are_accepted(self, models: Reply) -> None:
        with serving(models=models) as server:
            EndpointCaptioner.connect(ModelSpec(("m",), endpoint=server.url)).close()

    @pytest.mark.parametrize(
        ("models", "message"),
        [
            (error("no key", 401), r"needs a key, and none was sent \(401: no key\); set SEESAY_ENDPOINT_KEY"),
            (Reply(body=b"<html>Welcome</html>"), "the response is not a JSON object"),
            (Reply(body={"hello": "world"}), "its response is no list of models"),
            (Reply(broken="reset"), "cannot be used: the connection failed"),
            (Reply(307, headers={"Location": "https://user:pw@other/v1"}), r"redirected to https://\*\*\*@other/v1"),
            (error("broken", 500), "/models: the server returned 500: broken"),
        ],
    )
    def test_a_server_that_cannot_be_used_is_one_line(self, models: Reply, message: str) -> None:
        with serving(models=models) as server, pytest.raises(EndpointError, match=message) as caught:
            EndpointCaptioner.connect(ModelSpec(("m",), endpoint=server.url))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("source", ["OPENAI_API_KEY", "--endpoint-key-file key.txt"])
    def test_a_refused_key_is_reported_with_its_source_and_without_its_parts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        # Bug: the message did not state whether a key was sent, from where, and the reason of the server.
        monkeypatch.chdir(tmp_path)
        (tmp_path / "key.txt").write_text("sk-abcdefgh-12345678")
        if source == "OPENAI_API_KEY":
            monkeypatch.setenv(source, "sk-abcdefgh-12345678")
        file = "" if source == "OPENAI_API_KEY" else "key.txt"
        refused = error("Incorrect API key provided: sk-abc**5678 or 12345678. See the account page.", 401)
        with serving(models=refused) as server, pytest.raises(EndpointError) as caught:
            EndpointCaptioner.connect(ModelSpec(("m",), endpoint=server.url, endpoint_key_file=file))
        reason = "401: Incorrect API key provided: *** or *** See the account page."
        assert f"{server.url} refuses the key from {source} ({reason}); set SEESAY_ENDPOINT_KEY" in str(caught.value)

    def test_a_server_that_does_not_run_is_not_waited_for(self) -> None:
        with serving() as server:
            url = server.url
        with pytest.raises(EndpointError, match=r"cannot be used: .*; start the server, or check --endpoint"):
            EndpointCaptioner.connect(ModelSpec((), endpoint=url))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"endpoint": "localhost:8000"}, "--endpoint localhost:8000 is not an http"),
            ({"endpoint": "http://u:secret@h:port/v1"}, r"--endpoint http://\*\*\*@h:port/v1 is not an http"),
            ({"endpoint_price": "1"}, "--endpoint-price 1 is not two prices"),
            ({"endpoint_price": "1,-2"}, "--endpoint-price 1,-2 is not two prices"),
            ({"endpoint_timeout": 0.0}, "--endpoint-timeout is 0"),
            ({"endpoint_concurrency": -1}, "--endpoint-concurrency is -1; it must be from 1 to 256, or 0"),
            ({"endpoint_concurrency": 257}, "--endpoint-concurrency is 257"),
            ({"endpoint_image_size": 8}, "--endpoint-image-size is 8; it must be at least 32"),
            ({"endpoint_key_file": "/nowhere/key"}, "--endpoint-key-file /nowhere/key cannot be read: No such file"),
            ({"device": "cuda"}, "drop --device"),
            ({"prompt": " "}, "the prompt is blank"),
        ],
    )
    def test_invalid_settings_are_refused(self, fields: dict[str, Any], message: str) -> None:
        with serving() as server, pytest.raises(ConfigError, match=message) as caught:
            EndpointCaptioner.connect(ModelSpec((), **{"endpoint": server.url, **fields}))
        assert "secret" not in str(caught.value)

    def test_missing_httpx_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "httpx", None)
        with pytest.raises(MissingDependencyError, match=r"needs httpx.*seesay\[endpoint\]"):
            EndpointCaptioner.connect(ModelSpec((), endpoint="http://localhost/v1"))


class TestRequests:
    def test_every_image_gets_its_own_caption_in_order(self, photos: list[str]) -> None:
        with connected() as (server, captioner):
            captions = captioner.caption(photos)
            assert [caption.text for caption in captions] == [captioner.caption(each).text for each in photos]
            assert len({caption.text for caption in captions}) == len(photos)
            assert len(server.bodies) == 2 * len(photos)
            assert server.bodies[0]["model"] == MODEL

    def test_images_are_jpegs_of_bounded_size(self) -> None:
        def sent(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
            captioner.caption(Image.new(mode, size))
            return Image.open(io.BytesIO(jpeg(server.bodies[-1])))

        with connected(endpoint_image_size=200) as (server, captioner):
            assert [sent(size).size for size in ((800, 400), (200, 90), (1, 3), (4000, 2))] == [
                (200, 100),
                (200, 90),
                (32, 32),
                (200, 32),
            ]
            image = sent((50, 50), "RGBA")
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert np.asarray(image).min() > 250  # transparency is white

    def test_the_prompt_is_rendered_per_image(self, photos: list[str]) -> None:
        with connected(prompt="Caption {stem}.", language="German") as (server, captioner):
            captioner.caption(photos[:2])
        prompts = sorted(body["messages"][0]["content"][1]["text"] for body in server.bodies)
        assert prompts == ["Caption 00. Answer in German.", "Caption 01. Answer in German."]
        with connected() as (server, captioner):
            captioner.caption(photos[0])
        assert server.bodies[0]["messages"][0]["content"][1]["text"] == DEFAULT_PROMPT

    def test_usage_is_summed_and_priced(self, photos: list[str]) -> None:
        with connected(endpoint_price="0.5,10") as (_, captioner):
            assert captioner.summary() == ""
            captioner.caption(photos[:10])
            assert captioner.usage.cost == pytest.approx((0.5 * 1000 + 10 * 70) / 1e6)
            assert captioner.summary() == "10 requests, 1,000 prompt tokens, 70 completion tokens, cost 0.0012"

    def test_usage_counts_repeated_requests_and_has_singular_forms(self, photos: list[str]) -> None:
        # Bug: only answered requests were counted.
        one = {**completion("a cat"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        with connected(lambda number, _: error("busy", 503) if number < 2 else Reply(body=one)) as (_, captioner):
            captioner.caption(photos[0])
            assert captioner.summary() == "3 requests, 2 repeated, 1 prompt token, 1 completion token"
        with connected() as (_, captioner):
            captioner.caption(photos[0])
            assert captioner.summary() == "1 request, 100 prompt tokens, 7 completion tokens"

    def test_several_captions_are_distinct_also_if_the_server_ignores_n(self, photos: list[str]) -> None:
        options = DecodingOptions(strategy="sample", num_return_sequences=3)
        with connected(lambda number, body: Reply(body=completion(*(f"text {i}" for i in (0, 1, 1)[: body["n"]])))) as (
            server,
            captioner,
        ):
            caption = captioner.caption(photos[0], options)
            assert [caption.text, *(each.text for each in caption.alternatives)] == ["text 0", "text 1"]
            assert len(server.bodies) == 1
        with connected(lambda number, _: Reply(body=completion(f"text {number}"))) as (server, captioner):
            caption = captioner.caption(photos[0], options)
            assert [each.text for each in caption.alternatives] == ["text 1", "text 2"]
        assert len({body["seed"] for body in server.bodies}) == 3

    @pytest.mark.parametrize(
        ("refused", "kept"), [("logprobs", "max_tokens"), ("max_completion_tokens", "max_completion_tokens")]
    )
    def test_fields_that_a_server_does_not_know_are_left_out(self, photos: list[str], refused: str, kept: str) -> None:
        field = "max_tokens" if refused == "max_completion_tokens" else refused

        def script(number: int, body: dict[str, Any]) -> Reply | None:
            return error(f"Unsupported parameter: use or drop {refused}", 400) if field in body else None

        with connected(script) as (server, captioner):
            assert all(captioner.caption(photos[:3]))
            before = len(server.bodies)
            captioner.caption(photos[3])
        assert len(server.bodies) == before + 1  # it is left out from now on
        assert server.bodies[-1][kept] == 512

    @pytest.mark.parametrize("settings", [CaptionSettings(attention=True), CaptionSettings(top_tokens=2)])
    def test_attention_and_top_tokens_are_not_available(self, photos: list[str], settings: CaptionSettings) -> None:
        with connected() as (server, captioner), pytest.raises(ConfigError, match="is not available from a model serv"):
            captioner.generate([captioner.load_inputs(photos[0])], None, settings)
        assert server.bodies == []

    def test_concurrency_is_bounded_by_the_limit(self, photos: list[str]) -> None:
        with connected() as (_, captioner):
            seen: list[int] = []
            send = captioner._client._send

            async def observe(*arguments: Any) -> Any:
                seen.append(captioner._client._in_flight)
                assert seen[-1] <= captioner._client.limit.size
                return await send(*arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(captioner._client, "_send", observe)
                captioner.caption(photos)
        assert max(seen) > 1

    def test_the_number_in_flight_can_be_set(self, photos: list[str]) -> None:
        together = threading.Barrier(3, timeout=30)  # all wait until three requests are being processed

        def script(number: int, body: dict[str, Any]) -> None:
            together.wait()

        with connected(script, endpoint_concurrency=3) as (server, captioner):
            captioner.caption(photos)
            assert captioner._client.limit.size == 3
        assert len(server.bodies) == len(photos)


class TestFailures:
    @pytest.mark.parametrize(
        "reply",
        [
            error("slow down", 429, Retry_After="0"),
            error("loading", 503),
            Reply(broken="reset"),
            Reply(broken="cut", body=completion("cut")),
            Reply(body=b'{"choices": ['),
            Reply(body=b"[1]"),
            Reply(body=completion()),
            Reply(body={"error": {"message": "overloaded", "code": 503}}),
        ],
        ids=["429", "503", "reset", "cut", "malformed", "list", "no choices", "error in 200"],
    )
    def test_temporary_failures_are_retried(self, photos: list[str], reply: Reply) -> None:
        with connected(once(reply, 2)) as (server, captioner):
            assert captioner.caption(photos[0]).text == describe(server.bodies[-1])
            assert len(server.bodies) == 3
            assert [caption.finished for caption in captioner.caption(photos[1:4])] == [True] * 3

    def test_retries_are_logged_at_most_once_per_ten_seconds(
        self, photos: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Bug: a job printed nothing during the minute in which it repeated the requests to a server that was down.
        with connected(once(error("loading", 503), 3)) as (server, captioner):
            captioner.caption(photos)
            assert caplog.messages == [
                f"{server.url}: the server returned 503: loading; attempt 1 of 7, next attempt in 0 s"
            ]
        caplog.clear()
        monkeypatch.setattr(client, "LOG_SECONDS", 0.0)
        with connected(once(error("loading", 503), 2)) as (_, captioner):
            captioner.caption(photos[0])
        assert [message.partition("; ")[2].partition(",")[0] for message in caplog.messages] == [
            "attempt 1 of 7",
            "attempt 2 of 7",
        ]

    def test_retry_after_is_obeyed(self, photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[int, str]] = []

        def record(attempt: int, delay: float, retry_after: str) -> float:
            asked.append((attempt, retry_after))
            return 0.05

        monkeypatch.setattr(client, "backoff_seconds", record)
        with connected(once(error("slow down", 429, Retry_After="17"), 2)) as (_, captioner):
            captioner.caption(photos[0])
            assert captioner._client._resume_at > 0  # other requests wait too
        assert asked == [(1, "17"), (2, "17")]
        assert backoff_seconds(1, 1.0, "17") == 17
        assert [backoff_seconds(attempt, 1.0) for attempt in (1, 2, 3, 10)] == [1, 2, 4, 60]

    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_an_image_that_the_server_refuses_does_not_stop_the_others(self, photos: list[str], status: int) -> None:
        def script(number: int, body: dict[str, Any]) -> Reply | None:
            return error("image is\n too " + "large " * 999, status) if number == 2 else None

        with connected(script) as (_, captioner):
            found = dict(captioner.caption_each(photos[:6]))
            (failed,) = [name for name, each in found.items() if isinstance(each, ImageError)]
            message = str(found[failed])
            assert message.startswith(f"{failed!s}: the server returned {status}: image is too large")
            assert len(message) < 500

    def test_the_refusal_of_a_single_image_is_raised(self, photos: list[str]) -> None:
        with connected(once(error("too small", 400))) as (_, captioner):
            with pytest.raises(ImageError, match="too small"):
                captioner.caption(photos[0])
            assert captioner.caption(photos[0]).finished

    def test_an_image_that_breaks_the_server_does_not_stop_the_others(self, photos: list[str]) -> None:
        bad: list[bytes] = []

        def script(number: int, body: dict[str, Any]) -> Reply | None:
            if number == 3:
                bad.append(jpeg(body))
            return Reply(broken="reset") if bad and jpeg(body) == bad[0] else None

        with connected(script) as (_, captioner):
            found = [each for _, each in captioner.caption_each(photos)]
        assert sum(isinstance(each, ImageError) for each in found) == 1
        assert sum(isinstance(each, Caption) for each in found) == len(photos) - 1

    @pytest.mark.parametrize(
        ("reply", "message", "requests"),
        [
            (error("The model has been deprecated", 404), f"does not have the model {MODEL} .*has been deprecated", 1),
            (error("gone", 410), f"does not have the model {MODEL} .*gone", 1),
            (error("bad key", 401), r"needs a key, and none was sent \(401: bad key\)", 1),
            (error("not yours", 403), r"needs a key, and none was sent \(403: not yours\)", 1),
            (error("out of credit", 402), "captions no more images .*out of credit.*run the same command later", 1),
            (error("quota", 429), "captions no more images .*quota", 7),
            (error("crashed", 500), r"failed after 7 attempts .*crashed", 21),
            (error("bad request", 400), "refused the first 10 images .*bad request", 10),
        ],
    )
    def test_a_server_that_fails_every_request_stops_the_job(
        self, photos: list[str], reply: Reply, message: str, requests: int
    ) -> None:
        with connected(lambda *_: reply) as (server, captioner):
            with pytest.raises(EndpointError, match=message) as caught:
                list(captioner.caption_each(photos))
            assert "\n" not in str(caught.value)
            assert len(server.bodies) >= requests
            assert len(server.bodies) <= requests + 64

    def test_a_server_that_hangs_is_asked_twice(self, photos: list[str]) -> None:
        with connected(lambda *_: time.sleep(0.3), endpoint_timeout=0.1) as (server, captioner):
            with pytest.raises(ImageError, match=r"no response within 0.1 s \(--endpoint-timeout\), after 2 attempts"):
                captioner.caption(photos[0])
            assert len(server.bodies) == 2

    def test_an_empty_caption_is_returned_as_it_is(self, photos: list[str]) -> None:
        with connected(lambda *_: Reply(body=completion(""))) as (_, captioner):
            assert captioner.caption(photos[0]).text == ""

    def test_an_abandoned_job_cancels_its_requests(self, photos: list[str]) -> None:
        with connected(lambda number, _: None if number == 0 else error("slow down", 429, Retry_After="30")) as (
            _,
            captioner,
        ):
            found = captioner.caption_each(photos)
            next(found)
            found.close()  # type: ignore[attr-defined]  # would wait for half a minute
            assert captioner._client._calls == set()


class TestFolderJobs:
    def test_a_server_that_dies_loses_and_repeats_nothing(self, photos: list[str], tmp_path: Path) -> None:
        alive = True

        def script(number: int, body: dict[str, Any]) -> Reply | None:
            nonlocal alive
            alive = number < 9 or number > 300
            server.models = model_list(MODEL) if alive else Reply(broken="reset")
            return None if alive else Reply(broken="reset")

        out = tmp_path / "c.jsonl"
        with serving(script) as server:
            spec = ModelSpec((), endpoint=server.url)
            with pytest.raises(EndpointError, match="restart it and run the same command to resume"):
                _caption(spec, photos, out)
            before = outputs.lines(out)
            assert 1 <= len(before) <= 9
            assert not (tmp_path / "c.errors.jsonl").exists()
            server.bodies += [{}] * 400  # from here on it works
            server.models = model_list(MODEL)
            report = _caption(spec, photos, out)
        assert (report.captioned, report.skipped, report.failed) == (len(photos) - len(before), len(before), 0)
        rows = outputs.lines(out)
        assert rows[: len(before)] == before
        assert sorted(row["image"] for row in rows) == photos
        assert rows[0]["score"] is None
        assert rows[0]["log_probs"] == []

    def test_captions_behind_a_failed_image_are_written_before_the_job_stops(
        self, photos: list[str], tmp_path: Path
    ) -> None:
        # Bug: captions that were received were lost if an earlier image had none when the job stopped.
        with serving() as server:
            first: list[bytes] = []
            answered = threading.Semaphore(0)

            def script(number: int, body: dict[str, Any]) -> Reply | None:
                first.append(jpeg(body))
                if jpeg(body) != first[0]:
                    answered.release()
                    return None
                for _ in photos[1:]:
                    assert answered.acquire(timeout=30)
                return error("no credit", 402)

            server.script = script
            with pytest.raises(EndpointError, match="no credit"):
                _caption(ModelSpec((), endpoint=server.url, endpoint_concurrency=4), photos, tmp_path / "c.jsonl")
        written = [row["image"] for row in outputs.lines(tmp_path / "c.jsonl")]
        assert len(written) >= len(photos) - 4  # the last ones may have been in flight
        assert written == [photo for photo in photos[1:] if photo in written]

    def test_refused_images_are_listed_and_tried_again(self, photos: list[str], tmp_path: Path) -> None:
        refused = True

        def script(number: int, body: dict[str, Any]) -> Reply | None:
            return error("too small", 400) if refused and number == 4 else None

        with serving(script) as server:
            spec = ModelSpec((), endpoint=server.url)
            assert _caption(spec, photos, tmp_path / "c.csv").failed == 1
            (row,) = outputs.lines(tmp_path / "c.errors.jsonl")
            assert row["error"] == f"{row['image']}: the server returned 400: too small"
            refused = False
            assert _caption(spec, photos, tmp_path / "c.csv").captioned == 1
        assert len((tmp_path / "c.csv").read_text().splitlines()) == 1 + len(photos)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
    def test_a_job_that_is_killed_at_random_requests_loses_and_repeats_nothing(
        self, photos: list[str], tmp_path: Path
    ) -> None:
        moments = iter((5, 1, 9, 3, 14, 2, 7))
        left = next(moments)

        def script(number: int, body: dict[str, Any]) -> Reply | None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            return None

        codes: list[int] = []
        with serving(script) as server:
            while not codes or codes[-1] != 0:
                codes.append(processes.run(_child, server.url, photos, tmp_path))
                left = next(moments, 0)
        assert codes.count(-signal.SIGKILL) >= 4
        assert [row["image"] for row in outputs.lines(tmp_path / "c.jsonl")] == photos


def _caption(spec: ModelSpec, photos: list[str], out: Path) -> BulkReport:
    with spec.load() as captioner:
        return caption_collection(captioner, photos, Destination(out))


def _child(url: str, photos: list[str], folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    _caption(ModelSpec((), endpoint=url), photos, folder / "c.jsonl")
