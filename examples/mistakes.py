"""Measure what the common mistakes of captioning tutorials cost.

`python examples/mistakes.py DATA --out runs/mistakes` trains `attention-gru` without a mistake, captions the test split
with mistakes that concern inference only, then trains once with each mistake that concerns training. It prints a line
of scores for each and saves the evaluations. The same command resumes an interrupted measurement.
`docs/course/mistakes.md` explains each mistake and has the measured costs.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from seesay import DecodingOptions, Evaluation, TrainedCaptioner, evaluate, load_annotations, resolve_config
from seesay.config import EncoderConfig
from seesay.data.annotations import Annotations
from seesay.data.batches import CaptionBatches, make_examples
from seesay.evaluation import caption_split, evaluate_captions, save_evaluation
from seesay.features import FeatureStore, JoinedStores, extract_features
from seesay.models.attention import Regions
from seesay.models.cells import gru_update
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.encoders import build_encoder
from seesay.models.packing import PAD_ID, PackedCaptions
from seesay.models.protocol import DecoderOutput, DecoderState, StepOutput
from seesay.models.recurrent import OPTIONS, CellOutput, RecurrentDecoder, Tensors
from seesay.models.registry import register_decoder
from seesay.training.inputs import LazyInputs, TrainingData, open_training_data, read_captions
from seesay.training.losses import cross_entropy
from seesay.training.train import train_on

METRICS = ("BLEU", "CIDEr")
LONGEST = 40
"""Length of padded captions, in tokens: the longest one of Flickr8k has 37 words."""


@register_decoder("no-state", OPTIONS.union(("output_size",)))
class StatelessGRU(AttentionGRUDecoder):
    """The GRU is called without its previous state, so that it starts from zeros at every word.

    In Keras: `output, state = self.gru(x)` instead of `self.gru(x, initial_state=hidden)`. The previous output still
    queries the attention; this is the only path from earlier words to the next one.
    """

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor], regions: Regions) -> CellOutput:
        """Return the next state, computed from the word and the context only."""
        context, weights = self.attend(state["hidden"], regions)
        zeros = torch.zeros_like(state["hidden"])
        new = gru_update(words + self.context_gates(context), self.state_gates(zeros), zeros)
        return CellOutput({"hidden": new}, new, weights)

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return logits and attention; without the native step, which carries the state."""
        return RecurrentDecoder.step(self, tokens, state)


@register_decoder("no-image", OPTIONS.union(("output_size",)))
class UnconnectedGRU(AttentionGRUDecoder):
    """The encoder's output is computed but not connected to the decoder: a language model."""

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Return the state over zeros instead of the memory (B, N, D)."""
        return super().init_state(torch.zeros_like(memory), memory_mask)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Return the logits (M, V) over zeros instead of the memory (B, N, D)."""
        return super().forward(torch.zeros_like(memory), memory_mask, captions)


