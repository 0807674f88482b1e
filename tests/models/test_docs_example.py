"""The example decoder of docs/models.md, extracted from the page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from seesay.config import field_paths, preset_names, resolve_config
from seesay.decoding import DecodingOptions
from seesay.models import registry
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.packing import pack_captions
from tests.decoding.oracles import decode
from tests.models.decoder_cases import MASK, TOKENS, V, spread

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def model() -> Iterator[CaptionModel]:
    """A model with the example's decoder and small sizes."""
    before = dict(registry._DECODERS)
    exec(compile(block("python"), "docs/models.md", "exec"), {"__name__": "example"})
    values = yaml.safe_load(block("yaml"))
    assert values.pop("description").endswith(".")
    sizes = {"projection_size": 6, "embedding_size": 5, "hidden_size": 12}
    config = resolve_config(values.pop("extends"), overrides={**values["model"], **sizes})
    torch.manual_seed(0)
    yield build_model(config.model, V, 10).double()
    registry._DECODERS.clear()
    registry._DECODERS.update(before)


def test_steps_equal_forward(model: CaptionModel) -> None:
    features = torch.randn(3, 4, 10, dtype=torch.float64)
    model.eval()
    found = spread(model(features, MASK, pack_captions(TOKENS)), TOKENS)
    state = model.step_decoder.init_state(model.project(features), MASK).pick(torch.zeros(3, 2, dtype=torch.int64))
    for t in range(5):
        output = model.step_decoder.step(TOKENS[:, :, t], state)
        state = output.state
        for (image, caption), logits in found.items():
            if t < len(logits):
                torch.testing.assert_close(output.logits[image, caption], logits[t])


def test_it_trains_and_generates(model: CaptionModel) -> None:
    tokens = torch.tensor([[[1, 4, 5, 2]], [[1, 6, 2, 0]], [[1, 7, 8, 2]]])
    features, captions = torch.randn(3, 4, 10, dtype=torch.float64), pack_captions(tokens)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    model.train()
    model.feature_dropout.p = 0.0
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(features, None, captions), captions.targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    for strategy in ("greedy", "beam"):
        options: Any = DecodingOptions(strategy=strategy)
        generated = [found[0].tokens for found in decode(model.step_decoder, model.project(features), None, options)]
        assert generated == [(4, 5), (6,), (7, 8)]


def test_the_page_names_every_decoder_and_preset_and_no_unknown_flag() -> None:
    shown = set(re.findall(r"^\| `([a-z0-9-]+)` \| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE))
    systems = {name for name in preset_names() if name != "scenes" and not name.endswith("-tutorial")}
    assert shown == {(name, resolve_config(name).model.decoder) for name in systems}
    assert {decoder for _, decoder in shown} == set(registry.decoder_names()) - {"bag-of-words"}
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z0-9-]+)", PAGE)}
    assert flags <= set(field_paths())
