"""Who takes part in the training benchmark, each in a process of its own, asked in turn."""

import contextlib
import importlib.util
import itertools
import multiprocessing
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.floor import Counts, MachineRates, NecessaryWork, floor_of, necessary_work
from bench.material import VOCABULARY, Material, load_material
from bench.measuring import peak_memory, seconds
from bench.tutorial_tensorflow import TrainStep, load_tensorflow, tensorflow_step
from bench.tutorial_torch import TorchTutorial
from seesay.config import resolve_config
from seesay.data.batches import CaptionBatches
from seesay.errors import SeesayError
from seesay.models.captioning import build_model
from seesay.training.averaging import AveragedWeights
from seesay.training.callbacks import MetricsLog
from seesay.training.module import CaptioningModule
from seesay.training.trainer import build_trainer, quiet_lightning

Precision = Literal["float32", "bfloat16"]
Round = dict[str, float]
_TUTORIAL_BATCH = 64


@dataclass(frozen=True)
class Entry:
    """What a process of the benchmark does.

    Attributes:
        system: ours, or the tutorial in torch or tensorflow.
        preset: of ours.
        precision: of the arithmetic; TensorFlow's is float32 always, as the tutorial's.
        threads: as many.
        padding: tokens to which the tutorial pads and cuts every caption; 0 = the longest of the data.
        steps: of a tutorial's round.
        data: data set; None = made-up captions.
        store: its features; None = random ones.
        pictures: how many of them.
    """

    system: Literal["ours", "torch", "tensorflow"]
    preset: str
    precision: Precision
    threads: int
    padding: int
    steps: int
    data: Path | None
    store: Path | None
    pictures: int


class Contestant:
    """A process that has made ready and waits to be asked for a round.

    Attributes:
        peak: MB by which the process grew at most while it built its model and trained, and all it held then.
    """

    def __init__(self, entry: Entry) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and its memory
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, entry), daemon=True)
        self._process.start()
        theirs.close()
        self.peak: tuple[float, float] = self._receive()

    def round(self) -> Round:
        """Returns what the contestant says of one more round: captions, seconds, and ours more than that."""
        self._connection.send("round")
        return cast("Round", self._receive())

    def close(self) -> None:
        """Ends the process."""
        self._connection.send(None)
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise SystemExit("a process of the benchmark has ended; what it said is above") from None


def _serve(connection: Connection, entry: Entry) -> None:
    torch.set_num_threads(entry.threads)
    try:
        material = load_material(entry.data, entry.store, entry.pictures)
    except SeesayError as error:
        raise SystemExit(str(error)) from error
    work = ours(entry, material) if entry.system == "ours" else tutorial(entry, material)
    with contextlib.suppress(EOFError, BrokenPipeError):  # whoever asked is gone
        connection.send(tuple(peak_memory(work)))  # libraries and data are there; model and optimizer are not
        while connection.recv() is not None:
            connection.send(work())


def ours(entry: Entry, material: Material) -> Callable[[], Round]:
    """Returns a round of ours: an epoch of bare steps, one of the whole training loop, and the floor of the former."""
    made: list[OurSteps] = []
    rates: list[MachineRates] = []

    def work() -> Round:
        if not made:  # the first round is the one whose memory counts: nothing but the steps
            made.append(OurSteps(entry, material))
            made[0].epoch()
            return {}
        bare = made[0]
        taken = seconds(bare.epoch)
        rates[:] = rates or [MachineRates(bare.works[0].products, bare.dtype)]
        matrix, tanh = rates[0].matrix(), rates[0].tanh()
        floor = floor_of(bare.works, matrix, tanh)
        return {
            "captions": material.captions,
            "seconds": taken,
            "floor": floor.seconds,
            "floor_tanh": floor.tanh,
            "matrix_rate": matrix,
            "tanh_rate": tanh,
            "loop": loop_seconds(entry, material),
        }

    return work


