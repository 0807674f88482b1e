"""The routes of the service.

POST /v1/caption   images in, captions out
GET  /v1/models    what is served, its options and bounds
GET  /healthz      whether the process works
GET  /readyz       whether it takes requests
GET  /metrics      numbers for Prometheus
GET  /openapi.json the interface, with examples
GET  /             the page

With a key, /v1 wants it as `Authorization: Bearer KEY`.
"""

import asyncio
import dataclasses
import hmac
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from seesay import __version__
from seesay.captioner import TrainedCaptioner
from seesay.serving import limits
from seesay.serving.errors import ApiError, ClientGoneError, Code, answer
from seesay.serving.limits import Limits
from seesay.serving.openapi import BODY, CAPTION_RESPONSES, ERRORS, describe_model
from seesay.serving.requests import Request as Wished
from seesay.serving.requests import read_request
from seesay.serving.schemas import CaptionsAnswer, HealthAnswer, ModelsAnswer, answer_image
from seesay.serving.service import CaptionService, Seen
from seesay.serving.static import KINDS, Page, SecurityHeadersMiddleware
from seesay.serving.telemetry import Metrics, MetricsMiddleware
from seesay.serving.uploads import Form, read_form

Found = TypeVar("Found")

_GONE = Response(status_code=499)  # never read
_CODES: dict[int, Code] = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


def create_app(captioner: TrainedCaptioner, bounds: Limits | None = None, api_key: str = "") -> FastAPI:
    """Returns the service as an ASGI application.

    Args:
        captioner: one, or an ensemble; a first, empty image is captioned here.
        bounds: of the service.
        api_key: what requests to /v1 must carry; empty = nothing.

    Raises:
        ConfigError: the captioner cannot look at images.
    """
    metrics = Metrics()
    service = CaptionService(captioner, bounds or Limits(), metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(
        title="seesay",
        version=__version__,
        summary="Captions of images, and where the model looked at each word.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    _add_api(app, service, api_key)
    _add_probes(app, service)
    _add_page(app)
    _add_refusals(app)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(SecurityHeadersMiddleware)
    return app


def _add_api(app: FastAPI, service: CaptionService, api_key: str) -> None:
    def keyed(request: Request) -> None:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if api_key and not (kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), api_key.encode())):
            message = "this service wants its key: send the header Authorization: Bearer KEY"
            raise ApiError("unauthorized", message, {"WWW-Authenticate": "Bearer"})

    guarded = [Depends(keyed)]

    @app.post(
        "/v1/caption",
        response_model=CaptionsAnswer,
        responses=CAPTION_RESPONSES,
        openapi_extra=BODY,
        dependencies=guarded,
        summary="Caption one or several images",
    )
    async def caption(request: Request) -> Response:
        notes = request.scope["state"]["notes"]
        with service.receiving.hold(1):
            form = await read_form(request, service.limits.receive_seconds)
        notes["images"] = len(form.images)
        caption_request = read_request(form.fields, service.captioner.run.config)
        seconds = service.limits.answer_seconds
        found = await _unless_gone(request, service.caption(form.images, caption_request), seconds)
        for each in found:
            service.metrics.images.labels(each.code if isinstance(each, ApiError) else "captioned").inc()
        return _answer(service, form, caption_request, found)

    @app.get("/v1/models", responses={401: ERRORS[401]}, dependencies=guarded, summary="What is served, and its bounds")
    async def models() -> ModelsAnswer:
        return ModelsAnswer(models=[describe_model(service)])


def _answer(service: CaptionService, form: Form, caption_request: Wished, found: Sequence[Seen | ApiError]) -> Response:
    """Returns the answer; where no image was captioned, under the status of the first refusal."""
    entries = [answer_image(name, each, service.preprocessing) for name, each in zip(form.names, found, strict=True)]
    first = found[0]
    if isinstance(first, ApiError) and all(isinstance(each, ApiError) for each in found):
        others = "" if len(found) == 1 else f" (and {len(found) - 1} more)"
        raise ApiError(first.code, f"{first}{others}")
    options = dataclasses.asdict(service.captioner.options(caption_request.options))
    content = CaptionsAnswer(model=service.name, options=options, results=entries)
    return Response(content.model_dump_json(), media_type="application/json")


def _add_probes(app: FastAPI, service: CaptionService) -> None:
    @app.get("/healthz", responses={503: ERRORS[503]}, summary="Whether the process works")
    async def healthz() -> HealthAnswer:
        if not service.alive:
            raise ApiError("busy", "no image is worked on any more; start the service anew")
        return HealthAnswer(status="ok")

    @app.get("/readyz", responses={503: ERRORS[503]}, summary="Whether it takes requests")
    async def readyz() -> HealthAnswer:
        with service.pending.hold(1):  # refused where none is left
            return await healthz()

    @app.get("/metrics", response_class=PlainTextResponse, summary="Numbers for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    page = Page()

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return page.answer(request, "index.html")

    @app.get("/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        if name not in KINDS:
            raise ApiError("not_found", "there is nothing here; see /openapi.json")
        return page.answer(request, name)


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return answer(error)

    @app.exception_handler(ClientGoneError)
    async def gone(_: Request, error: ClientGoneError) -> Response:
        return _GONE

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        return answer(ApiError(_CODES.get(error.status_code, "bad_request"), str(error.detail), error.headers))


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Found], seconds: float) -> Found:
    """Returns what the work gives; it is given up when the client is gone or the time is over.

    Raises:
        ClientGoneError: nobody waits any more.
        ApiError: the time is over.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks: tuple[asyncio.Task[Any], ...] = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] in done:
            found: Found = tasks[0].result()
            return found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # so that places are given back before the answer
    if done:
        raise ClientGoneError
    retry = {"Retry-After": str(limits.RETRY_SECONDS)}
    raise ApiError("busy", f"no answer within {seconds:g} s; try again with fewer images or words", retry)
