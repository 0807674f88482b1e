"""The models of a server."""

from collections.abc import Sequence
from typing import Any

from seesay.captioners.endpoint.client import Client, RequestError
from seesay.captioners.endpoint.faults import GONE, NO_ACCESS, no_access
from seesay.config.section import suggest
from seesay.errors import ConfigError, EndpointError

_MESSAGE = 300  # characters of a list in a message


async def list_models(client: Client) -> list[str]:
    """Return the names of the server's models; empty if it does not list them.

    Raises:
        EndpointError: the server cannot be used.
    """
    url = client.address.url
    try:
        return await client.get("/models", _read_models)
    except RequestError as error:
        if error.status in (*GONE, 405, 501):
            return []
        if error.status in NO_ACCESS:
            raise no_access(client.address, error) from None
        if error.status:
            raise EndpointError(f"{url}/models: {error}; check --endpoint, which usually ends in /v1") from None
        raise EndpointError(f"{url} cannot be used: {error}; start the server, or check --endpoint") from None


def _read_models(answer: dict[str, Any]) -> list[str]:
    entries = next((answer[key] for key in ("data", "models") if isinstance(answer.get(key), list)), None)
    if entries is None:
        raise RequestError(0, "its response is no list of models")
    names = (entry.get("id") or entry.get("name") for entry in entries if isinstance(entry, dict))
    return [str(name) for name in names if name]


def choose_model(url: str, name: str, listed: Sequence[str]) -> str:
    """Return the model to use.

    Raises:
        ConfigError: the server does not have it, or no name is given and there is a choice.
    """
    if name and (not listed or name in listed or f"{name}:latest" in listed):
        return name
    if name:
        raise ConfigError(f"{url} has no model {name!r}; {suggest(name, listed)[:_MESSAGE]}")
    if len(listed) == 1:
        return listed[0]
    if not listed:
        raise ConfigError(f"{url} does not list its models; name one with --model")
    raise ConfigError(f"{url} has several models; choose one with --model: {', '.join(listed)[:_MESSAGE]}")