@register_decoder("padded", OPTIONS.union(("output_size",)))
class PaddedGRU(AttentionGRUDecoder):
    """Every caption is padded to `LONGEST` tokens, and all steps are computed; the loss ignores padding."""

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Return the logits (M, V) of the real tokens; the penalty is `padding_penalty`."""
        padded = pad(captions)
        logits = super().forward(memory, memory_mask, padded).logits
        real = logits[padded.targets != PAD_ID]  # in the order of `captions`
        return DecoderOutput(real, lambda: self.padding_penalty(logits, padded, real, captions))

    def padding_penalty(
        self, logits: Tensor, padded: PackedCaptions, real: Tensor, captions: PackedCaptions
    ) -> Tensor | float:
        """Return what training adds to the loss because of padding: nothing."""
        return 0.0


@register_decoder("padding-in-loss", OPTIONS.union(("output_size",)))
class PaddingInLossGRU(PaddedGRU):
    """Padding is a target like any other word: the loss is the mean over all `LONGEST` positions."""

    def padding_penalty(
        self, logits: Tensor, padded: PackedCaptions, real: Tensor, captions: PackedCaptions
    ) -> Tensor | float:
        """Return the loss over all positions minus the loss over the real ones, to which training adds it."""
        smoothing = resolve_config("attention-gru").training.label_smoothing
        return cross_entropy(logits, padded.targets, smoothing) - cross_entropy(real, captions.targets, smoothing)


def pad(captions: PackedCaptions) -> PackedCaptions:
    """Return the captions with padding to `LONGEST` tokens as if it were real."""
    index = captions.by_caption()
    tokens = torch.cat([index.pad(captions.inputs)[:, :1], index.pad(captions.targets)], dim=1)  # (R, T)
    by_time = F.pad(tokens, (0, LONGEST - tokens.shape[1]), value=PAD_ID).T  # (LONGEST, R)
    return PackedCaptions(
        inputs=by_time[:-1].flatten(),
        targets=by_time[1:].flatten(),
        sizes=[captions.rows] * (LONGEST - 1),
        image_of_row=captions.image_of_row,
        caption_of_row=captions.caption_of_row,
    )


def split_by_caption(annotations: Annotations) -> Annotations:
    """Return the data with captions, not images, divided between train and val: most images are in both."""
    counts = {name: sum(len(item.captions) for item in annotations.split(name)) for name in ("train", "val")}
    share = counts["val"] / sum(counts.values())
    generator, items = random.Random(0), []
    for item in annotations:
        if item.split not in ("train", "val"):
            items.append(item)
            continue
        in_val = [generator.random() < share for _ in item.captions]
        for split, wanted in (("train", False), ("val", True)):
            captions = tuple(text for text, val in zip(item.captions, in_val, strict=True) if val is wanted)
            if captions:
                items.append(replace(item, captions=captions, split=split))
    return replace(annotations, items=tuple(items))


TRAINING: dict[str, str] = {
    "correct": "attention",
    "no-state": "no-state",
    "no-image": "no-image",
    "split-by-caption": "attention",
    "padded": "padded",
    "padding-in-loss": "padding-in-loss",
}
"""The decoder of each training, without a mistake and with a mistake of training."""

DECODING = {
    "greedy": DecodingOptions(),
    "beam": DecodingOptions(strategy="beam", beam_size=5),
    "sampling": DecodingOptions(strategy="sample"),
    "unknown-words": DecodingOptions(strategy="beam", beam_size=5, allow_unk=True),
    "end-ignored": DecodingOptions(min_length=LONGEST - 3, max_length=LONGEST - 3),
}
"""Options without a mistake (the first two) and with a mistake of decoding."""

PIXELS = {
    "pixels-0-to-1": {"mean": (0.0,) * 3, "std": (1.0,) * 3},
    "pixels-0-to-255": {"mean": (0.0,) * 3, "std": (1 / 255,) * 3},
}
"""Preprocessing of images at inference that differs from that of training."""


@dataclass(frozen=True)
class Experiment:
    """The data, the folders and the settings of all measurements.

    Attributes:
        data: data set.
        out: folder of runs and evaluations.
        config: settings on top of `attention-gru`, YAML; None: those of the preset.
        features: folder of feature stores.
        stores: feature stores to use instead.
    """

    data: str
    out: Path
    config: str | None
    features: str
    stores: Sequence[str]

    def train(self, name: str) -> Path:
        """Return the run of a training, after training it unless it is finished."""
        config, run = resolve_config("attention-gru", self.config, {"decoder": TRAINING[name]}), self.out / name

        def captions() -> Annotations:
            annotations = read_captions(config, self.data)
            return split_by_caption(annotations) if name == "split-by-caption" else annotations

        def features(annotations: Annotations) -> TrainingData:
            return open_training_data(config, annotations, self.data, self.features, self.stores, None)

        result = train_on(config, LazyInputs(captions, features), run)
        print(f"{name}: best validation CIDEr {result.best:.1f}, {result.seconds:.0f} s of training", flush=True)
        return run

    def decode(self, name: str, run: Path, decoding: str) -> None:
        """Caption and score the test split with options of `DECODING`."""
        options = DECODING[decoding]
        self.report(
            f"{name} {decoding}",
            evaluate(run, self.data, options=options, metrics=METRICS, features=self.features, stores=self.stores),
        )

    def caption_wrong_pixels(self, name: str, run: Path) -> None:
        """Caption and score test images with a preprocessing of `PIXELS`."""
        captioner = TrainedCaptioner.load(run)
        items = load_annotations(self.data).split("test").items
        settings = captioner.run.config.encoder.model_dump() | PIXELS[name]
        path = self.out / f"{name}.safetensors"
        extract_features({item.id: item.image for item in items}, build_encoder(EncoderConfig(**settings)), path)
        store, options = JoinedStores([FeatureStore(path)]), DECODING["beam"]
        captions, _ = caption_split(captioner, items, store, options)
        texts = {item.id: captions[item.id].text for item in items}
        self.report(
            f"{name} beam",
            evaluate_captions(
                items, texts, system=name, split="test", metrics=METRICS, decoding=options, captions=captions
            ),
        )

    def test_loss(self, run: Path) -> float:
        """Return the loss of a run on the test images, in nats per token."""
        captioner = TrainedCaptioner.load(run)
        config = captioner.run.config
        data = read_captions(config, self.data)
        store = open_training_data(config, data, self.data, self.features, self.stores, None).store
        examples = make_examples(data.split("test").items, captioner.tokenizer.encode)
        total = count = 0.0
        with torch.inference_mode():
            for batch in CaptionBatches(examples, store, None, 64, shuffle=False):
                assert batch.features is not None
                logits = captioner.model(batch.features, batch.memory_mask, batch.captions)
                total += float(cross_entropy(logits, batch.captions.targets)) * batch.tokens
                count += batch.tokens
        return total / count

    def report(self, name: str, evaluation: Evaluation) -> None:
        """Save an evaluation and print one line of scores."""
        save_evaluation(evaluation, self.out / "evaluations" / name.replace(" ", "-"))
        scores, interval = evaluation.scores.corpus, evaluation.intervals["CIDEr"]
        print(
            f"{name}: CIDEr {100 * scores['CIDEr']:.1f} ({100 * interval.low:.1f}-{100 * interval.high:.1f}), "
            f"BLEU-4 {100 * scores['BLEU-4']:.1f}, distinct captions {100 * evaluation.diversity.unique:.0f} %",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all mistakes, or those of `--only`."""
    names = [*TRAINING, *DECODING, *PIXELS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and evaluations")
    parser.add_argument("--only", choices=names, nargs="+", default=names, help="mistakes to measure")
    parser.add_argument("--run", type=Path, help="run for the mistakes of inference, instead of training one")
    parser.add_argument("--config", help="YAML file of settings, on top of the preset attention-gru")
    parser.add_argument("--store", action="append", default=[], help="feature store")
    parser.add_argument("--features", default="features", help="folder of feature stores")
    options = parser.parse_args(arguments)
    experiment = Experiment(options.data, options.out, options.config, options.features, options.store)
    for name in options.only:
        if name in TRAINING:
            run = experiment.train(name)
            for decoding in ("greedy", "beam"):
                experiment.decode(name, run, decoding)
            if name in ("correct", "split-by-caption"):
                print(f"{name}: test loss {experiment.test_loss(run):.3f} nats per token", flush=True)
        else:
            run = options.run or experiment.train("correct")
            if name in DECODING:
                experiment.decode("correct", run, name)
            else:
                experiment.caption_wrong_pixels(name, run)


if __name__ == "__main__":
    main()
