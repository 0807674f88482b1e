"""Captions of a whole split, and their scores: from a run, or from a file of predictions."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from seesay.captioner import Caption, Captioner
from seesay.checkpoint import is_run
from seesay.config import DataConfig, DecodingOptions
from seesay.data.annotations import load_annotations, load_dataset, split_annotations
from seesay.data.records import Annotation, Annotations
from seesay.errors import DataError, ImageError
from seesay.features import FeatureStore, JoinedStores, extract_features, store_path
from seesay.features.extraction import Progress
from seesay.files import write_atomically
from seesay.metrics import Scores, compute_metrics

_ID_NAMES = ("id", "image_id", "image", "file_name", "filename", "name")
_TEXT_NAMES = ("caption", "prediction", "text", "hypothesis")
_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of predictions against one split.

    Attributes:
        scores: corpus and per-picture scores with their signature.
        predictions: caption by picture id, in the order of the split.
        split: the split's name.
        decoding: how the captions were searched for; None if they came from a file.
        problems: one line a defect: pictures left out, predictions of other pictures.
    """

    scores: Scores
    predictions: dict[str, str]
    split: str
    decoding: DecodingOptions | None = None
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns what `scores.json` holds."""
        return {
            "split": self.split,
            "pictures": len(self.predictions),
            "scores": self.scores.corpus,
            "signature": self.scores.signature,
            "decoding": None if self.decoding is None else asdict(self.decoding),
            "problems": list(self.problems),
        }


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    options: DecodingOptions | None = None,
    tokenization: str = "ptb",
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """Returns the scores of a run, or of a file of predictions, on a split of a data set.

    Args:
        model: a run folder, or predictions as JSON (COCO results), JSONL or CSV.
        data: anything `load_annotations` reads.
        split: which pictures.
        options: how a run searches; None = as it says itself.
        tokenization: ptb, whitespace or characters.
        features: folder of feature stores; the encoder's for this data is filled where pictures are missing.
        stores: given stores to use instead.
        device: where a run computes.
        progress: told of pictures encoded, if any have to be.

    Raises:
        DataError: the split is empty, predictions are missing or doubled.
        CheckpointError: the run cannot be used.
    """
    if is_run(model) or Path(model).is_dir():
        captioner = Captioner.load(model, device)
        annotations = load_dataset(data, captioner.run.config.data)
        items = _pictures(annotations, split)
        options = captioner.options(options)
        source = _features(captioner, items, data, features, stores, progress)
        usable = [item for item in items if item.id in source] if source else items
        captions, unread = caption_split(captioner, usable, source, options)
        left_out = [item.id for item in items if item.id not in captions]
        problems = [*unread, *([_left_out(left_out)] if left_out else [])]
        predictions = {image_id: caption.text for image_id, caption in captions.items()}
    else:
        items = _pictures(_references(data), split)
        predictions, problems = _match(read_predictions(Path(model)), items, Path(model))
    scored = [item for item in items if item.id in predictions]
    scores = compute_metrics(
        [predictions[item.id] for item in scored],
        [list(item.captions) for item in scored],
        tokenization=tokenization,
        ids=[item.id for item in scored],
    )
    if scores.empty:
        problems.append(f"{len(scores.empty)} captions are empty and score 0, such as that of {scores.empty[0]}")
    ordered = {item.id: predictions[item.id] for item in scored}
    return Evaluation(scores, ordered, split, options, tuple(problems))


def caption_split(
    captioner: Captioner,
    items: Sequence[Annotation],
    source: JoinedStores | None,
    options: DecodingOptions,
    *,
    attention: bool = False,
) -> tuple[dict[str, Caption], list[str]]:
    """Returns the captions of pictures by id, from stored features or from the files, and unreadable ones."""
    captions: dict[str, Caption] = {}
    problems = []
    if source is None:
        names = [item.image for item in items]
        found = captioner.caption_each(names, options, attention=attention)
        for item, (_, caption) in zip(items, found, strict=True):
            if isinstance(caption, ImageError):
                problems.append(str(caption))
            else:
                captions[item.id] = caption
        return captions, problems
    for begin in range(0, len(items), _BATCH):
        ids = [item.id for item in items[begin : begin + _BATCH]]
        array, mask = source.read(ids)
        batch = captioner.caption_features(
            torch.from_numpy(array),
            None if mask is None else torch.from_numpy(mask),
            options,
            keys=ids,
            attention=attention,
        )
        captions.update(zip(ids, batch, strict=True))
    return captions, problems


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Writes `scores.json` and `predictions.jsonl` into a folder, each whole or absent."""
    rows = (
        json.dumps({"id": image_id, "caption": caption}, ensure_ascii=False)
        for image_id, caption in evaluation.predictions.items()
    )
    for name, content in (
        ("predictions.jsonl", "\n".join(rows) + "\n"),
        ("scores.json", json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False) + "\n"),
    ):
        write_atomically(folder / name, content.encode())


