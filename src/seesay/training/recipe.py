"""`Recipe`: what differs between training a network of seesay's own and fine-tuning a pretrained model."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seesay.checkpoint import RunInfo, RunRecord, save_run
from seesay.config import Config
from seesay.data.batches import ImageBatches
from seesay.data.records import Annotations
from seesay.tokenizer import Tokenizer
from seesay.training.base import TrainingModule

VALIDATION_CAPTIONS = 320
"""Captions per validation batch."""


@dataclass(frozen=True)
class BuiltRun:
    """What Lightning trains.

    Attributes:
        module: the module, with the training batches.
        validation: the validation batches.
        save: writes the module's current weights into the run folder.
    """

    module: TrainingModule
    validation: ImageBatches[Any]
    save: Callable[[], None]


class PreparedRun(ABC):
    """The inputs and metadata with which training starts or resumes.

    Attributes:
        info: metadata of the run.
        tokenizer: the vocabulary to save; None if the model has its own.
    """

    info: RunInfo
    tokenizer: Tokenizer | None = None

    def save(self, out: Path, config: Config) -> None:
        """Write everything but the weights into the run folder, before training starts.

        Args:
            out: the run folder.
            config: the configuration.
        """
        save_run(out, config, self.info, self.tokenizer)

    @abstractmethod
    def build(self, out: Path, start: bool) -> BuiltRun:
        """Return the module and the batches.

        Args:
            out: the run folder.
            start: training starts, instead of resuming from a saved state.
        """


class Recipe(ABC):
    """Reads the data of a configuration and prepares its training.

    Args:
        config: the configuration.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def check(self) -> None:
        """Check the configuration before data is read.

        Raises:
            ConfigError: settings contradict each other or have no effect.
        """

    @abstractmethod
    def annotations(self) -> Annotations:
        """Return the captions to train on."""

    @abstractmethod
    def prepare(self, annotations: Annotations, resumed: RunRecord | None) -> PreparedRun:
        """Return what training needs.

        Args:
            annotations: the captions.
            resumed: the unfinished run to resume; None: training starts.
        """
