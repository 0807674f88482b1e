"""The result of an evaluation and its files."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from seesay.captioners.caption import Caption
from seesay.captioners.guard import summarize_rejections
from seesay.config import DecodingOptions
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.files import text_bytes, unescape_name, write_atomically
from seesay.metrics import Diversity, Interval, Scores, diagnose
from seesay.metrics.bootstrap import DRAWS, bootstrap_recipe
from seesay.metrics.scores import number_of_references
from seesay.notebook import ResultTable
from seesay.outputs import FolderKind, check_folder

if TYPE_CHECKING:
    from rich.table import Table

PER_IMAGE_FILE = "per_image.parquet"
PREDICTIONS_FILE = "predictions.jsonl"
SCORES_FILE = "scores.json"
REPORT_FILE = "report.html"

EVALUATION = FolderKind(
    "evaluation",
    (PREDICTIONS_FILE, PER_IMAGE_FILE, REPORT_FILE, SCORES_FILE),
    signature=(SCORES_FILE, b'"signature": "'),
)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of one set of captions on one split.

    Attributes:
        system: source of the captions: a run folder, a file, or human captions.
        items: scored images with their references.
        predictions: caption by image id, in the order of the split.
        scores: corpus and per-image scores with their signature.
        intervals: 95 % bootstrap intervals by score.
        diversity: reference-free statistics.
        split: name of the split.
        decoding: decoding options; None if the captions were not generated in this evaluation.
        prompt: prompt of generated captions, with the language; empty: none.
        origin: source of such captions for the signature: `file`, how many images of the split it has captions of if
            not of all, or which human captions.
        captions: generated captions with scores and log-probabilities, by image id.
        absent_objects: fraction of captions that mention an absent object; None without boxes.
        problems: one line per problem: unscored images, predictions of other images, missing scores.
        missing_scores: reasons why requested scores are missing, by score.
        unscored: images of the split that could not be scored.
        draws: number of bootstrap draws of the intervals.
        rejected: number of captions by reason that `seesay caption` would reject; they are scored all the same.
    """

    system: str
    items: tuple[Annotation, ...]
    predictions: dict[str, str]
    scores: Scores
    intervals: dict[str, Interval]
    diversity: Diversity
    split: str
    decoding: DecodingOptions | None = None
    prompt: str = ""
    origin: str = "file"
    captions: Mapping[str, Caption] = field(default_factory=dict)
    absent_objects: float | None = None
    problems: tuple[str, ...] = ()
    missing_scores: dict[str, str] = field(default_factory=dict)
    unscored: tuple[str, ...] = ()
    draws: int = DRAWS
    rejected: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.scores.corpus.items())
        return f"Evaluation({self.system} on {self.split}, {len(self.predictions)} images: {values})"

    def table(self) -> ResultTable:
        """Return the scores with intervals and signature, as notebooks and `rich.print` show them."""
        title = f"{self.system} on {self.split}: {len(self.predictions)} images"
        return ResultTable(title, ("score x 100", "value", "95 % interval"), self.score_rows(), self.signature)

    def score_rows(self) -> list[tuple[str, str, str]]:
        """Return name, value and 95 % interval of each score, times 100 as in papers."""
        rows = []
        for name, value in self.scores.corpus.items():
            interval = self.intervals.get(name)
            span = "" if interval is None else f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"
            rows.append((name, f"{100 * value:.2f}", span))
        return rows

    def __rich__(self) -> "Table":
        return self.table().rich()

    def _repr_html_(self) -> str:
        return self.table().html()

    @property
    def complete(self) -> bool:
        """Whether every image of the split was scored and no caption is empty."""
        return not self.unscored and not self.scores.empty

    @property
    def unit(self) -> str:
        """Unit of tokens: words or characters."""
        return "characters" if self.scores.tokenization == "characters" else "words"

    @property
    def diagnosis(self) -> str:
        """One line on the most serious defect of the captions; empty if there is none."""
        return diagnose(self.diversity)

    @property
    def rejections(self) -> str:
        """One line on the captions that are not usable; empty if there are none."""
        if not self.rejected:
            return ""
        return f"`seesay caption` would reject captions that are scored here: {summarize_rejections(self.rejected)}"

    @property
    def signature(self) -> str:
        """Everything the numbers depend on."""
        origin = self.origin if self.decoding is None else f"{_brief(self.decoding)}|torch:{version('torch')}"
        if self.prompt:
            origin += f"|prompt:{hashlib.sha256(self.prompt.encode()).hexdigest()[:8]}"
        return f"{self.scores.signature}|split:{self.split}|captions:{origin}|{bootstrap_recipe(self.draws)}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `scores.json`."""
        return {
            "system": self.system,
            "split": self.split,
            "images": len(self.predictions),
            "references": number_of_references([item.captions for item in self.items]),
            "scores": self.scores.corpus,
            "intervals_95": {name: [interval.low, interval.high] for name, interval in self.intervals.items()},
            "diversity": asdict(self.diversity),
            "rejected": dict(self.rejected),
            "absent_objects": self.absent_objects,
            "diagnosis": self.diagnosis,
            "signature": self.signature,
            "decoding": None if self.decoding is None else self.decoding.model_dump(),
            "prompt": self.prompt or None,
            "unscored": list(self.unscored),
            "problems": list(self.problems),
            "missing_scores": self.missing_scores,
        }


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Writes `scores.json`, `per_image.parquet` and `predictions.jsonl` into a folder, each atomically.

    Raises:
        DataError: the folder contains files of these names not written by seesay.
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
    write_atomically(folder / SCORES_FILE, text_bytes(scores))  # last, so that its presence implies the others


