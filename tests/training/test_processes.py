"""Two processes that split every batch train like one process."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from seesay.checkpoint import load_run
from seesay.config import Config
from seesay.data.batches import CaptionBatches, make_examples
from seesay.data.records import Annotations
from seesay.errors import ConfigError, SeesayError
from seesay.features import JoinedStores
from seesay.models.captioning import CaptionModel
from seesay.tokenizer import Tokenizer
from seesay.training.distributed import process_counts, rank, rank_zero_first
from seesay.training.module import CaptioningModule
from seesay.training.train import train
from seesay.training.trainer import _require_devices
from seesay.training.validation import existing_run
from tests import processes, tiny
from tests.training.outcomes import rows

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without processes")

COLUMNS = ("train_loss", "val_loss", "val_cider", "learning_rate")


def settings(weights: Path, **overrides: Any) -> Config:
    """Return settings without randomness in a step; many batches have fewer images than there are processes."""
    values = {"batch_captions": 3, "doubly_stochastic": 0.5, "label_smoothing": 0.1, "ema_decay": 0.5, "epochs": 2}
    return tiny.cached(weights, **{**values, "learning_rate": 1e-3, "log_every": 1, "checkpoint_every": 4, **overrides})


def launched(ranks: int) -> list[dict[str, str]]:
    """Return the environment variables that torchrun sets in each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    same = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
    same |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return [{**same, "RANK": str(each), "LOCAL_RANK": str(each)} for each in range(ranks)]


def weights_of(run: Path) -> Mapping[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "model.safetensors")


def die_in_both(config: Config, data: Path, run: Path, features: Path) -> None:
    processes.die_at(CaptioningModule, "training_step", 9)
    train(config, data, run, features=features)


@pytest.mark.usefixtures("curves")
def test_two_processes_equal_one_even_after_kills(weights: Path, colours: Path, tmp_path: Path) -> None:
    config = settings(weights, hflip_prob=0.5)
    train(config, colours, tmp_path / "one", features=tmp_path / "ones")
    two = tmp_path / "two"
    # Rank 0 extracts the features while the other rank waits.
    own = tmp_path / "features"
    assert processes.run_together(die_in_both, launched(2), config, colours, two, own) == [-9, -9]
    assert torch.load(two / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8
    assert processes.run_together(_train, launched(2), config, colours, two, own) == [0, 0]
    assert sorted(path.name for path in own.iterdir()) == sorted(path.name for path in (tmp_path / "ones").iterdir())
    expected = weights_of(tmp_path / "one")
    found = weights_of(two)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)
    for ours, theirs in zip(rows(two), rows(tmp_path / "one"), strict=True):
        assert (ours["step"], ours["epoch"]) == (theirs["step"], theirs["epoch"])
        for column in COLUMNS:
            assert (ours[column] == "") == (theirs[column] == "")
            assert float(ours[column] or 0) == pytest.approx(float(theirs[column] or 0), abs=1e-4), column
    for folder in ("", "checkpoints"):
        names = [sorted(path.name for path in (run / folder).iterdir()) for run in (two, tmp_path / "one")]
        assert names[0] == names[1]


def _train(config: Config, data: Path, run: Path, features: Path) -> None:
    train(config, data, run, features=features)


def test_split_batches_equal_the_batches_of_one_process(annotations: Annotations, store: JoinedStores) -> None:
    examples = _examples(annotations)
    whole = CaptionBatches(examples, store, None, 5, seed=3)
    shares = [CaptionBatches(examples, store, None, 5, seed=3) for _ in range(3)]
    for place, share in enumerate(shares):
        share.share(place, 3)
    for batch, *parts in zip(whole, *shares, strict=True):
        assert batch.tokens == batch.totals.tokens == len(batch.captions.targets)
        assert (batch.totals.captions, batch.totals.images) == (batch.captions.rows, len(batch.ids))
        assert all(part.totals == batch.totals for part in parts)
        ids = [name for part in parts if not part.idle for name in part.ids]
        assert sorted(ids) == sorted(batch.ids)
        assert sum(part.tokens for part in parts) == batch.tokens
        assert all(part.idle == (place >= len(batch.ids)) for place, part in enumerate(parts))
    assert any(part.idle for part in shares[2])


