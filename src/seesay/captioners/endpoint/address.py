"""The address of a model server and the credentials to use it."""

import base64
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from seesay.errors import ConfigError

KEY_VARIABLES = ("SEESAY_ENDPOINT_KEY", "OPENAI_API_KEY")
"""Environment variables of the key, in the order in which they are read."""

_USER_INFO = re.compile(r"//[^/@\s]+@")
_HIDDEN = "***"
_PART = 4  # characters of a credential that may not appear


@dataclass(frozen=True)
class Address:
    """Where a server is, and the credentials of requests.

    Attributes:
        url: base URL without credentials, query and final slash.
        query: query of every request, such as `api-version=1`.
        authorization: the Authorization header; empty: none.
        source: where it is from, such as the name of a variable; empty: there is none.
        secrets: what must not appear in any message.
    """

    url: str
    query: str = field(default="", repr=False)
    authorization: str = field(default="", repr=False)
    source: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def scrub(self, text: str, length: int = 300) -> str:
        """Return text of a server or a library as one bounded line without credentials."""
        for secret in self.secrets:
            text = text.replace(secret, _HIDDEN)
        line = " ".join(_USER_INFO.sub(f"//{_HIDDEN}@", text).split())
        return line if len(line) <= length else f"{line[: length - 1]}…"

    def scrub_parts(self, text: str, length: int = 100) -> str:
        """Return text as `scrub` does, without words that have a part of a credential or are masked already."""
        parts = {secret[at : at + _PART] for secret in self.secrets for at in range(max(1, len(secret) - _PART + 1))}
        words = (_HIDDEN if "**" in word or any(part in word for part in parts) else word for word in text.split())
        return self.scrub(" ".join(words), length)


def read_address(endpoint: str, key_file: str = "") -> Address:
    """Return the address of an endpoint.

    Credentials in the URL are sent with HTTP basic authentication; otherwise the key is, as a bearer token.

    Args:
        endpoint: base URL, such as `http://localhost:8000/v1`.
        key_file: file with the key; empty: from one of `KEY_VARIABLES`, or none.

    Raises:
        ConfigError: not an http(s) URL, or the key cannot be read.
    """
    try:
        parts = urlsplit(endpoint.strip())
        parts.port  # noqa: B018  raises ValueError if it is not a number
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = _USER_INFO.sub(f"//{_HIDDEN}@", endpoint.partition("?")[0])
        raise ConfigError(f"--endpoint {shown} is not an http(s) URL such as http://localhost:8000/v1")
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")
    url = url.removesuffix("/chat/completions")
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        token = base64.b64encode(secret.encode()).decode()
        secrets = _secrets(token, unquote(parts.password or ""), parts)
        return Address(url, parts.query, f"Basic {token}", "the URL", secrets)
    key, source = _read_key(key_file)
    return Address(url, parts.query, f"Bearer {key}" if key else "", source if key else "", _secrets(key, "", parts))


def _secrets(token: str, password: str, parts: SplitResult) -> tuple[str, ...]:
    return tuple(filter(None, (token, password, parts.password, parts.query)))


def _read_key(key_file: str) -> tuple[str, str]:
    """Return the key and where it is from; both empty if there is none."""
    if key_file:
        try:
            key, source = Path(key_file).read_text(encoding="utf-8").strip(), f"--endpoint-key-file {key_file}"
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"--endpoint-key-file {key_file} cannot be read: {reason}") from None
        if not key:
            raise ConfigError(f"{source} is empty; write the key into it")
    else:
        source = next((name for name in KEY_VARIABLES if os.environ.get(name)), "")
        key = os.environ.get(source, "").strip()
    if not key.isascii() or any(character.isspace() or not character.isprintable() for character in key):
        raise ConfigError(f"the key in {source} contains spaces, line breaks or characters other than ASCII")
    return key, source
