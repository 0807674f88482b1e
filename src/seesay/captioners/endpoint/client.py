"""Requests to a model server: retries, time-outs, and a bounded number in flight."""

import asyncio
import contextlib
import json
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

from seesay.captioners.endpoint.address import Address
from seesay.captioners.endpoint.concurrency import ConcurrencyLimit
from seesay.captioners.endpoint.usage import Usage
from seesay.errors import EndpointError, MissingDependencyError
from seesay.retries import backoff_seconds, is_temporary_status

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("seesay")

ATTEMPTS = 7
RETRY_DELAY = 1.0
"""Seconds before the first retry; doubled for each further retry, so that seven attempts take a minute."""

LOG_SECONDS = 10.0
"""Minimum time between two log lines about retries."""

_TIMEOUT_ATTEMPTS = 2  # a server that hangs would else be waited for seven times
_CONNECT_SECONDS = 10.0
_SEND_SECONDS = 60.0

Result = TypeVar("Result")


class RequestError(Exception):
    """A request that failed.

    Attributes:
        status: HTTP status; 0: there was no valid response.
        message: reason of the server or the network, one line without credentials.
        temporary: whether a retry may succeed.
        retry_after: the Retry-After header; empty: none.
        attempts: maximum number of attempts.
    """

    def __init__(
        self, status: int, message: str, *, temporary: bool = False, retry_after: str = "", attempts: int = ATTEMPTS
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.temporary, self.retry_after, self.attempts = temporary, retry_after, attempts

    def __str__(self) -> str:
        return f"the server returned {self.status}: {self.message}" if self.status else self.message


class Client:
    """HTTP client of one server; its requests run in an event loop of their own thread.

    Coroutines are run with `run`, from any thread.

    Args:
        address: the server.
        timeout: seconds that a response may take.
        concurrency: number of concurrent requests; 0: as many as the server's throughput allows.

    Attributes:
        limit: number of concurrent requests.
        usage: requests and tokens so far; the tokens are added by the caller.
        unreachable: why the last request could not connect to the server; empty if it did.

    Raises:
        MissingDependencyError: httpx is not installed.
    """

    def __init__(self, address: Address, timeout: float, concurrency: int = 0) -> None:
        self.address = address
        self.limit = ConcurrencyLimit(concurrency)
        self.usage = Usage()
        self._timeout = timeout
        self.unreachable = ""
        self._http = _open(address, timeout, self.limit.bound + 2)
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resume_at = 0.0  # no request is sent earlier, because the server asked for a pause
        self._logged_at = float("-inf")
        self._calls: set[Future[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="seesay-endpoint", daemon=True)
        self._thread.start()
        self._finalize = weakref.finalize(self, _stop, self._loop, self._thread, self._http)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the client's event loop and return its result.

        Raises:
            EndpointError: it was cancelled by `cancel`.
        """
        call = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._calls.add(call)
        try:
            return call.result()
        except CancelledError:
            raise EndpointError("the requests were cancelled") from None
        finally:
            call.cancel()  # after an interruption of this thread
            self._calls.discard(call)

    def cancel(self) -> None:
        """Cancel all coroutines that other threads wait for."""
        for call in list(self._calls):
            call.cancel()

    def close(self) -> None:
        """Close the connections and stop the thread."""
        self.cancel()
        self._finalize()

    async def get(self, path: str, read: Callable[[Any], Result]) -> Result:
        """Return the response to a GET request; see `post`. An unreachable server is not tried again."""
        return await self._repeat("GET", path, b"", read)

    async def post(self, path: str, body: dict[str, Any], read: Callable[[Any], Result]) -> Result:
        """Return the response to a request, after retries of temporary failures and within the limit of concurrency.

        Args:
            path: below the base URL.
            body: JSON of the request.
            read: function of the JSON object of the response; may raise a `RequestError`.

        Raises:
            RequestError: the server refused the request, or all attempts failed.
        """
        async with self._place():
            return await self._repeat("POST", path, json.dumps(body).encode(), read)

    async def reachable(self) -> bool:
        """Return whether the server sends any response to a GET request."""
        try:
            await self._send("GET", "/models", b"")
        except RequestError as error:
            return bool(error.status)
        return True

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Occupy a place among the concurrent requests, in the order of the calls."""
        turn = self._loop.create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._in_flight -= 1
            self._admit()

    def _admit(self) -> None:
        """Let requests begin while the limit allows it."""
        while self._waiting and self._in_flight < self.limit.size:
            turn = self._waiting.popleft()
            if not turn.done():  # it is, if the request was cancelled
                turn.set_result(None)
                self._in_flight += 1

    async def _repeat(self, method: str, path: str, content: bytes, read: Callable[[Any], Result]) -> Result:
        for attempt in range(1, ATTEMPTS + 1):
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            started = time.monotonic()
            if method == "POST":
                self.usage.count_request(attempt)
            try:
                answer = read(await self._send(method, path, content))
            except RequestError as error:
                unreachable = method == "GET" and not error.status
                if not error.temporary or unreachable or attempt >= error.attempts:
                    raise
                wait = backoff_seconds(attempt, RETRY_DELAY, error.retry_after)
                now = time.monotonic()
                self.limit.fail(now, started)
                if error.retry_after:
                    self._resume_at = max(self._resume_at, now + wait)
                self._log_retry(error, attempt, max(wait, self._resume_at - now))
                await asyncio.sleep(wait)
            else:
                if method == "POST":
                    self.limit.finish(time.monotonic(), self._in_flight - 1, bool(self._waiting))
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _log_retry(self, error: RequestError, attempt: int, wait: float) -> None:
        """Log a failed attempt, unless one was logged a short time ago: many requests may fail together."""
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            failed = f"{self.address.url}: {error}; attempt {attempt} of {error.attempts}"
            log.warning("%s, next attempt in %.0f s", failed, wait)

    async def _send(self, method: str, path: str, content: bytes) -> Any:
        """Send a request once."""
        import httpx

        url = self.address.url + path + (f"?{self.address.query}" if self.address.query else "")
        try:
            response = await self._http.request(method, url, content=content)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.unreachable = self.address.scrub(str(error)) or f"no answer within {_CONNECT_SECONDS:g} s"
            attempts = _TIMEOUT_ATTEMPTS if isinstance(error, httpx.ConnectTimeout) else ATTEMPTS
            failed = f"the connection failed ({self.unreachable})"
            raise RequestError(0, failed, temporary=True, attempts=attempts) from None
        except httpx.TimeoutException:
            failed = f"no response within {self._timeout:g} s (--endpoint-timeout)"
            raise RequestError(0, failed, temporary=True, attempts=_TIMEOUT_ATTEMPTS) from None
        except (httpx.HTTPError, OSError) as error:
            reason = self.address.scrub(str(error)) or type(error).__name__
            raise RequestError(0, f"the connection failed ({reason})", temporary=True) from None
        self.unreachable = ""
        return self._read(response)

    def _read(self, response: "httpx.Response") -> Any:
        """Return the JSON of a response.

        Raises:
            RequestError: the status or the content is an error.
        """
        status = response.status_code
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        # Some gateways send errors with status 200.
        inner = answer.get("error") if isinstance(answer, dict) else None
        if status == 200 and inner:
            code = inner.get("code") if isinstance(inner, dict) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 502
        if status != 200:
            message = self._message(response, inner or answer)
            after = response.headers.get("Retry-After", "")
            raise RequestError(status, message, temporary=is_temporary_status(status), retry_after=after)
        if not isinstance(answer, dict):
            raise RequestError(0, "the response is not a JSON object", temporary=True)
        return answer

    def _message(self, response: "httpx.Response", answer: Any) -> str:
        """Return the reason in an error response."""
        if 300 <= response.status_code < 400:
            return f"redirected to {self.address.scrub(response.headers.get('Location', 'nowhere'))}"
        found = answer
        if isinstance(answer, dict):
            found = next((answer[key] for key in ("message", "detail", "error") if answer.get(key)), None)
        text = found if isinstance(found, str) else json.dumps(found) if found else response.text
        return self.address.scrub(text) or response.reason_phrase or "no reason"


def _open(address: Address, timeout: float, connections: int) -> "httpx.AsyncClient":
    try:
        import httpx
    except ImportError as error:
        raise MissingDependencyError("httpx", "endpoint", "captioning with --endpoint") from error
    headers = {"Content-Type": "application/json", "User-Agent": "seesay"}
    if address.authorization:
        headers["Authorization"] = address.authorization
    return httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(timeout, connect=_CONNECT_SECONDS, write=_SEND_SECONDS, pool=None),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        auth=lambda request: request,  # otherwise httpx replaces the header by an entry of ~/.netrc
    )


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, http: "httpx.AsyncClient") -> None:
    """Cancel what runs in a loop, close the connections, and end the thread."""

    async def finish() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await http.aclose()

    with contextlib.suppress(Exception):
        asyncio.run_coroutine_threadsafe(finish(), loop).result(timeout=5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=5)
    if not thread.is_alive():
        loop.close()