def test_gradients_of_split_batches_average_to_that_of_the_batch(
    annotations: Annotations, store: JoinedStores, weights: Path
) -> None:
    """Without processes: each part's loss is divided by the tokens of the global batch, not by its own."""
    examples = _examples(annotations)
    module = _module(settings(weights), examples, store)
    gradients = []
    for ranks in (1, 3):
        total = [torch.zeros_like(weight) for weight in module.parameters()]
        for place in range(ranks):
            module.batches.share(place, ranks)
            batch = module.batches.load(np.array([0, 5, 9, 11]))
            module.zero_grad()
            module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
            for sum_, weight in zip(total, module.parameters(), strict=True):
                sum_ += 0 if weight.grad is None else weight.grad / ranks
        gradients.append(total)
    for one, three in zip(*gradients, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-6)


def _examples(annotations: Annotations) -> Any:
    tokenizer = Tokenizer.build([text for item in annotations for text in item.captions], tiny.in_loop().text)
    return make_examples(annotations.split("train").items, tokenizer.encode)


def _module(config: Config, examples: Any, store: JoinedStores) -> CaptioningModule:
    from seesay.models.captioning import build_model

    torch.manual_seed(0)
    model: CaptionModel = build_model(config.model, 40, store.feature_size)
    batches = CaptionBatches(examples, store, None, 100)
    return CaptioningModule(model.train(), config, None, batches, {}, 5)  # type: ignore[arg-type]


class TestLaunching:
    @pytest.fixture(autouse=True)
    def bare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_JOB_NAME", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)

    def test_process_counts_of_torchrun_slurm_and_the_configuration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        training = tiny.in_loop(devices=3).training
        assert (process_counts(training), rank()) == ((3, 1), 0)
        with monkeypatch.context() as patch:
            patch.setenv("LOCAL_RANK", "1")
            assert rank() == 1
        with monkeypatch.context() as patch:
            for name, value in launched(4)[2].items():
                patch.setenv(name, value)
            patch.setenv("LOCAL_WORLD_SIZE", "2")
            assert (process_counts(training), rank()) == ((2, 2), 2)
        slurm = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
        for name, value in {**slurm, "SLURM_JOB_NAME": "train", "SLURM_NODEID": "1"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=r"SLURM: .*Use `--ntasks-per-node=8` instead"):
            rank()
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
        assert (process_counts(training), rank()) == ((4, 2), 5)

    def test_a_single_process_does_not_wait(self) -> None:
        with rank_zero_first(tiny.in_loop().training):
            assert not dist.is_initialized()

    def test_a_failure_of_rank_zero_stops_the_other_ranks(self, colours: Path, tmp_path: Path) -> None:
        assert processes.run_together(_fail, launched(2), tmp_path) == [0, 0]
        assert (tmp_path / "leader").read_text() == "the leader's own error"
        assert "the first process failed" in (tmp_path / "other").read_text()


def _fail(folder: Path) -> None:
    name = "leader" if rank() == 0 else "other"
    try:
        with rank_zero_first(tiny.in_loop().training):
            assert name == "leader", "the other went through"
            raise SeesayError("the leader's own error")
    except SeesayError as error:
        (folder / name).write_text(str(error))


def test_more_processes_than_gpus_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    _require_devices("cuda", 2)
    _require_devices("cpu", 9)
    with pytest.raises(ConfigError, match=r"training\.devices is 3, but only 2 of cuda"):
        _require_devices("cuda", 3)
    with pytest.raises(ConfigError, match="only 1 of mps"):
        _require_devices("mps", 2)


def test_a_run_may_resume_with_another_number_of_processes(cached_run: Path) -> None:
    there = load_run(cached_run).config

    def asked(**changes: Any) -> Config:
        return there.replace(training=there.training.replace(**changes))

    assert existing_run(cached_run, asked(devices=2), overwrite=False) is not None
    with pytest.raises(ConfigError, match=r"training\.seed is 0 there, 7 here"):
        existing_run(cached_run, asked(seed=7), overwrite=False)
