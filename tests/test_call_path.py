"""The path of one image that CONTRIBUTING describes, checked against a recorded call stack."""

import inspect
from pathlib import Path

import pytest

import seesay
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions

SOURCE = Path(seesay.__file__).parent
OPTIONS = [
    DecodingOptions(),
    DecodingOptions(strategy="sample"),
    DecodingOptions(strategy="beam", beam_size=3),
    DecodingOptions(strategy="beam", beam_size=4, num_beam_groups=2),
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"{options.strategy}-{options.num_beam_groups}")
def test_at_most_six_frames_from_caption_to_step(
    cached_run: Path, images: list[str], options: DecodingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = TrainedCaptioner.load(cached_run, "cpu")
    decoder = type(captioner.decoder)
    stacks: list[list[str]] = []
    step = decoder.step

    def record(*arguments: object) -> object:
        frames = inspect.stack(context=0)[1:]
        own = [frame.function for frame in frames if Path(frame.filename).is_relative_to(SOURCE)]
        stacks.append(own[: own.index("caption")])
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder, "step", record)
    captioner.caption(images[0], options)
    assert stacks
    assert all(0 < len(stack) <= 6 for stack in stacks), stacks
    assert all(stack[0] == "run" and "generate" in stack for stack in stacks), stacks
