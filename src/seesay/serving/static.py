"""Files of the web UIs, which load nothing from other hosts, and the security headers that enforce this."""

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class PageFiles(StaticFiles):
    """Files of a web UI, which browsers revalidate at each use.

    Args:
        packages: packages with a folder `web`; of two files with one name, the first package's is used.
    """

    def __init__(self, *packages: str) -> None:
        super().__init__(packages=[(package, "web") for package in packages])

    async def respond(self, request: Request, name: str) -> Response:
        """Return a file, or status 304 if the client's copy is current.

        Raises:
            HTTPException: status 404; there is no such file.
        """
        response = await self.get_response(name, request.scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


class SecurityHeadersMiddleware:
    """ASGI middleware that adds the security headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, add_headers if scope["type"] == "http" else send)
