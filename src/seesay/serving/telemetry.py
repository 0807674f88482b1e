"""What the service tells of itself: metrics for Prometheus, and one line of JSON a request."""

import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seesay.serving.errors import ApiError, answer

log = logging.getLogger("seesay.serving")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NOT_ANSWERED = 499  # as nginx has it: nobody was left to be answered
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The numbers of one service.

    Attributes:
        requests: answered, by route and status.
        request_seconds: from the request's first line to the last byte of its answer, by route.
        images: by what became of them: captioned, or the code of a refusal.
        seconds: by stage: reading an image, captioning a batch.
        batch_size: images in a batch.
        pending: images accepted and not yet answered.
        waiting: those of them that wait for a batch.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("seesay_requests", "Requests answered", ("route", "status"), registry=registry)
        self.request_seconds = Histogram(
            "seesay_request_seconds", "Seconds from request to answer", ("route",), buckets=_SECONDS, registry=registry
        )
        self.images = Counter("seesay_images", "Images by what became of them", ("outcome",), registry=registry)
        self.seconds = Histogram(
            "seesay_stage_seconds", "Seconds of a stage: read (an image), caption (a batch)", ("stage",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.batch_size = Histogram("seesay_batch_images", "Images in a batch", buckets=_BATCHES, registry=registry)
        self.pending = Gauge("seesay_pending_images", "Images accepted and not yet answered", registry=registry)
        self.waiting = Gauge("seesay_waiting_images", "Images that wait for a batch", registry=registry)

    def text(self) -> bytes:
        """Returns all of them in Prometheus's text form."""
        return generate_latest(self.registry)


class MetricsMiddleware:
    """ASGI middleware that counts, times and logs every request, and gives it a name that the answer repeats.

    A line holds nothing of an image, its name or its captions.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, seen = time.perf_counter(), {"status": _NOT_ANSWERED, "bytes": 0}
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["notes"] = {}

        async def counting() -> Message:
            message = await receive()
            seen["bytes"] += len(message.get("body", b""))
            return message

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name.encode())]}
            await send(message)

        try:
            await self.app(scope, counting, naming)
        except Exception:  # the last one who may see it: the client is told that there was one, the log which
            log.exception("failed", extra={"fields": {"id": name}})
            if seen["status"] == _NOT_ANSWERED:
                await answer(ApiError("internal", "a fault of ours; the service's log tells which"))(
                    scope, receive, naming
                )
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "none")  # not the path, which a client may vary without end
            self.metrics.requests.labels(route, seen["status"]).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            say(
                "request",
                id=name,
                method=scope["method"],
                route=route,
                status=seen["status"],
                ms=round(1000 * seconds, 1),
                bytes=seen["bytes"],
                **scope["state"]["notes"],
            )


def say(event: str, **fields: object) -> None:
    """Logs an event with its fields."""
    log.info(event, extra={"fields": fields})


class JsonlWriter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        content: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
