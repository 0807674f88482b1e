"""Routes of the review page. All are below the token of the session, which no other page or program knows.

GET  /TOKEN/                       the page
GET  /TOKEN/thumbnails/ROW?size=   a reduced image of a row: small or large
GET  /TOKEN/api/rows               all rows, and what the page can do
POST /TOKEN/api/ACTION             edit, mark, revert, replace, regenerate, undo, redo, save
GET  /TOKEN/api/export             the accepted captions as training data

Requests that change something must have the page's own origin.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from seesay.data.records import count
from seesay.errors import ConfigError, DataError, ImageError, SeesayError
from seesay.review import limits
from seesay.review.entries import ConflictError
from seesay.review.export import exported_bytes
from seesay.review.regeneration import Regenerator
from seesay.review.schemas import Command, Edit, Mark, Regenerate, Replace, Revert, parse
from seesay.review.session import ReviewSession
from seesay.review.thumbnails import Thumbnails
from seesay.serving.errors import DISCONNECTED, ApiError, ClientDisconnectedError, Code, error_response
from seesay.serving.static import PageFiles, SecurityHeadersMiddleware
from seesay.serving.uploads import read_body

log = logging.getLogger("seesay")

Model = TypeVar("Model", bound=BaseModel)

_CODES: dict[int, Code] = {404: "not_found", 405: "method_not_allowed"}
_KINDS: tuple[tuple[type[SeesayError], Code], ...] = (
    (ConflictError, "conflict"),
    (ImageError, "unreadable_image"),
    (ConfigError, "invalid_options"),
    (DataError, "invalid_options"),
)


class _Page:
    """A session with what its routes share."""

    def __init__(self, session: ReviewSession, token: str, regenerator: Regenerator | None) -> None:
        self.session, self.token, self.regenerator = session, token, regenerator
        self.thumbnails = Thumbnails()
        self.readers = ThreadPoolExecutor(limits.READERS, "seesay-thumbnails")
        self.captioning = ThreadPoolExecutor(1, "seesay-captioning")

    def check(self, request: Request, token: str) -> None:
        """Check the token, and the origin of a request that may change something.

        Raises:
            ApiError: one of them is wrong.
        """
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise ApiError("not_found", "wrong address; open the one that `seesay review` printed")
        origin, own = request.headers.get("origin", ""), f"{request.url.scheme}://{request.headers.get('host', '')}"
        if request.method not in ("GET", "HEAD") and origin != own:
            raise ApiError("forbidden", f"requests must come from the review page; this one is from {origin[:100]!r}")

    def close(self) -> None:
        """Stop the threads."""
        self.readers.shutdown(cancel_futures=True)
        self.captioning.shutdown(cancel_futures=True)
        if self.regenerator is not None:
            self.regenerator.close()

    def summary(self, command: Command, message: str = "") -> Response:
        """Return the rows that changed after the page's revision, and the state of the session."""
        return _json({**self.status(), "rows": self.session.since(command.revision), "message": message})

    def status(self) -> dict[str, Any]:
        """Return the state of the session."""
        session = self.session
        return {
            "revision": session.revision,
            "unsaved": session.unsaved,
            "undo": session.next_undo,
            "redo": session.next_redo,
        }


def create_app(session: ReviewSession, token: str, regenerator: Regenerator | None = None) -> FastAPI:
    """Return the review page as an ASGI application.

    Args:
        session: an open session.
        token: the secret first part of all paths.
        regenerator: captions images again; None: this is not offered. It is closed at shutdown.
    """
    page = _Page(session, token, regenerator)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, page.close)

    app = FastAPI(
        title="seesay review",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    router = APIRouter(prefix="/{token}", dependencies=[Depends(page.check)])
    _add_reading(router, page)
    _add_editing(router, page)
    _add_history(router, page)
    _add_regeneration(router, page)
    _add_files(router)
    app.include_router(router)
    _add_error_handlers(app)
    app.add_middleware(SecurityHeadersMiddleware)
    return app


def _add_reading(router: APIRouter, page: _Page) -> None:
    @router.get("/api/rows")
    async def rows() -> Response:
        regenerator = page.regenerator
        model = regenerator and {
            "name": regenerator.captioner.name,
            "options": regenerator.captioner.defaults.model_dump(mode="json"),
            "takes_prompts": regenerator.captioner.takes_prompts,
            "prompt": regenerator.captioner.prompt_text,
            "max_rows": limits.MAX_REGENERATED,
        }
        facts = {"name": page.session.file.name, "model": model, "max_characters": limits.MAX_CAPTION_CHARACTERS}
        return _json({**facts, **page.status(), "rows": page.session.since(-1)})

    @router.get("/api/export")
    async def export() -> Response:
        headers = {"Content-Disposition": 'attachment; filename="accepted.jsonl"', "Cache-Control": "no-store"}
        return Response(exported_bytes(page.session.entries), media_type="application/jsonl", headers=headers)

    @router.get("/thumbnails/{row}")
    async def thumbnail(row: int, size: str = "small") -> Response:
        page.session.check([row])
        if size not in limits.THUMBNAIL_SIDES:
            raise ApiError("bad_request", f"size is one of {', '.join(limits.THUMBNAIL_SIDES)}")
        source = page.session.entries[row].source
        found = await asyncio.get_running_loop().run_in_executor(
            page.readers, page.thumbnails.get, source, limits.THUMBNAIL_SIDES[size]
        )
        return Response(found, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})


