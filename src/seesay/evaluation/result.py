"""What an evaluation found, and the files it leaves behind."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seesay.caption import Caption
from seesay.config import DecodingOptions
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.files import text_bytes, unescape_name, write_atomically
from seesay.metrics import Diversity, Interval, Scores, verdict
from seesay.metrics.bootstrap import DRAWS, bootstrap_recipe
from seesay.metrics.scores import number_of_references
from seesay.outputs import FolderKind, check_folder

PER_IMAGE_FILE = "per_image.parquet"
PREDICTIONS_FILE = "predictions.jsonl"
SCORES_FILE = "scores.json"
REPORT_FILE = "report.html"

EVALUATION = FolderKind(
    "evaluation",
    (PREDICTIONS_FILE, PER_IMAGE_FILE, REPORT_FILE, SCORES_FILE),
    signature=(SCORES_FILE, b'"signature": "'),
)


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of captions against one split.

    Attributes:
        system: what said them: a run folder, a file, or which human captions.
        items: the images that were scored with the references they were scored against.
        predictions: caption by image id, in the order of the split.
        scores: corpus and per-image scores with their signature.
        intervals: 95 % bootstrap interval of each score that has one.
        diversity: what no score against references tells.
        split: the split's name.
        decoding: how the captions were searched for; None if no model of ours said them here.
        origin: where they come from if so, for the signature: `file`, or which human captions.
        captions: the captions with their evidence, where a model of ours said them here.
        absent_objects: share of captions that name an object which is not there; None without boxes.
        problems: one line a defect: images left out, predictions of other images, scores not computed.
        missing_scores: why each score that was asked for is absent.
        left_out: images of the split that could not be scored.
        draws: bootstrap draws of the intervals.
    """

    system: str
    items: tuple[Annotation, ...]
    predictions: dict[str, str]
    scores: Scores
    intervals: dict[str, Interval]
    diversity: Diversity
    split: str
    decoding: DecodingOptions | None = None
    origin: str = "file"
    captions: Mapping[str, Caption] = field(default_factory=dict)
    absent_objects: float | None = None
    problems: tuple[str, ...] = ()
    missing_scores: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    draws: int = DRAWS

    @property
    def whole(self) -> bool:
        """Returns whether every image of the split was scored, and every caption says something."""
        return not self.left_out and not self.scores.empty

    @property
    def unit(self) -> str:
        """Returns what the tokens of captions are: words or characters."""
        return "characters" if self.scores.tokenization == "characters" else "words"

    @property
    def verdict(self) -> str:
        """Returns one line on what is most wrong with the captions; empty when nothing is."""
        return verdict(self.diversity)

    @property
    def signature(self) -> str:
        """Returns everything the numbers depend on, to print beside them."""
        origin = self.origin if self.decoding is None else f"{_brief(self.decoding)}|torch:{version('torch')}"
        return f"{self.scores.signature}|split:{self.split}|captions:{origin}|{bootstrap_recipe(self.draws)}"

    def to_dict(self) -> dict[str, Any]:
        """Returns what `scores.json` holds."""
        return {
            "system": self.system,
            "split": self.split,
            "images": len(self.predictions),
            "references": number_of_references([item.captions for item in self.items]),
            "scores": self.scores.corpus,
            "intervals_95": {name: [interval.low, interval.high] for name, interval in self.intervals.items()},
            "diversity": asdict(self.diversity),
            "absent_objects": self.absent_objects,
            "verdict": self.verdict,
            "signature": self.signature,
            "decoding": None if self.decoding is None else asdict(self.decoding),
            "left_out": list(self.left_out),
            "problems": list(self.problems),
            "missing_scores": self.missing_scores,
        }


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Writes `scores.json`, `per_image.parquet` and `predictions.jsonl` into a folder, each whole or absent.

    Raises:
        DataError: the folder holds files of these names that seesay did not write.
        SeesayError: a file cannot be written.
    """
    check_folder(folder, EVALUATION)
    rows = (
        json.dumps({"id": image_id, "caption": caption}, ensure_ascii=False)
        for image_id, caption in evaluation.predictions.items()
    )
    write_atomically(folder / PREDICTIONS_FILE, text_bytes("\n".join(rows) + "\n"))
    write_atomically(folder / PER_IMAGE_FILE, _per_image(evaluation))
    scores = json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / SCORES_FILE, text_bytes(scores))  # last: where it is, the others are


def is_per_image(path: Path) -> bool:
    """Returns whether a file is a table of scores, by its name or by its metadata; else it may be one of captions."""
    if not path.is_file() or path.name == PER_IMAGE_FILE or path.suffix.lower() != ".parquet":
        return path.is_file() and path.name == PER_IMAGE_FILE
    try:
        return b"seesay" in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def read_per_image(path: Path) -> tuple[list[Annotation], dict[str, str], dict[str, Any]]:
    """Returns the images with their references, the captions by id, and what was written beside them.

    Raises:
        DataError: the file is missing or no table of ours.
    """
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"seesay"])
        if not all(isinstance(about[name], str) for name in ("split", "tokenization", "signature")):
            raise KeyError("split")
        columns = [table[name].to_pylist() for name in ("id", "image", "caption", "references")]
        columns[:2] = [[unescape_name(name) for name in names] for names in columns[:2]]
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} is no table of scores of `seesay evaluate`; evaluate again") from error
    items, predictions = [], {}
    for image_id, image, caption, references in zip(*columns, strict=True):
        items.append(Annotation(image_id, image, tuple(references), about["split"]))
        predictions[image_id] = caption
    return items, predictions, about


def _per_image(evaluation: Evaluation) -> bytes:
    """Returns the table of images as Parquet: caption, references and every score."""
    said = [evaluation.captions.get(item.id) for item in evaluation.items]
    columns: dict[str, Any] = {
        "id": [text_bytes(item.id).decode() for item in evaluation.items],
        "image": [text_bytes(item.image).decode() for item in evaluation.items],
        "caption": list(evaluation.predictions.values()),
        "references": [list(item.captions) for item in evaluation.items],
        "words": list(evaluation.scores.lengths),
        **evaluation.scores.per_image,
    }
    if any(said):
        columns["log_prob"] = [None if caption is None else sum(caption.log_probs) for caption in said]
        columns["finished"] = [None if caption is None else caption.finished for caption in said]
    about = {
        "system": evaluation.system,
        "split": evaluation.split,
        "signature": evaluation.signature,
        "tokenization": evaluation.scores.tokenization,
    }
    table = pa.table(columns).replace_schema_metadata({b"seesay": json.dumps(about).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _brief(options: DecodingOptions) -> str:
    """Returns the strategy and every option that is not its default: `beam(beam_size=5,max_length=37)`."""
    usual = DecodingOptions()
    names = [item.name for item in fields(options) if item.name != "strategy"]
    changed = [f"{name}={getattr(options, name)}" for name in names if getattr(options, name) != getattr(usual, name)]
    return f"{options.strategy}({','.join(changed)})"
