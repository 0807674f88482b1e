from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from seesay.captioners.base import Captioner
from seesay.captioners.trained import TrainedCaptioner
from seesay.serving.app import create_app
from seesay.serving.limits import Limits
from tests.serving.servers import PATIENCE, PATIENT, Running, running

Start = Callable[..., Running]


@pytest.fixture(scope="session")
def captioner(cached_run: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(cached_run, "cpu")


@pytest.fixture(scope="session")
def shared(captioner: TrainedCaptioner) -> Iterator[Running]:
    """A server with default limits, for tests that do not change it."""
    patient: dict[str, Any] = dict(PATIENT)
    bounds = Limits(**patient)
    with running(create_app(captioner, bounds), bounds) as server:
        yield server


@pytest.fixture
def start(captioner: TrainedCaptioner) -> Iterator[Start]:
    """Starts a server with given limits."""
    with ExitStack() as stack:

        def make(api_key: str = "", served: Captioner = captioner, **bounds: Any) -> Running:
            limits = Limits(**{**PATIENT, **bounds})
            return stack.enter_context(running(create_app(served, limits, api_key), limits))

        yield make


class Gate:
    """Makes the captioner's encoder wait until `open` is set, and records the size of each batch."""

    def __init__(self, captioner: TrainedCaptioner, patch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.open, self.reached = Event(), Event()
        encode = captioner.encode

        def wait_and_encode(model_inputs: Any) -> Any:
            self.batches.append(len(model_inputs))
            self.reached.set()
            assert self.open.wait(PATIENCE)
            return encode(model_inputs)

        patch.setattr(captioner, "encode", wait_and_encode)


@pytest.fixture
def gate(start: Start, captioner: TrainedCaptioner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Gate]]:
    """Returns a function that creates a `Gate`; depends on `start`, so that gates open before servers stop."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(captioner, monkeypatch))
        return gates[-1]

    yield make
    for each in gates:
        each.open.set()
