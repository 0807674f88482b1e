import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from seesay.checkpoint import Run, RunInfo, load_run, read_weights, save_info, save_weights
from seesay.config import Config
from seesay.data.annotations import Annotations, write_annotations
from seesay.errors import CheckpointError, ConfigError
from seesay.features import extract_features, import_features
from seesay.models.captioning import CaptionModel, build_model
from seesay.tokenizer import Tokenizer
from seesay.training.train import train
from seesay.training.warm_start import warm_start
from tests import tiny


def fresh(run: Run, config: Config, words: int, seed: int = 7) -> CaptionModel:
    torch.manual_seed(seed)
    return build_model(config.model, words, run.info.feature_size)


def another(run: Run, captions: list[str]) -> Tokenizer:
    return Tokenizer.build(captions, run.config.text)


def start(weights: Path, source: Path, captions: list[str] | None = None, **overrides: Any) -> tuple[Any, ...]:
    """Return a model before and after a warm start, its tokenizer, the run and the number of shared words."""
    run = load_run(source)
    tokenizer = run.tokenizer if captions is None else another(run, captions)
    config = tiny.cached(weights, init_from=str(source), **overrides)
    model = fresh(run, config, len(tokenizer))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    known = warm_start(model, config, run.info, tokenizer)
    return before, model.state_dict(), tokenizer, run, known


def test_equal_vocabularies_copy_all_weights(cached_run: Path, weights: Path) -> None:
    before, after, tokenizer, run, known = start(weights, cached_run)
    given = read_weights(run)
    assert known == len(tokenizer)
    assert not torch.equal(before["projection.0.weight"], given["projection.0.weight"])
    assert all(torch.equal(tensor, given[name]) for name, tensor in after.items())


@pytest.mark.parametrize("same_size", [False, True])
def test_words_are_matched_by_text_and_new_ones_keep_their_initial_values(
    cached_run: Path, weights: Path, same_size: bool
) -> None:
    """Even if the vocabularies have the same size, so that every shape fits."""
    old = load_run(cached_run).tokenizer.vocabulary
    fillers = " ".join(f"new{number}x".replace("0", "o") for number in range(3))
    words = ["zebra", "red", "beside", "quick", "blue"] + (old[4 : 4 + len(old) - 9] if same_size else [])
    captions = [" ".join(dict.fromkeys(words))] if same_size else [" ".join(words), fillers.translate({49: 97, 50: 98})]
    before, after, tokenizer, run, known = start(weights, cached_run, captions)
    given = read_weights(run)
    here = tokenizer.vocabulary
    assert here[:4] == old[:4]
    assert known == len(set(here) & set(old)) < len(here)
    tables = [name for name in after if after[name].shape[:1] == (len(here),)]
    assert any("embedding" in name for name in tables)
    assert sum("output" in name for name in tables) >= 2  # matrix and bias
    for name in tables:
        for row, word in enumerate(here):
            wanted = given[name][old.index(word)] if word in old else before[name][row]
            assert torch.equal(after[name][row], wanted), (name, word)
    for name in set(after) - set(tables):
        assert torch.equal(after[name], given[name])


def test_another_network_raises(cached_run: Path, weights: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot start from the run .*: \d+ of \d+ tensors do not fit, such as decoder\."
    ):
        start(weights, cached_run, hidden_size=33)


