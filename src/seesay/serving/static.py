"""The files of the page, which need nothing from anywhere else, and the headers that see to it."""

import hashlib
from importlib import resources

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KINDS = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "attention.js": "text/javascript; charset=utf-8",
    "results.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Page:
    """The page's files, read once."""

    def __init__(self) -> None:
        folder = resources.files("seesay.serving") / "web"
        self._files = {name: (folder / name).read_bytes() for name in KINDS}
        self._tags = {name: f'"{hashlib.sha256(held).hexdigest()[:16]}"' for name, held in self._files.items()}

    def answer(self, request: Request, name: str) -> Response:
        """Returns a file, or that the client's copy of it is still good."""
        headers = {"ETag": self._tags[name], "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self._tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(self._files[name], media_type=KINDS[name], headers=headers)


class SecurityHeadersMiddleware:
    """ASGI middleware that puts the headers of safety on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""

        async def guarding(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, guarding if scope["type"] == "http" else send)
