"""Prometheus metrics, and one JSON log line per request."""

import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seesay.serving.errors import ApiError, error_response

log = logging.getLogger("seesay.serving")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NOT_ANSWERED = 499  # as in nginx: the client closed the connection before the response
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Metrics of one service.

    Attributes:
        requests: number of requests by route and status.
        request_seconds: from the request's first line to the last byte of the response, by route.
        images: number of images by outcome: captioned, or an error code.
        seconds: by stage: reading an image, captioning a batch.
        batch_size: images per batch.
        pending: accepted, unanswered images.
        waiting: pending images that are queued.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("seesay_requests", "Requests answered", ("route", "status"), registry=registry)
        self.request_seconds = Histogram(
            "seesay_request_seconds",
            "Seconds from request to response",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.images = Counter("seesay_images", "Images by outcome", ("outcome",), registry=registry)
        self.seconds = Histogram(
            "seesay_stage_seconds", "Seconds of a stage: read (an image), caption (a batch)", ("stage",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.batch_size = Histogram("seesay_batch_images", "Images per batch", buckets=_BATCHES, registry=registry)
        self.pending = Gauge("seesay_pending_images", "Accepted, unanswered images", registry=registry)
        self.waiting = Gauge("seesay_waiting_images", "Queued images", registry=registry)

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)


class MetricsMiddleware:
    """ASGI middleware that counts, times and logs every request, and adds an id to its response.

    Log lines contain no images, file names or captions.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, stats = time.perf_counter(), {"status": _NOT_ANSWERED, "bytes": 0}
        sent_id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else secrets.token_hex(8)
        scope.setdefault("state", {})["notes"] = {}

        async def count_bytes() -> Message:
            message = await receive()
            stats["bytes"] += len(message.get("body", b""))
            return message

        async def add_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                stats["status"] = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            await self.app(scope, count_bytes, add_id)
        except Exception:  # the client gets a general message, the log the traceback
            log.exception("failed", extra={"fields": {"id": request_id}})
            if stats["status"] == _NOT_ANSWERED:
                error = ApiError("internal", "internal server error; see the service log")
                scope["state"]["notes"]["code"] = error.code
                await error_response(error)(scope, receive, add_id)
        finally:
            seconds = time.perf_counter() - start
            # Not the path, of which a client could create any number.
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, stats["status"]).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            log_event(
                "request",
                id=request_id,
                method=scope["method"],
                route=route,
                status=stats["status"],
                ms=round(1000 * seconds, 1),
                bytes=stats["bytes"],
                **scope["state"]["notes"],
            )


def log_event(event: str, **fields: object) -> None:
    """Log an event with its fields."""
    log.info(event, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        content: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