def read_signature(path: Path) -> str:
    """Return the signature in a `scores.json`; empty if it has none."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("signature", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def is_per_image(path: Path) -> bool:
    """Returns whether a file is a per-image table of scores, by its name or metadata."""
    if not path.is_file() or path.name == PER_IMAGE_FILE or path.suffix.lower() != ".parquet":
        return path.is_file() and path.name == PER_IMAGE_FILE
    try:
        return b"seesay" in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def read_per_image(path: Path) -> tuple[list[Annotation], dict[str, str], dict[str, Any]]:
    """Returns the images with their references, the captions by id, and the metadata.

    Raises:
        DataError: the file is missing or not a per-image table of seesay.
    """
    try:
        table = pq.read_table(path)
        metadata = json.loads((table.schema.metadata or {})[b"seesay"])
        if not all(isinstance(metadata[name], str) for name in ("split", "tokenization", "signature")):
            raise KeyError("split")
        columns = [table[name].to_pylist() for name in ("id", "image", "caption", "references")]
        columns[:2] = [[unescape_name(name) for name in names] for names in columns[:2]]
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a per-image table of `seesay evaluate`; evaluate again") from error
    items, predictions = [], {}
    for image_id, image, caption, references in zip(*columns, strict=True):
        items.append(Annotation(image_id, image, tuple(references), metadata["split"]))
        predictions[image_id] = caption
    return items, predictions, metadata


def _per_image(evaluation: Evaluation) -> bytes:
    """Returns the per-image table as Parquet: caption, references and scores."""
    captions = [evaluation.captions.get(item.id) for item in evaluation.items]
    columns: dict[str, Any] = {
        "id": [text_bytes(item.id).decode() for item in evaluation.items],
        "image": [text_bytes(item.image).decode() for item in evaluation.items],
        "caption": list(evaluation.predictions.values()),
        "references": [list(item.captions) for item in evaluation.items],
        "words": list(evaluation.scores.lengths),
        **evaluation.scores.per_image,
    }
    if any(captions):
        columns["log_prob"] = [None if caption is None else _log_prob(caption) for caption in captions]
        columns["finished"] = [None if caption is None else caption.finished for caption in captions]
    metadata = {
        "system": evaluation.system,
        "split": evaluation.split,
        "signature": evaluation.signature,
        "tokenization": evaluation.scores.tokenization,
    }
    table = pa.table(columns).replace_schema_metadata({b"seesay": json.dumps(metadata).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _log_prob(caption: Caption) -> float | None:
    """Returns the log-probability of a caption's words; None if it is unknown."""
    return sum(caption.log_probs) if caption.log_probs or not caption.text else None


def _brief(options: DecodingOptions) -> str:
    """Returns the strategy and the options that differ from the defaults: `beam(beam_size=5,max_length=37)`."""
    changed = [f"{name}={value}" for name, value in options if name != "strategy" and value != options.default_of(name)]
    return f"{options.strategy}({','.join(changed)})"
