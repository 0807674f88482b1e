from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from seesay.captioner import TrainedCaptioner
from seesay.serving.app import create_app
from seesay.serving.limits import Limits
from tests.serving.servers import PATIENCE, PATIENT, Running, running

Start = Callable[..., Running]


@pytest.fixture(scope="session")
def captioner(cached_run: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(cached_run, "cpu")


@pytest.fixture(scope="session")
def shared(captioner: TrainedCaptioner) -> Iterator[Running]:
    """A server with its ordinary bounds, for tests that leave it as it was."""
    patient: dict[str, Any] = dict(PATIENT)
    bounds = Limits(**patient)
    with running(create_app(captioner, bounds), bounds) as found:
        yield found


@pytest.fixture
def start(captioner: TrainedCaptioner) -> Iterator[Start]:
    """Starts a server with bounds of its own."""
    with ExitStack() as stack:

        def make(api_key: str = "", **bounds: Any) -> Running:
            limits = Limits(**{**PATIENT, **bounds})
            return stack.enter_context(running(create_app(captioner, limits, api_key), limits))

        yield make


class Gate:
    """The network, which waits until it is let go; it notes the images of each batch."""

    def __init__(self, captioner: TrainedCaptioner, patch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.open, self.reached = Event(), Event()
        encode = captioner.encode

        def gated(model_inputs: Any) -> Any:
            self.batches.append(len(model_inputs))
            self.reached.set()
            assert self.open.wait(PATIENCE)
            return encode(model_inputs)

        patch.setattr(captioner, "encode", gated)


@pytest.fixture
def gate(start: Start, captioner: TrainedCaptioner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Gate]]:
    """Makes the network wait, from when it is called on; asks for `start` so that it is undone before servers end."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(captioner, monkeypatch))
        return gates[-1]

    yield make
    for each in gates:
        each.open.set()
