"""What asks for a decoder's steps, kept apart from what computes them, so that several searches share each step.

A search is a generator: it yields the words that it feeds, with the decoder's state, and is sent what the decoder
gives. `run_alone` answers one such generator; `run_together` answers many with as few steps of the decoder as it can,
whatever their options, widths and lengths: only the states of their rows have to be of one shape.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from seesay.errors import SeesayError
from seesay.models.protocol import Decoder, DecoderState, StepOutput

CHECK_EVERY = 4
"""Steps after which a search looks whether any of its hypotheses is done, for which a device must be waited for."""
# A step of few hypotheses costs about as much as this many in a larger one; a graphics card is filled by many more.
_LEAST_SAVED = {"cpu": 16}
_LEAST_SAVED_ELSEWHERE = 4096

Found = TypeVar("Found")


class StepInput(NamedTuple):
    """What a step of the decoder is asked with: the last words (B, K) of all hypotheses, and the state before them."""

    words: Tensor
    state: DecoderState


Steps = Generator[StepInput, StepOutput, Found]


def least_saved(device: torch.device) -> int:
    """Returns how many hypotheses' work is worth a step of its own on a device."""
    return _LEAST_SAVED.get(device.type, _LEAST_SAVED_ELSEWHERE)


def run_alone(decoder: Decoder, steps: Steps[Found]) -> Found:
    """Returns what a search finds, each of its steps computed by itself."""
    try:
        asked = next(steps)
        while True:
            asked = steps.send(decoder.step(*asked))
    except StopIteration as stop:
        found: Found = stop.value
        return found


def run_together(
    decoder: Decoder, searches: Sequence[Steps[Found]], deliver: Callable[[int, Found | SeesayError], None]
) -> None:
    """Runs several searches, in each round with one step of the decoder for all whose states fit together.

    Args:
        decoder: of all of them.
        searches: each ends by itself; one that is longer goes on without the others.
        deliver: told the number of a search and what it found, or the error that it ended in, as soon as it ends.
    """
    shared = _SharedSteps(decoder)
    asked: dict[int, StepInput] = {}

    def go_on(number: int, output: StepOutput | None) -> None:
        try:
            # A generator begins by being sent nothing.
            asked[number] = next(searches[number]) if output is None else searches[number].send(output)
        except StopIteration as stop:
            deliver(number, stop.value)
        except SeesayError as error:
            deliver(number, error)

    for number in range(len(searches)):
        go_on(number, None)
    while asked:
        waiting, asked = asked, {}
        for number, output in shared.step(waiting):
            go_on(number, output)


class _SharedSteps:
    """Steps of one decoder for several searches at a time.

    What depends on the image alone is the same in every step, so that it is put together anew only when other
    images take part.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._parts: dict[tuple[int, ...], tuple[list[dict[str, Tensor]], dict[str, Tensor]]] = {}

    def step(self, waiting: dict[int, StepInput]) -> list[tuple[int, StepOutput]]:
        """Returns the answer to each of the searches that wait, by their numbers."""
        answers = []
        used: dict[tuple[int, ...], tuple[list[dict[str, Tensor]], dict[str, Tensor]]] = {}
        for group in _groups(waiting):
            asked = [waiting[number] for number in group]
            if len(group) == 1:
                answers.append((group[0], self.decoder.step(*asked[0])))
                continue
            key = tuple(group)
            originals = [each.state.per_image for each in asked]
            held = self._parts.get(key)
            if held is None or any(old is not new for old, new in zip(held[0], originals, strict=True)):
                held = (originals, {name: torch.cat([each[name] for each in originals]) for name in originals[0]})
            used[key] = held
            answers += zip(group, _apart(self.decoder.step(*_merged(asked, held[1])), asked, held[1]), strict=True)
        self._parts = used
        return answers


def _groups(waiting: dict[int, StepInput]) -> list[list[int]]:
    """Returns the searches in groups that take a step together.

    Their hypotheses are filled up to the widest; where that would be more work than a step of their own, the narrower
    ones take one.
    """
    alike: dict[Any, list[int]] = {}
    for number, asked in waiting.items():
        alike.setdefault(_shape(asked.state), []).append(number)
    groups = []
    for numbers in alike.values():
        numbers.sort(key=lambda number: -waiting[number].words.shape[1])
        group = [numbers[0]]
        for number in numbers[1:]:
            words = waiting[number].words
            filling = (waiting[group[0]].words.shape[1] - words.shape[1]) * len(words)
            if filling <= least_saved(words.device):
                group.append(number)
            else:
                groups.append(group)
                group = [number]
        groups.append(group)
    return groups


def _shape(state: DecoderState) -> Any:
    """Returns what the states of two searches must agree in to be put together."""
    images = tuple((name, tensor.shape[1:], tensor.dtype) for name, tensor in sorted(state.per_image.items()))
    rows = tuple((name, tensor.shape[2:], tensor.dtype) for name, tensor in sorted(state.per_row.items()))
    return images, rows


def _merged(asked: Sequence[StepInput], per_image: dict[str, Tensor]) -> StepInput:
    """Returns one step's words (B1 + B2 + ..., K) and state, rows filled up with zeros to the widest K."""
    width = max(each.words.shape[1] for each in asked)
    names = asked[0].state.per_row
    per_row = {name: torch.cat([_filled(each.state.per_row[name], width) for each in asked]) for name in names}
    return StepInput(torch.cat([_filled(each.words, width) for each in asked]), DecoderState(per_image, per_row))


def _filled(rows: Tensor, width: int) -> Tensor:
    room = width - rows.shape[1]
    return torch.cat([rows, rows.new_zeros(len(rows), room, *rows.shape[2:])], 1) if room else rows


def _apart(output: StepOutput, asked: Sequence[StepInput], per_image: dict[str, Tensor]) -> list[StepOutput]:
    """Returns each search's part of a shared step, as views."""
    parts, start = [], 0
    for words, state in asked:
        images, rows = slice(start, start + words.shape[0]), slice(words.shape[1])
        start += words.shape[0]
        # The search's own tensors where the step changed none, so that they are known again in the next one.
        same = all(output.state.per_image.get(name) is tensor for name, tensor in per_image.items())
        own = state.per_image if same else {name: held[images] for name, held in output.state.per_image.items()}
        per_row = {name: held[images, rows] for name, held in output.state.per_row.items()}
        maps = None if output.attention is None else output.attention[images, rows]
        parts.append(StepOutput(output.logits[images, rows], DecoderState(own, per_row), maps))
    return parts
