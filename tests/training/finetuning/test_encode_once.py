"""An image with several captions is encoded once per pass, with the loss and the gradients of separate rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from seesay.captioners.pretrained import load_pretrained
from seesay.captioners.pretrained.steps import OFFSET
from seesay.captioners.spec import ModelSpec
from seesay.data.batches import Example
from seesay.tokenizer import END_ID, START_ID
from seesay.training.finetuning.batches import FinetuningBatches
from seesay.training.finetuning.encode_once import IMAGE_OF_ROW
from seesay.training.finetuning.module import FinetuningModule
from tests.training.finetuning.conftest import CAPTIONS, Folders, settings


# The batch of SmolVLM's encoder has tiles instead of images: it is not reduced.
@pytest.mark.parametrize(
    ("family", "encoded"), [("blip", 2), ("vision_encoder_decoder", 2), ("git", 2), ("florence2", 2), ("smolvlm", None)]
)
def test_loss_and_gradients_equal_those_of_separate_rows(
    folder_of: Folders, images: list[str], monkeypatch: pytest.MonkeyPatch, family: str, encoded: int | None
) -> None:
    captioner = load_pretrained(ModelSpec((str(folder_of(family)),), "cpu"))
    examples = [
        Example(
            str(number),
            images[number],
            tuple(
                (START_ID, *(token + OFFSET for token in captioner.family.caption_ids(text)), END_ID)
                for text in CAPTIONS[number : number + 3 - number]  # three captions, then two
            ),
        )
        for number in range(2)
    ]
    batches = FinetuningBatches(captioner, examples, 5, 0, generates=False, shuffle=False)
    batch = batches.load(np.arange(2))
    module = FinetuningModule(captioner, settings(folder_of(family)), batches, {}, captioner.options())
    module.eval()
    (name,) = captioner.family.image_encoders()
    encoder = captioner.model.get_submodule(name)
    forward, rows = encoder.forward, list[int]()

    def counted(*args: Any, **kwargs: Any) -> Any:
        rows.append(len(next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))))
        return forward(*args, **kwargs)

    monkeypatch.setattr(encoder, "forward", counted)

    def run(passes: tuple[Mapping[str, Any], ...]) -> tuple[float, list[torch.Tensor]]:
        captioner.model.zero_grad()
        loss = torch.stack([module.summed_loss(each) for each in passes]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), [w.grad.clone() for w in captioner.model.parameters() if w.grad is not None]

    loss, gradients = run(batch.passes)
    shared = sum(rows)
    rows.clear()
    separate = tuple({key: value for key, value in each.items() if key != IMAGE_OF_ROW} for each in batch.passes)
    expected, wanted = run(separate)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert len(gradients) == len(wanted) > 0
    for found, gradient in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found, gradient, atol=1e-4, rtol=1e-3)
    if encoded is not None:
        assert (shared, sum(rows)) == (encoded, 5)
