"""No key of the user, no waiting, and some images."""

import pytest

from seesay.captioners.endpoint import client
from seesay.captioners.endpoint.address import KEY_VARIABLES
from tests import tiny


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEY_VARIABLES, "HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_DELAY", 1e-3)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of 24 different images."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(24):
        tiny.image(number).save(folder / f"{number:02d}.png")
    return sorted(map(str, folder.iterdir()))