def test_a_missing_run_raises(cached_run: Path, colours: Path, features: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run folder at"):
        train(tiny.cached(weights, init_from=str(tmp_path / "none")), colours, tmp_path / "run", features=features)
    with pytest.raises(ConfigError, match="the run folder itself; choose another --out"):
        train(tiny.cached(weights, init_from=str(tmp_path / "run")), colours, tmp_path / "run", features=features)
    empty = shutil.copytree(cached_run, tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors yet"):
        start(weights, empty)


def other_info(run: Run, **changes: Any) -> RunInfo:
    import dataclasses

    return dataclasses.replace(run.info, **changes)


def test_features_of_another_encoder_log_a_warning_and_raise_in_scst(
    cached_run: Path, weights: Path, log_capture: pytest.LogCaptureFixture
) -> None:
    run = load_run(cached_run)
    info = other_info(run, features={**run.info.features, "encoder": "other_net"})
    config = tiny.cached(weights, init_from=str(cached_run))
    warm_start(fresh(run, config, len(run.tokenizer)), config, info, run.tokenizer)
    line = next(message for message in log_capture.messages if "was trained on features" in message)
    assert "of test_resnet at 48 px" in line
    assert "not of other_net at 48 px" in line
    config = tiny.cached(weights, init_from=str(cached_run), scst_weight=0.8)
    with pytest.raises(ConfigError, match=r"not of other_net .*; SCST needs the same features"):
        warm_start(fresh(run, config, len(run.tokenizer)), config, info, run.tokenizer)


def test_features_of_another_width_keep_the_initial_projection(cached_run: Path, weights: Path) -> None:
    run = load_run(cached_run)
    info = other_info(run, features={**run.info.features, "encoder": "other_net"}, feature_size=50)
    config = tiny.cached(weights, init_from=str(cached_run))
    model = build_model(config.model, len(run.tokenizer), 50)
    before = model.state_dict()["projection.0.weight"].clone()
    warm_start(model, config, info, run.tokenizer)
    assert torch.equal(model.state_dict()["projection.0.weight"], before)
    given = read_weights(run)
    assert torch.equal(model.state_dict()["decoder.embedding.weight"], given["decoder.embedding.weight"])


def test_imports_of_one_name_may_be_of_different_widths(cached_run: Path, weights: Path, tmp_path: Path) -> None:
    """They differ in width only."""
    run = load_run(cached_run)
    folder = shutil.copytree(cached_run, tmp_path / "imported")
    save_info(folder, other_info(run, features={"imported": "f.npz"}))
    info = other_info(run, features={"imported": "f.npz"}, feature_size=50)
    config = tiny.cached(weights, init_from=str(folder))
    model = build_model(config.model, len(run.tokenizer), 50)
    before = model.state_dict()["projection.0.weight"].clone()
    warm_start(model, config, info, run.tokenizer)
    assert torch.equal(model.state_dict()["projection.0.weight"], before)


def test_a_trained_encoder_is_copied_if_it_is_trained(loop_run: Path, colours: Path, tmp_path: Path) -> None:
    config = tiny.in_loop(init_from=str(loop_run), epochs=1, learning_rate=1e-12)
    result = train(config, colours, tmp_path / "run")
    first, second = (
        safetensors.torch.load_file(folder / "model.safetensors") for folder in (loop_run, tmp_path / "run")
    )
    assert any(name.startswith("encoder.") for name in first)
    for name, tensor in first.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-6)
    assert result.epochs == 1


def test_a_warm_start_trains_better_than_random_weights(
    cached_run: Path, colours: Path, annotations: Annotations, weights: Path, tmp_path: Path
) -> None:
    """On other data with other words, from the first epoch on."""
    import dataclasses

    items = [
        dataclasses.replace(item, captions=tuple(text.replace("beside", "near") for text in item.captions))
        for item in annotations
    ]
    write_annotations(items, tmp_path / "data.jsonl")
    extract_features({item.id: item.image for item in items}, tiny.build(weights), tmp_path / "store")
    results = {}
    for name, source in (("cold", ""), ("warm", str(cached_run))):
        config = tiny.cached(weights, epochs=1, init_from=source)
        train(config, tmp_path / "data.jsonl", tmp_path / name, stores=[tmp_path / "store"])
        results[name] = load_run(tmp_path / name).info.progress["best"]
    assert results["warm"] > results["cold"] + 0.2


def joined_info(run: Run, *sources: tuple[str, int]) -> RunInfo:
    """Return metadata of a run whose features are those of several joined encoders."""
    parts = [{**run.info.features, "encoder": name} for name, _ in sources]
    sizes = [size for _, size in sources]
    return other_info(run, features={"joined": parts}, feature_size=sum(sizes), source_sizes=sizes)


def joined_run(folder: Path, run: Run, *sources: tuple[str, int]) -> tuple[RunInfo, torch.Tensor]:
    """Change the run's metadata to joined features; return it and its projection."""
    shutil.copytree(run.folder, folder)
    info = joined_info(run, *sources)
    save_info(folder, info)
    torch.manual_seed(3)
    network = build_model(run.config.model, len(run.tokenizer), info.feature_size)
    save_weights(folder, network.state_dict())
    return info, network.state_dict()["projection.0.weight"]


@pytest.mark.parametrize(
    ("sources", "origins"),
    [
        ((("b", 3), ("a", 5)), [5, 6, 7, 0, 1, 2, 3, 4]),
        ((("a", 5), ("c", 2), ("b", 3)), [0, 1, 2, 3, 4, None, None, 5, 6, 7]),
        ((("b", 3),), [5, 6, 7]),
        ((("c", 5), ("b", 3)), [None] * 5 + [5, 6, 7]),
        ((("a", 5), ("a", 5)), [0, 1, 2, 3, 4] + [None] * 5),
    ],
    ids=["another order", "one more", "one less", "another of the same width", "twice"],
)
def test_projection_columns_are_matched_by_encoder(
    cached_run: Path, weights: Path, tmp_path: Path, sources: tuple[tuple[str, int], ...], origins: list[int | None]
) -> None:
    run = load_run(cached_run)
    _, given = joined_run(tmp_path / "joined", run, ("a", 5), ("b", 3))
    config = tiny.cached(weights, init_from=str(tmp_path / "joined"))
    info = joined_info(run, *sources)
    model = build_model(config.model, len(run.tokenizer), info.feature_size)
    before = model.state_dict()["projection.0.weight"].clone()
    warm_start(model, config, info, run.tokenizer)
    after = model.state_dict()["projection.0.weight"]
    for column, origin in enumerate(origins):
        wanted = before[:, column] if origin is None else given[:, origin]
        assert torch.equal(after[:, column], wanted), column


def test_a_joined_run_without_stored_widths_needs_the_same_stores(
    cached_run: Path, weights: Path, tmp_path: Path
) -> None:
    run = load_run(cached_run)
    info, given = joined_run(tmp_path / "joined", run, ("a", 5), ("b", 3))
    save_info(tmp_path / "joined", other_info(run, features=info.features, feature_size=8))
    assert not load_run(tmp_path / "joined").info.source_sizes
    config = tiny.cached(weights, init_from=str(tmp_path / "joined"))
    for told_now, is_taken in ((info, True), (joined_info(run, ("b", 3), ("a", 5)), False)):
        model = build_model(config.model, len(run.tokenizer), 8)
        warm_start(model, config, told_now, run.tokenizer)
        assert torch.equal(model.state_dict()["projection.0.weight"], given) == is_taken


def test_stores_joined_in_another_order_give_the_same_model(
    colours: Path, annotations: Annotations, weights: Path, tmp_path: Path
) -> None:
    """Compared by the first loss."""
    images = {item.id: item.image for item in annotations}
    stores = [tmp_path / "s", tmp_path / "t"]
    extract_features(images, tiny.build(weights), stores[0])
    np.savez(tmp_path / "f.npz", **{name: tiny.features(len(name), 4, 5) for name in images})  # type: ignore[arg-type]
    import_features(tmp_path / "f.npz", images, stores[1])
    first = train(tiny.cached(weights, epochs=2), colours, tmp_path / "first", stores=stores)
    assert load_run(first.folder).info.source_sizes == [96, 5]
    still = tiny.cached(weights, epochs=1, learning_rate=1e-12, monitor="val_loss", init_from=str(first.folder))
    same, turned = (
        train(still, colours, tmp_path / name, stores=order).best
        for name, order in (("same", stores), ("turned", stores[::-1]))
    )
    assert turned == pytest.approx(same, rel=1e-5)
