"""The demo: a synthetic data set, a captioner trained on it, and a report."""

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seesay.captioners.caption import Caption
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import Config, resolve_config
from seesay.data.records import Annotation
from seesay.data.synthetic.scenes import make_scenes
from seesay.evaluation import Evaluation, caption_split, evaluate_captions, save_evaluation
from seesay.explanation import (
    Card,
    Figure,
    Gallery,
    Section,
    Table,
    Text,
    draw_training_curves,
    write_report,
)
from seesay.explanation.explain import Explanation
from seesay.explanation.grounding import GroundingScores, measure_grounding
from seesay.formatting import format_duration
from seesay.images.loading import read_image
from seesay.outputs import HTML_PAGE, check_file, check_name
from seesay.training.train import TrainingResult, train

log = logging.getLogger("seesay")

NUM_EXAMPLES = 6
"""Test scenes in the report."""


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo."""

    report: Path
    scores: dict[str, float]
    grounding: GroundingScores
    seconds: float

    def lines(self) -> list[str]:
        """Return the lines that the command line prints."""
        return [
            f"BLEU-4 {100 * self.scores['BLEU-4']:.1f}, CIDEr {100 * self.scores['CIDEr']:.1f} on unseen scenes",
            f"attention inside the named object's box over the box's share of the area: "
            f"{self.grounding.ratio:.2f} on average over {self.grounding.nouns} nouns (1 for uniform attention)",
            f"attention maximum inside the named object's box: {100 * self.grounding.accuracy:.0f} % of the nouns "
            f"({100 * self.grounding.baseline:.0f} % for uniform attention)",
            f"named objects that are not in the image: {100 * self.grounding.unfounded:.0f} %",
            f"finished in {format_duration(self.seconds)}; open {self.report} in a browser",
        ]


def run_demo(
    folder: str | Path,
    *,
    seed: int = 0,
    counts: tuple[int, int, int] = (4000, 100, 200),
    config: Config | None = None,
) -> DemoResult:
    """Draw scenes, train on them, evaluate, and write `report.html`.

    Args:
        folder: output folder.
        seed: of data and training.
        counts: number of scenes for training, validation and test.
        config: training configuration; None = the preset `scenes`.
    """
    started = time.perf_counter()
    folder = Path(folder)
    check_name(folder)
    check_file(folder / "report.html", HTML_PAGE)
    config = config or resolve_config("scenes", overrides={"seed": seed})
    log.info("drawing %d scenes", sum(counts))
    scenes = make_scenes(folder / "scenes", *counts, seed=seed, size=config.encoder.image_size)
    try:
        trained = train(config, folder / "scenes", folder / "run", overwrite=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; run the same command to restart the demo") from None
    captioner = TrainedCaptioner.load(folder / "run")
    test = scenes.split("test").items
    captions, _ = caption_split(captioner, test, None, captioner.options(), attention=True)
    evaluation = evaluate_captions(
        test,
        {image_id: caption.text for image_id, caption in captions.items()},
        system=str(folder / "run"),
        split="test",
        training=[text for item in scenes.split("train") for text in item.captions],
        tokenization="whitespace",
        metrics=("BLEU", "ROUGE-L", "CIDEr"),
        decoding=captioner.options(),
        captions=captions,
    )
    save_evaluation(evaluation, folder / "run" / "predictions" / "test")
    grounding = measure_grounding(captions, test)
    report = folder / "report.html"
    seconds = time.perf_counter() - started
    examples = random.Random(seed).sample(list(test), min(NUM_EXAMPLES, len(test)))
    write_report(
        report,
        "seesay demo: a captioner trained from scratch",
        _sections(evaluation, grounding, trained, folder, [(item, captions[item.id]) for item in examples], seconds),
    )
    return DemoResult(report, evaluation.scores.corpus, grounding, seconds)


def _sections(
    evaluation: Evaluation,
    grounding: GroundingScores,
    trained: TrainingResult,
    folder: Path,
    examples: Sequence[tuple[Annotation, Caption]],
    seconds: float,
) -> list[Section]:
    intro = (
        "A small convolutional encoder and an attention decoder were trained jointly to describe drawn scenes of "
        f"shapes, in {format_duration(seconds)} in total. The scenes below were not used in training. Point at "
        "the words of a caption, or use the arrow keys, to show their attention maps."
    )
    rows = [(name, f"{100 * value:.1f}") for name, value in evaluation.scores.corpus.items()]
    rows += [
        ("attention on the named object, relative to uniform", f"{grounding.ratio:.2f}"),
        ("attention maximum on the named object", f"{100 * grounding.accuracy:.0f} %"),
        ("the same for uniform attention", f"{100 * grounding.baseline:.0f} %"),
        ("entropy of a word's attention, bits", f"{grounding.entropy:.2f}"),
        ("named objects that are not in the image", f"{100 * grounding.unfounded:.0f} %"),
        ("epochs", str(trained.epochs)),
    ]
    cards = [_card(item, caption, evaluation) for item, caption in examples]
    curves = draw_training_curves(folder / "run" / "metrics.csv")
    return [
        Text(intro),
        Gallery(cards, heading="Six unseen scenes"),
        Table(("score, times 100", "value"), rows, caption=evaluation.signature, heading="Scores on unseen scenes"),
        Figure(curves, "loss and CIDEr per epoch", heading="Training"),
    ]


def _card(item: Annotation, caption: Caption, evaluation: Evaluation) -> Card:
    image = read_image(item.image)
    index = evaluation.scores.ids.index(item.id)
    return Card(
        image=image,
        caption=caption.text,
        references=item.captions,
        attention=Explanation(image, caption).word_overlays(side=320),
        scores={"CIDEr": 100 * float(evaluation.scores.per_image["CIDEr"][index])},
        name=item.id,
    )