def _add_editing(router: APIRouter, page: _Page) -> None:
    session = page.session

    @router.post("/api/edit")
    async def edit(request: Request) -> Response:
        command = await _read(request, Edit)
        _check_text(command.caption)
        session.check([command.row])
        session.edit(command.row, command.caption, accept=command.accept)
        return page.summary(command)

    @router.post("/api/mark")
    async def mark(request: Request) -> Response:
        command = await _read(request, Mark)
        session.check(command.rows)
        session.mark(command.rows, command.review)
        return page.summary(command)

    @router.post("/api/revert")
    async def revert(request: Request) -> Response:
        command = await _read(request, Revert)
        session.check(command.rows)
        session.revert(command.rows)
        return page.summary(command)

    @router.post("/api/replace")
    async def replace(request: Request) -> Response:
        command = await _read(request, Replace)
        _check_text(command.replacement)
        session.check(command.rows)
        captions, places = session.count(command.rows, command.rule())
        if not command.preview:
            session.replace(command.rows, command.rule())
        verb = "found" if command.preview else "replaced"
        return page.summary(command, f"{verb} at {count(places, 'place')} in {count(captions, 'caption')}")


def _add_history(router: APIRouter, page: _Page) -> None:
    session = page.session

    @router.post("/api/undo")
    async def undo(request: Request) -> Response:
        command = await _read(request, Command)
        label = session.undo()
        return page.summary(command, f"undone: {label}" if label else "nothing to undo")

    @router.post("/api/redo")
    async def redo(request: Request) -> Response:
        command = await _read(request, Command)
        label = session.redo()
        return page.summary(command, f"redone: {label}" if label else "nothing to redo")

    @router.post("/api/save")
    async def save(request: Request) -> Response:
        command = await _read(request, Command)
        saved = session.save()
        return page.summary(command, f"saved {count(saved, 'caption')}" if saved else "everything is saved")


def _add_regeneration(router: APIRouter, page: _Page) -> None:
    @router.post("/api/regenerate")
    async def regenerate(request: Request) -> Response:
        command = await _read(request, Regenerate)
        regenerator = page.regenerator
        if regenerator is None:
            raise ApiError("bad_request", "no model is loaded; start `seesay review` with --model or --endpoint")
        page.session.check(command.rows)
        options = regenerator.options(command.options)
        sources = [page.session.entries[row].source for row in command.rows]
        found = await asyncio.get_running_loop().run_in_executor(
            page.captioning, regenerator.caption, sources, options, command.prompt
        )
        pairs = list(zip(command.rows, found, strict=True))
        failed = [str(each) for _, each in pairs if isinstance(each, ImageError)]
        page.session.regenerate({row: each for row, each in pairs if not isinstance(each, ImageError)})
        message = f"; failed: {failed[0]}" + (f" (and {len(failed) - 1} more)" if failed[1:] else "") if failed else ""
        return page.summary(command, f"{count(len(pairs) - len(failed), 'caption')} generated{message}")


def _add_files(router: APIRouter) -> None:
    files = PageFiles("seesay.review", "seesay.serving")

    @router.get("/")
    async def index(request: Request) -> Response:
        return await files.respond(request, "index.html")

    @router.get("/{name}")
    async def file(request: Request, name: str) -> Response:
        return await files.respond(request, name)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def handle_api_error(_: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(ClientDisconnectedError)
    async def handle_disconnect(_: Request, error: ClientDisconnectedError) -> Response:
        return DISCONNECTED

    @app.exception_handler(SeesayError)
    async def handle_seesay_error(_: Request, error: SeesayError) -> Response:
        code: Code = next((code for kind, code in _KINDS if isinstance(error, kind)), "internal")
        return error_response(ApiError(code, _displayable(str(error))))

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_address(_: Request, error: RequestValidationError) -> Response:
        return error_response(ApiError("bad_request", f"the address is invalid: {error.errors()[0]['msg']}"))

    @app.exception_handler(HTTPException)
    async def handle_http_error(_: Request, error: HTTPException) -> Response:
        return error_response(ApiError(_CODES.get(error.status_code, "bad_request"), str(error.detail), error.headers))

    @app.exception_handler(Exception)
    async def handle_other_error(_: Request, error: Exception) -> Response:
        return error_response(ApiError("internal", "internal error; see the terminal of `seesay review`"))


async def _read(request: Request, kind: type[Model]) -> Model:
    """Return the request in a body of JSON.

    Raises:
        ApiError: the body is too large, too slow, or not this request.
        ClientDisconnectedError: the page was closed.
    """
    return parse(kind, await read_body(request, limits.MAX_BODY_BYTES, limits.BODY_SECONDS, "fewer rows"))


def _check_text(text: str) -> None:
    """Check that every file format can hold a text.

    Raises:
        ApiError: it has a zero byte or half of a surrogate pair.
    """
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ApiError("bad_request", "the text has characters that no file can hold; remove them")


def _json(content: dict[str, Any]) -> Response:
    """Return JSON in ASCII, which can hold every file name."""
    return Response(json.dumps(content), media_type="application/json", headers={"Cache-Control": "no-store"})


def _displayable(text: str) -> str:
    """Return a message as valid Unicode; file names may not be."""
    return text.encode("utf-8", "backslashreplace").decode()
