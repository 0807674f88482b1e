"""Routes of the service.

POST /v1/caption           images in, captions out
POST /v1/chat/completions  the same in OpenAI's protocol
GET  /v1/models            the model, its options and limits
GET  /v1/models/ID         the same without the list
GET  /healthz              whether the process works
GET  /readyz               whether it accepts requests
GET  /metrics              Prometheus metrics
GET  /openapi.json         the API description, with examples
GET  /                     the web UI

HEAD is answered as GET, except under /v1. If a key is set, requests to /v1 must send `Authorization: Bearer KEY`.
"""

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from seesay import __version__
from seesay.captioners.base import Captioner
from seesay.captioners.caption import CaptionSettings
from seesay.serving import limits
from seesay.serving.chat import ChatResponse, chat_response, chat_settings, events, image_of, read_chat, require_model
from seesay.serving.errors import DISCONNECTED, ApiError, ClientDisconnectedError, Code, error_response
from seesay.serving.limits import Limits
from seesay.serving.openapi import BODY, CAPTION_RESPONSES, CHAT_BODY, CHAT_ERRORS, ERRORS, NO_MODEL, describe_model
from seesay.serving.requests import read_request
from seesay.serving.schemas import CaptionResponse, HealthResponse, ModelInfo, ModelList, image_result
from seesay.serving.service import CaptionedImage, CaptionService
from seesay.serving.static import PageFiles, SecurityHeadersMiddleware
from seesay.serving.telemetry import Metrics, MetricsMiddleware
from seesay.serving.uploads import Form, read_form

Result = TypeVar("Result")

_CODES: dict[int, Code] = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


def create_app(captioner: Captioner, bounds: Limits | None = None, api_key: str = "") -> FastAPI:
    """Return the service as an ASGI application.

    Args:
        captioner: any captioner; captions an empty image to warm up.
        bounds: limits of the service.
        api_key: key that requests to /v1 must send; empty = none.

    Raises:
        ConfigError: the captioner has no encoder.
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
        summary="Image captions with attention maps.",
        docs_url=None,  # would load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    _add_api(app, service, api_key)
    _add_probes(app, service)
    _add_page(app)
    _add_error_handlers(app)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(SecurityHeadersMiddleware)
    return app


def _add_api(app: FastAPI, service: CaptionService, api_key: str) -> None:
    def check_key(request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if api_key and not (scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), api_key.encode())):
            message = "missing or wrong key: send the header Authorization: Bearer KEY"
            raise ApiError("unauthorized", message, {"WWW-Authenticate": "Bearer"})

    # `HTTPBearer` is for the API description only: its errors have another form.
    described = [Depends(HTTPBearer(auto_error=False, description="the key of the service"))] if api_key else []
    requires_key = [*described, Depends(check_key)]

    @app.post(
        "/v1/caption",
        response_model=CaptionResponse,
        responses=CAPTION_RESPONSES,
        openapi_extra=BODY,
        dependencies=requires_key,
        summary="Caption one or several images",
    )
    async def caption(request: Request) -> Response:
        notes = request.scope["state"]["notes"]
        with service.receiving.hold(1):
            form = await read_form(request, service.limits.receive_seconds)
        notes["images"] = len(form.images)
        settings = read_request(form.fields, service.captioner.defaults)
        results = await _cancel_on_disconnect(request, service.caption(form.images, settings), service)
        for each in results:
            service.metrics.images.labels(each.code if isinstance(each, ApiError) else "captioned").inc()
        return _response(service, form, settings, results)

    @app.post(
        "/v1/chat/completions",
        response_model=ChatResponse,
        responses=CHAT_ERRORS,
        openapi_extra=CHAT_BODY,
        dependencies=requires_key,
        summary="Caption the image of a message (OpenAI's protocol)",
    )
    async def chat(request: Request) -> Response:
        with service.receiving.hold(1):
            content = await read_chat(request, service.limits.receive_seconds)
        settings = chat_settings(content, service.captioner)
        request.scope["state"]["notes"]["images"] = 1
        work = service.caption([image_of(content)], settings)
        (result,) = await _cancel_on_disconnect(request, work, service)
        service.metrics.images.labels(result.code if isinstance(result, ApiError) else "captioned").inc()
        if isinstance(result, ApiError):
            raise result
        identity = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
        response = chat_response(content, result.caption, identity)
        if content.stream:
            return StreamingResponse(events(response), media_type="text/event-stream")
        return Response(response.model_dump_json(exclude_none=True), media_type="application/json")

    @app.get("/v1/models", responses={401: ERRORS[401]}, dependencies=requires_key, summary="The model and its limits")
    async def models() -> ModelList:
        return ModelList(data=[describe_model(service)])

    @app.get(
        "/v1/models/{id:path}",  # names of the hub contain a slash
        responses={401: ERRORS[401], 404: NO_MODEL},
        dependencies=requires_key,
        summary="The model, if it has this name",
    )
    async def model(id: str) -> ModelInfo:
        require_model(id, service.name)
        return describe_model(service)


def _response(
    service: CaptionService, form: Form, settings: CaptionSettings, results: Sequence[CaptionedImage | ApiError]
) -> Response:
    """Return the response.

    Raises:
        ApiError: no image was captioned; with the code of the first error.
    """
    entries = [
        image_result(name, each, service.captioner.preprocessing())
        for name, each in zip(form.names, results, strict=True)
    ]
    first = results[0]
    if isinstance(first, ApiError) and all(isinstance(each, ApiError) for each in results):
        others = "" if len(results) == 1 else f" (and {len(results) - 1} more)"
        raise ApiError(first.code, f"{first}{others}")
    options = service.captioner.options(settings.options).model_dump()
    content = CaptionResponse(model=service.name, options=options, results=entries)
    return Response(content.model_dump_json(), media_type="application/json")


def _add_probes(app: FastAPI, service: CaptionService) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses={503: ERRORS[503]}, summary="Whether the service works")
    async def healthz() -> HealthResponse:
        if not service.alive:
            raise ApiError("busy", "the batching thread has stopped; restart the service")
        return HealthResponse(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={503: ERRORS[503]}, summary="Whether the service accepts requests")
    async def readyz() -> HealthResponse:
        with service.pending.hold(1):  # raises if the queue is full
            await service.require_available()
            return await healthz()

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    page = PageFiles("seesay.serving")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await page.respond(request, "index.html")

    @app.head("/{name}", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        return await page.respond(request, name)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def handle_api_error(request: Request, error: ApiError) -> Response:
        request.scope["state"]["notes"]["code"] = error.code
        return error_response(error)

    @app.exception_handler(ClientDisconnectedError)
    async def handle_disconnect(_: Request, error: ClientDisconnectedError) -> Response:
        return DISCONNECTED

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "bad_request")
        return await handle_api_error(request, ApiError(code, str(error.detail), error.headers))


async def _cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result], service: CaptionService) -> Result:
    """Return the result of `work`; cancel it when the client disconnects or the time is over.

    Raises:
        ClientDisconnectedError: the client closed the connection.
        ApiError: the time is over.
    """
    seconds = service.limits.answer_seconds

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks: tuple[asyncio.Task[Any], ...] = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] in done:
            result: Result = tasks[0].result()
            return result
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # so that places are free again before the response
    if done:
        raise ClientDisconnectedError
    await service.require_available()
    retry = {"Retry-After": str(limits.RETRY_SECONDS)}
    raise ApiError("busy", f"no result within {seconds:g} s; try again with fewer images or words", retry)
