"""seesay's side of the training benchmark: bare steps, the complete loop, and their floor."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from bench.entry import Entry, Round
from bench.floor import Counts, MachineRates, NecessaryWork, floor_of, necessary_work
from bench.measuring import seconds
from bench.training_data import VOCABULARY, TrainingData
from seesay.config import resolve_config
from seesay.data.batches import CaptionBatches
from seesay.models.captioning import build_model
from seesay.training.callbacks import MetricsLog
from seesay.training.cuda_graphs import GraphedTrainStep, uses_graphs
from seesay.training.ema import EmaWeights
from seesay.training.module import CaptioningModule
from seesay.training.trainer import build_trainer, quiet_lightning


def ours(entry: Entry, data: TrainingData) -> Callable[[], Round]:
    """Return a function that runs a round: an epoch of bare steps, one of the complete loop, and the steps' floor."""
    created: list[OurSteps] = []
    rates: list[MachineRates] = []

    def work() -> Round:
        if not created:  # memory is measured in the first round, which runs only steps
            created.append(OurSteps(our_module(entry, data), entry.precision == "bfloat16"))
            created[0].epoch()
            return {}
        bare = created[0]
        taken = seconds(bare.epoch)
        rates[:] = rates or [MachineRates(bare.works[0].products, bare.dtype)]
        matrix, tanh = rates[0].matrix(), rates[0].tanh()
        floor = floor_of(bare.works, matrix, tanh)
        return {
            "captions": data.captions,
            "seconds": taken,
            "floor": floor.seconds,
            "floor_tanh": floor.tanh,
            "matrix_rate": matrix,
            "tanh_rate": tanh,
            "loop": train_in_loop(our_module(entry, data)),
        }

    return work


class OurSteps:
    """The training step of `seesay train` without Lightning.

    The step is `CaptioningModule.training_step`, with the preset's optimizer, schedule and weight averaging; a test
    compares the weights after an epoch with those of the loop. Excluded are Lightning's hooks, the seed of each step,
    logging, TensorBoard, checkpoints and validation.

    Attributes:
        works: the necessary arithmetic of each step of the last epoch.
        dtype: of the products.
    """

    def __init__(self, module: CaptioningModule, bfloat16: bool) -> None:
        self.module = module
        self.dtype = torch.bfloat16 if bfloat16 else torch.float32
        training = self.module.config.training
        optimizers = self.module.configure_optimizers()
        self._optimizer, self._schedule = optimizers["optimizer"], optimizers["lr_scheduler"]["scheduler"]
        self._clip = training.max_grad_norm
        self._average = EmaWeights(training.ema_decay) if training.ema_decay else None
        if self._average:
            self._average.on_train_start(cast("Any", None), self.module)
        self._steps, self._epochs = 0, 0
        self.works: list[NecessaryWork] = []

    def epoch(self, order: int | None = None) -> None:
        """Train one epoch.

        Args:
            order: epoch number, which determines the batches; None = the next at each call.
        """
        module, counts = self.module, []
        module.batches.set_epoch(self._epochs if order is None else order)
        module.epoch_loss = torch.zeros(2, device=module.device)
        for number, batch in enumerate(module.batches):
            self._optimizer.zero_grad()
            batch = batch.to(module.device, non_blocking=True)
            with torch.autocast(module.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                loss = module.training_step(batch, number)
            loss.backward()  # type: ignore[no-untyped-call]
            if self._clip:
                torch.nn.utils.clip_grad_norm_(module.parameters(), self._clip)
            self._optimizer.step()
            self._schedule.step()
            self._steps += 1
            if self._average:
                now = cast("Any", SimpleNamespace(global_step=self._steps))
                self._average.on_train_batch_end(now, module, None, batch, number)
            assert batch.features is not None
            counts.append(Counts.of(batch.captions, *batch.features.shape[:2]))
        self._epochs += 1
        self.works = [necessary_work(module.model, module.config.model, each) for each in counts]


def our_module(
    entry: Entry, data: TrainingData, vocabulary: int = VOCABULARY, **overrides: str | int | bool
) -> CaptioningModule:
    """Return a preset's captioner with the given vocabulary size, ready for training."""
    settings = {"precision": entry.precision, "device": "cpu", "epochs": 100, **overrides}
    config = resolve_config(entry.preset, overrides=settings)
    torch.manual_seed(config.training.seed)
    features = data.features.pooled() if config.encoder.pool == "pooled" else data.features
    model = build_model(config.model, vocabulary, features.features.shape[2])
    batches = CaptionBatches(data.examples, features, None, config.training.batch_captions)
    references = {example.id: ["an image"] for example in data.examples}
    model.train()
    steps = GraphedTrainStep(model, config.training.label_smoothing) if uses_graphs(config.training, model) else None
    longest = data.longest - 2
    module = CaptioningModule(model, config, data.tokenizer, batches, references, longest, steps=steps)
    module.train()
    return module.to(config.training.device)


def train_in_loop(module: CaptioningModule) -> float:
    """Train one epoch with Lightning, like `seesay train`; return the seconds without validation."""
    validation = CaptionBatches(module.batches.examples[:2], module.batches.features, None, 64, shuffle=False)
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        out = Path(folder)
        trainer = build_trainer(module.config, out, [MetricsLog(out / "metrics.csv", module.config.training.log_every)])
        trainer.fit_loop.max_epochs = 1
        trainer.fit(module, module.batches, validation)
    return module.seconds
