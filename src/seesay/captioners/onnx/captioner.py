"""`OnnxCaptioner`: an exported captioner, without torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seesay.captioners.onnx.graphs import Graphs, State
from seesay.captioners.onnx.manifest import TOKENIZER_FILE, Manifest
from seesay.captioners.search import ModelInputs, SearchCaptioner
from seesay.errors import CheckpointError
from seesay.images.loading import Preprocessing
from seesay.tokenizer import Tokenizer


class OnnxCaptioner(SearchCaptioner):
    """A captioner loaded from an exported folder.

    Attributes:
        folder: the folder.
        manifest: its metadata.
        graphs: its encoder and decoder.
    """

    _index_advice = "an exported captioner cannot have one: use the run itself"

    def __init__(self, folder: Path, manifest: Manifest, tokenizer: Tokenizer, graphs: Graphs) -> None:
        super().__init__(manifest.config, tokenizer, manifest.max_length, manifest.grid)
        self.folder, self.manifest, self.graphs = folder, manifest, graphs

    @classmethod
    def load(cls, folder: str | Path, threads: int = 0) -> "OnnxCaptioner":
        """Return the captioner of an exported folder.

        Args:
            folder: written by `seesay export`.
            threads: threads of onnxruntime; 0: its default.

        Raises:
            CheckpointError: the folder has no exported captioner, or it is damaged or mixes several exports.
            MissingDependencyError: onnxruntime is not installed.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
        graphs = Graphs(folder, threads)
        sizes = {len(tokenizer), manifest.vocabulary_size, graphs.vocabulary_size}
        if len(sizes) > 1 or graphs.image_size != manifest.preprocessing.size:
            raise CheckpointError(f"the files in {folder} are from different exports; export the run again")
        return cls(folder, manifest, tokenizer, graphs)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The exported folder."""
        return (self.folder,)

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that the encoder needs."""
        return self.manifest.preprocessing

    @property
    def decoder(self) -> Graphs:
        """The decoder that generates tokens."""
        return self.graphs

    def encode(self, inputs: Sequence[ModelInputs]) -> State:
        """Return the decoder's state before the start token, of B images."""
        return self.graphs.encode(np.stack([view for (view,) in inputs]))