def read_predictions(path: Path) -> dict[str, str]:
    """Returns caption by picture id of a COCO results JSON, a JSONL or a CSV file.

    Raises:
        DataError: the file cannot be read, has no such fields, or names a picture twice.
    """
    if not path.is_file():
        raise DataError(f"{path} is neither a run folder nor a file of predictions")
    predictions: dict[str, str] = {}
    try:
        rows = _READERS.get(path.suffix.lower(), _jsonl_rows)(path)
    except (ValueError, csv.Error, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as predictions: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise DataError(f"{path}: entry {number} is not an object with an id and a caption")
        name = next((row[key] for key in _ID_NAMES if row.get(key) not in (None, "")), None)
        text = next((row[key] for key in _TEXT_NAMES if isinstance(row.get(key), str)), None)
        if name is None or text is None:
            raise DataError(
                f"{path}: entry {number} has the fields {', '.join(map(str, row))}; wanted one of "
                f"{', '.join(_ID_NAMES)} and one of {', '.join(_TEXT_NAMES)}"
            )
        if str(name) in predictions:
            raise DataError(f"{path} has two captions of picture {name}")
        predictions[str(name)] = text
    if not predictions:
        raise DataError(f"{path} holds no predictions")
    return predictions


def _json_rows(path: Path) -> list[Any]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict) and all(isinstance(text, str) for text in content.values()):
        return [{"id": name, "caption": text} for name, text in content.items()]
    if not isinstance(content, list):
        raise DataError(f"{path} holds no list of predictions")
    return content


def _jsonl_rows(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would cut within captions
    return [json.loads(line) for line in lines if line.strip()]


def _csv_rows(path: Path) -> list[Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
}


def _pictures(annotations: Annotations, split: str) -> Sequence[Annotation]:
    items = annotations.split(split).items
    if not items:
        raise DataError(
            f"{annotations.source} has no picture in split {split!r}; it has {', '.join(annotations.splits) or 'none'}"
        )
    return items


def _references(data: str | Path) -> Annotations:
    """Returns the captions that predictions are compared with, for which no picture has to be there."""
    annotations = load_annotations(data, require_images=False)
    if annotations.splits:
        return annotations
    settings = DataConfig()
    return split_annotations(annotations, settings.split_fractions, settings.split_seed)


def _features(
    captioner: Captioner,
    items: Sequence[Annotation],
    data: str | Path,
    folder: str | Path,
    stores: Sequence[str | Path],
    progress: Progress | None,
) -> JoinedStores | None:
    """Returns where features are read, None where pictures pass through a run's own encoder."""
    run, encoder = captioner.run, captioner.model.encoder
    if stores:
        joined = JoinedStores([FeatureStore(path) for path in stores])
        joined.require(run.info.features)
        return joined
    if encoder is None:
        raise DataError(f"{run.folder} was trained on given feature stores; name them again with --store")
    if run.config.encoder.encoder_training != "cached":
        return None
    path = store_path(folder, data, encoder)
    pictures = {item.id: item.image for item in items}
    extract_features(pictures, encoder, path, device=str(captioner.device), progress=progress)
    return JoinedStores([FeatureStore(path)])


def _match(predictions: Mapping[str, str], items: Sequence[Annotation], path: Path) -> tuple[dict[str, str], list[str]]:
    """Returns the predictions by the split's own ids; file names with or without suffix are understood."""
    by_stem = {Path(name).stem: text for name, text in predictions.items()}
    matched = {}
    for item in items:
        text = predictions.get(item.id, predictions.get(Path(item.image).name, by_stem.get(Path(item.id).stem)))
        if text is not None:
            matched[item.id] = text
    missing = [item.id for item in items if item.id not in matched]
    if missing:
        raise DataError(
            f"{path} has no caption of {len(missing)} of the {len(items)} pictures, such as {missing[0]}; "
            "a score over fewer pictures would not be comparable"
        )
    others = len(predictions) - len(matched)
    return matched, [f"{others} predictions are of pictures outside the split"] if others > 0 else []


def _left_out(ids: Sequence[str]) -> str:
    return f"{len(ids)} pictures could not be read and are not in the scores: {', '.join(ids[:5])}"
