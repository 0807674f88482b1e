"""Whether an image or the server is at fault when a request has failed."""

from seesay.captioners.endpoint.address import KEY_VARIABLES, Address
from seesay.captioners.endpoint.client import Client, RequestError
from seesay.errors import EndpointError, ImageError

NO_ACCESS = (401, 403)
GONE = (404, 410)
_UNAVAILABLE = (402, 429, 503)  # no credit, too many requests, busy
_REFUSED = (400, 403, 413, 415, 422)
_MAX_FAILURES = 3  # images in a row that the server failed on; then it is regarded as broken
_MAX_REFUSALS = 10  # images that the server refused before it captioned any


class Faults:
    """Judgement of failed requests by what has happened before.

    Args:
        client: the server.
        model: name of its model, for messages.
    """

    def __init__(self, client: Client, model: str) -> None:
        self._client, self._model = client, model
        self._captioned = 0
        self._refused = 0
        self._failed = 0  # images in a row

    def count_caption(self) -> None:
        """Count an image with a caption."""
        self._captioned += 1
        self._failed = 0

    async def judge(self, name: str, error: RequestError) -> ImageError:
        """Return the error of an image whose request failed.

        Raises:
            EndpointError: not the image is the reason, but the server.
        """
        status, url = error.status, self._client.address.url
        if status == 401 or (status == 403 and not self._captioned):
            raise no_access(self._client.address, error)
        if status in GONE:
            raise EndpointError(
                f"{url} does not have the model {self._model} ({error}); "
                "check --model, and --endpoint, which usually ends in /v1"
            )
        if status in _UNAVAILABLE or 300 <= status < 400:
            raise EndpointError(f"{url} captions no more images ({error}); run the same command later to resume")
        if status in _REFUSED:
            self._refused += 1
            if not self._captioned and self._refused >= _MAX_REFUSALS:
                raise EndpointError(f"{url} refused the first {self._refused} images ({error}); check --model")
            return ImageError(f"{name}: {error}")
        self._failed += 1
        if self._failed >= _MAX_FAILURES or not await self._client.reachable():
            raise EndpointError(
                f"{url} failed after {error.attempts} attempts ({error}); restart it and run the same command to resume"
            )
        return ImageError(f"{name}: {error}, after {error.attempts} attempts")


def no_access(address: Address, error: RequestError) -> EndpointError:
    """Return the error of a missing or refused key."""
    problem = f"refuses the key from {address.source}" if address.source else "needs a key, and none was sent"
    reason = f"{error.status}: {address.scrub_parts(error.message)}"  # it may repeat a part of the key
    remedy = f"set {KEY_VARIABLES[0]}, or pass a file with it as --endpoint-key-file"
    return EndpointError(f"{address.url} {problem} ({reason}); {remedy}")