class OurSteps:
    """The training step of `seesay train` without Lightning around it.

    The step is `CaptioningModule.training_step`, its optimizer, schedule and average of weights those of the
    preset. Left out are Lightning's hooks, the seed of each step, log lines, TensorBoard, checkpoints, validation.

    Attributes:
        works: the necessary arithmetic of each step of the last epoch.
        dtype: of the products.
    """

    def __init__(self, entry: Entry, material: Material) -> None:
        self.module = our_module(entry, material)
        self.dtype = torch.bfloat16 if entry.precision == "bfloat16" else torch.float32
        training = self.module.config.training
        made = self.module.configure_optimizers()
        self._optimizer, self._schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self._clip = training.clip_gradients
        self._average = AveragedWeights(training.ema_decay) if training.ema_decay else None
        if self._average:
            self._average.on_train_start(cast("Any", None), self.module)
        self._steps, self._epochs = 0, 0
        self.works: list[NecessaryWork] = []

    def epoch(self) -> None:
        """Trains once on everything."""
        module, counts = self.module, []
        module.batches.set_epoch(self._epochs)
        for number, batch in enumerate(module.batches):
            self._optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
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


def our_module(entry: Entry, material: Material) -> CaptioningModule:
    """Returns a preset's captioner ready to be trained, its vocabulary `VOCABULARY` ids."""
    config = resolve_config(entry.preset, overrides={"precision": entry.precision, "device": "cpu", "epochs": 100})
    torch.manual_seed(config.training.seed)
    features = material.features.pooled() if config.encoder.pool == "pooled" else material.features
    model = build_model(config.model, VOCABULARY, features.features.shape[2])
    batches = CaptionBatches(material.examples, features, None, config.training.batch_captions)
    references = {example.id: ["a picture"] for example in material.examples}
    module = CaptioningModule(model, config, material.tokenizer, batches, references, material.longest - 2)
    module.train()
    return module


def loop_seconds(entry: Entry, material: Material) -> float:
    """Returns the time of an epoch of training under Lightning, as `seesay train` does it, validation aside."""
    module = our_module(entry, material)
    held = CaptionBatches(module.batches.examples[:2], module.batches.features, None, 64, shuffle=False)
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        out = Path(folder)
        trainer = build_trainer(module.config, out, [MetricsLog(out / "metrics.csv", module.config.training.log_every)])
        trainer.fit_loop.max_epochs = 1
        trainer.fit(module, module.batches, held)
    return module.seconds


def tutorial(entry: Entry, material: Material) -> Callable[[], Round]:
    """Returns a round of the tutorial: so many steps, which go on through the pairs of a picture and a caption.

    Its features are float32, as its files hold them, and in memory.
    """
    pairs = [(row, caption) for row, example in enumerate(material.examples) for caption in example.tokens]
    random.Random(0).shuffle(pairs)
    endless = itertools.cycle(pairs)
    longest = entry.padding or material.longest
    features = material.features.features.astype(np.float32)
    tensorflow = load_tensorflow(entry.threads) if entry.system == "tensorflow" else None
    steps: list[TrainStep] = []

    def one() -> None:
        chosen = list(itertools.islice(endless, _TUTORIAL_BATCH))
        steps[0](features[[row for row, _ in chosen]], _padded([caption for _, caption in chosen], longest))

    def work() -> Round:
        if not steps:
            steps.append(tensorflow_step(tensorflow, VOCABULARY) if tensorflow else torch_step(entry, material))
        taken = sum(seconds(one) for _ in range(entry.steps))
        return {"captions": entry.steps * _TUTORIAL_BATCH, "seconds": taken}

    return work


def _padded(captions: Sequence[Sequence[int]], longest: int) -> NDArray[np.int64]:
    """Returns captions (R, T), cut or padded to T tokens."""
    tokens = np.zeros((len(captions), longest), np.int64)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = caption[:longest]
    return tokens


def torch_step(entry: Entry, material: Material) -> TrainStep:
    """Returns the training step of the tutorial in PyTorch."""
    torch.manual_seed(0)
    model = TorchTutorial(material.features.features.shape[2], VOCABULARY)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-7)

    def step(features: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=entry.precision == "bfloat16"):
            loss: Tensor = model(torch.from_numpy(features), torch.from_numpy(tokens))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def has_tensorflow() -> bool:
    """Tells whether TensorFlow is installed, without loading it."""
    return importlib.util.find_spec("tensorflow") is not None
