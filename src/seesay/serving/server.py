"""Start and graceful shutdown of the service."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from seesay.errors import SeesayError
from seesay.logs import logging_to
from seesay.serving import limits
from seesay.serving.limits import Limits
from seesay.serving.telemetry import JsonFormatter, log_event


class Server(uvicorn.Server):
    """A uvicorn server that shuts down gracefully on a signal, without raising it again."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down: gracefully at first, immediately on a second Ctrl-C."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def make_server(app: ASGIApp, bounds: Limits) -> Server:
    """Return a server that is not running yet."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=30,
        # The longest time that an accepted request may take.
        timeout_graceful_shutdown=round(bounds.receive_seconds + bounds.answer_seconds + limits.CLOSE_SECONDS),
    )
    return Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 selects a free port.

    Raises:
        SeesayError: the address is not available.
    """
    if not 0 <= port <= 65_535:
        raise SeesayError(f"cannot listen on {host}:{port} (ports are from 0 to 65535); choose another --port")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise SeesayError(f"cannot listen on {host}:{port} ({reason}); choose another --host or --port") from error


def address(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: ASGIApp, listener: socket.socket, bounds: Limits, started: Callable[[], None] = lambda: None) -> None:
    """Serve until a signal arrives, then finish accepted requests.

    Args:
        app: from `create_app`.
        listener: from `listen`.
        bounds: limits of the app.
        started: called when the server accepts requests.
    """
    server = make_server(app, bounds)
    end: dict[str, object] = {}

    async def run() -> None:
        async def watch() -> None:
            while not server.started:
                await asyncio.sleep(0.01)
            started()

        watcher = asyncio.ensure_future(watch())
        await server.serve([listener])
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        if server.force_exit:
            end["cancelled_requests"] = len(server.server_state.tasks)
            # Else it logs a traceback for every request that is now cancelled.
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)

    asyncio.run(run())
    log_event("stopped", **end)


@contextlib.contextmanager
def logging_json() -> Iterator[None]:
    """Write the logs of seesay and uvicorn to stderr as lines of JSON, without words and file names of requests."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    # The warnings of the search contain words of the options and names of images.
    with logging_to(handler, seesay="INFO", uvicorn="WARNING", **{"seesay.decoding": "ERROR"}):
        yield
