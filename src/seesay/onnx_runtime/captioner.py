"""`OnnxCaptioner`: an exported captioner, from file to sentence, without torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seesay.caption import Caption, Captioner, ModelInputs
from seesay.config import DecodingOptions
from seesay.decoding.deduplicate import distinct_captions, widened
from seesay.decoding.hypothesis import Result
from seesay.errors import CheckpointError, ConfigError
from seesay.images import Preprocessing
from seesay.onnx_runtime.graphs import Graphs, State
from seesay.onnx_runtime.manifest import TOKENIZER_FILE, Manifest
from seesay.onnx_runtime.search import Search
from seesay.tokenizer import Tokenizer


class OnnxCaptioner(Captioner):
    """An exported captioner.

    Attributes:
        folder: where it is.
        manifest: what it says of itself.
        graphs: its encoder and decoder.
    """

    def __init__(self, folder: Path, manifest: Manifest, tokenizer: Tokenizer, graphs: Graphs) -> None:
        super().__init__(manifest.config, tokenizer, manifest.max_length, manifest.grid)
        self.folder, self.manifest, self.graphs = folder, manifest, graphs

    @classmethod
    def load(cls, folder: str | Path, threads: int = 0) -> "OnnxCaptioner":
        """Returns the captioner of an exported folder.

        Args:
            folder: what `seesay export` wrote.
            threads: of onnxruntime; 0 = as many as it chooses.

        Raises:
            CheckpointError: no exported captioner there, or one that is damaged or put together from several.
            MissingDependencyError: onnxruntime is not installed.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
        graphs = Graphs(folder, threads)
        sizes = {len(tokenizer), manifest.vocabulary_size, graphs.vocabulary_size}
        if len(sizes) > 1 or graphs.image_size != manifest.preprocessing.size:
            raise CheckpointError(f"the files in {folder} are not of one export; export the run again")
        return cls(folder, manifest, tokenizer, graphs)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The exported folder."""
        return (self.folder,)

    def preprocessing(self) -> Preprocessing:
        """Returns how an image becomes what the encoder is shown."""
        return self.manifest.preprocessing

    def see(self, pixels: Sequence[ModelInputs]) -> State:
        """Returns the decoder's first state of images."""
        return self.graphs.look(np.stack([view for (view,) in pixels]))

    def say(
        self,
        seen: State,
        names: Sequence[str] | None,
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
    ) -> list[Caption]:
        """Returns the captions of images that the encoder has seen.

        Args:
            seen: from `see`.
            names: of the images, for warnings; None = their places.
            options: how to search; None = as the run says.
            attention: keep where the model looked at each word.
            top_tokens: only the run itself can give the likeliest words; 0.

        Raises:
            ConfigError: an option that only the run itself can follow.
        """
        if top_tokens:
            raise ConfigError(
                "the likeliest words at each place need the run itself (seesay with torch), not its export"
            )
        options = self.options(options)
        refuse_options(options)
        rules = self._rules(options)

        def search(images: list[int], widening: int) -> list[Result]:
            part = seen.keep(np.array(images)) if widening else seen
            return Search(self.graphs, widened(options, widening), rules, attention).run(part, len(images))

        names = [str(place) for place in range(len(next(iter(seen.per_row.values()))))] if names is None else names
        return self._captions(distinct_captions(search, names, options, rules))


def refuse_options(options: DecodingOptions) -> None:
    """Refuses what this search cannot do.

    Raises:
        ConfigError: it is among the options; it is named.
    """
    for wanted, words in (
        (options.strategy == "sample", "strategy sample"),
        (options.num_beam_groups > 1, "num_beam_groups"),
        (bool(options.force_words), "force_words"),
        (options.complete_endings, "complete_endings"),
    ):
        if wanted:
            raise ConfigError(f"decoding.{words} needs the run itself (seesay with torch), not its export; leave it")
