"""The index of the training images of a run: which images are similar to a query, and their captions.

retrieval.safetensors   vectors and captions of the images, the space of the vectors, document frequencies of n-grams
retrieval.json          number of images, what the vectors were made of, the calibrated similarity, tuned settings
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from seesay.errors import CheckpointError
from seesay.files import text_bytes, write_atomically
from seesay.metrics.ngrams import MAX_ORDER, DocumentFrequencies, ReferenceNgrams
from seesay.retrieval.similarity import CaptionSet
from seesay.retrieval.space import FeatureSpace, Floats
from seesay.retrieval.token_lists import Ints, TokenLists, ranges

ARRAYS_FILE = "retrieval.safetensors"
INFO_FILE = "retrieval.json"
NEAR_DUPLICATE = 0.95
"""Cosine from which a training image counts as the query itself: a copy of its file, saved again or enlarged. Different
training images of Flickr8k have at most 0.90, two frames of one scene 0.946 (docs/retrieval.md)."""
_AGAIN = "delete retrieval.json and build it again with seesay evaluate RUN DATA --tune-rerank"
_FORMAT = 1
NEAREST = 5
"""Number of nearest images whose mean similarity tells whether a query is like the training images."""
_BLOCK = 1 << 16
"""Training images per matrix product, which bounds the memory of a search."""
MAX_CAPTIONS = 5
"""Maximum number of captions of an image that `RetrievalIndex.nearest_captions` returns: the first ones."""


Caption = tuple[int, ...]
"""Token ids of a caption, without start and end tokens."""


@dataclass(frozen=True)
class TunedRerank:
    """Settings of a reranking, as chosen on validation images.

    Attributes:
        candidates: number of captions to choose from.
        weight: weight of the similarity against the model's score, 0 to 1.
        neighbours: number of neighbours of `consensus`; 0 for `mbr`.
    """

    candidates: int = 10
    weight: float = 1.0
    neighbours: int = 20


DEFAULT_RERANK = TunedRerank()


@dataclass(frozen=True)
class IndexInfo:
    """What is known about an index beside its arrays.

    Attributes:
        features: identity of the features that were pooled.
        weights: SHA-256 of the run's weights if its encoder was trained; empty: the encoder was frozen.
        min_similarity: `nearness` below which a query is unlike the training images.
        calibration: how it was found, for people.
        tuned: settings chosen on validation images, by kind of reranking.
    """

    features: Mapping[str, Any]
    weights: str = ""
    min_similarity: float = -1.0
    calibration: str = ""
    tuned: Mapping[str, TunedRerank] = field(default_factory=dict)


class Query(NamedTuple):
    """Images whose neighbours are searched.

    Attributes:
        vectors: from `FeatureSpace.project`, (B, P).
        coverage: from `FeatureSpace.coverage`, (B,).
        names: ids or paths of the images, so that they do not retrieve themselves; None: unknown.
    """

    vectors: Floats
    coverage: Floats
    names: Sequence[str] | None = None

    def part(self, begin: int, end: int) -> "Query":
        """Return the images at some positions."""
        names = None if self.names is None else self.names[begin:end]
        return Query(self.vectors[begin:end], self.coverage[begin:end], names)


class Neighbours(NamedTuple):
    """The training images most similar to B queries, most similar first.

    Attributes:
        images: their positions in the index, (B, K).
        similarity: cosine similarity, (B, K); minus infinity where fewer than K images remain.
    """

    images: Ints
    similarity: Floats


@dataclass(frozen=True)
class RetrievalIndex:
    """Training images with their captions, for exact search by cosine similarity.

    Attributes:
        ids: image ids, length I.
        paths: image files, length I.
        space: how pooled features become vectors.
        vectors: unit vectors of the images, (I, P).
        captions: token ids of all captions, sorted by image.
        per_image: number of captions of each image, (I,).
        frequencies: document frequencies of the n-grams of the captions.
        info: what is known beside the arrays.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    space: FeatureSpace
    vectors: Floats
    captions: TokenLists
    per_image: Ints
    frequencies: DocumentFrequencies
    info: IndexInfo

    @classmethod
    def build(
        cls,
        images: Sequence[tuple[str, str]],
        pooled: Floats,
        captions: Sequence[Sequence[Sequence[int]]],
        info: IndexInfo,
    ) -> "RetrievalIndex":
        """Return the index of images.

        Args:
            images: id and path of each.
            pooled: their pooled features, (I, F).
            captions: token ids of each caption of each image, without start and end tokens.
            info: what is known beside.
        """
        space = FeatureSpace.fit(pooled)
        table = ReferenceNgrams(captions)
        flat = TokenLists.pack([caption for each in captions for caption in each])
        ids, paths = zip(*images, strict=True)
        vectors = space.project(pooled).astype(np.float16).astype(np.float32)  # as they are stored
        return cls(ids, paths, space, vectors, flat, table.per_image, table.frequencies, info)

    def require(self, features: Mapping[str, Any], weights: str) -> None:
        """Check that the vectors were made of an encoder's features.

        Args:
            features: identity of the features.
            weights: SHA-256 of the run's weights, if its encoder was trained.

        Raises:
            CheckpointError: they were made of others.
        """
        if self.info.features != features or self.info.weights != weights:
            raise CheckpointError(f"the run's {INFO_FILE} is of another encoder or of earlier weights; {_AGAIN}")

    def query(self, pooled: Floats, names: Sequence[str] | None = None) -> Query:
        """Return the query of images.

        Args:
            pooled: their pooled features, (B, F).
            names: their ids or paths; None: unknown.
        """
        return Query(self.space.project(pooled), self.space.coverage(pooled), names)

    def search(self, query: Query, count: int) -> Neighbours:
        """Return the most similar training images, without the queries themselves.

        An image is never found by itself: neither under its id or path, nor as a near duplicate.

        Args:
            query: B images.
            count: number K of images per query.
        """
        queries = query.vectors
        best = Neighbours(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
        own = [self._places.get(name, ()) for name in query.names or [""] * len(queries)]
        for begin in range(0, len(self.vectors), _BLOCK):
            similarity = queries @ self.vectors[begin : begin + _BLOCK].T
            similarity[similarity >= NEAR_DUPLICATE] = -np.inf
            for row, places in enumerate(own):
                for place in places:
                    if begin <= place < begin + _BLOCK:
                        similarity[row, place - begin] = -np.inf
            images = np.broadcast_to(np.arange(begin, begin + similarity.shape[1]), similarity.shape)
            joined = Neighbours(
                np.concatenate([best.images, images], 1), np.concatenate([best.similarity, similarity], 1)
            )
            best = _most_similar(joined, count)
        return best

    def nearest(self, query: Query, count: int, min_similarity: float = 0.0) -> tuple[Neighbours, NDArray[np.bool_]]:
        """Return the most similar training images, and whether each query is like the training images, (B,).

        Args:
            query: B images.
            count: number K of images per query.
            min_similarity: `nearness` from which a query is like them; 0: as calibrated.
        """
        found = self.search(query, max(count, NEAREST))
        is_like = nearness(query, found) >= (min_similarity or self.info.min_similarity)
        return Neighbours(found.images[:, :count], found.similarity[:, :count]), is_like

    def number_of_captions(self, count: int) -> int:
        """Return the number R of captions that `nearest_captions` returns of K = `count` images."""
        return count * min(MAX_CAPTIONS, int(self.per_image.max()))

    def nearest_captions(self, query: Query, count: int, min_similarity: float = 0.0) -> list[list[Caption]]:
        """Return the captions of the most similar training images of each query: R captions, most similar image first.

        R depends on the index and K only; captions that do not exist are empty, and so are all captions of a query that
        is unlike the training images.

        Args:
            query: B images.
            count: number K of images per query.
            min_similarity: see `nearest`.
        """
        found, is_like = self.nearest(query, count, min_similarity)
        number = np.arange(self.number_of_captions(1))
        exists = number < self.per_image[found.images][..., None]
        exists &= (np.isfinite(found.similarity) & is_like[:, None])[..., None]
        places = np.where(exists, self._first[found.images][..., None] + number, -1)
        padding = ((0, 0), (0, count - places.shape[1]), (0, 0))  # the index has fewer images
        places = np.pad(places, padding, constant_values=-1).reshape(len(places), -1)
        return [[self._captions[place] if place >= 0 else () for place in row] for row in places.tolist()]

    def captions_of(self, neighbours: Neighbours) -> CaptionSet:
        """Return the captions of the neighbours of each query, all with the same weight."""
        places, query = self.caption_places(neighbours)
        return CaptionSet.equal(self.captions.take(places), query)

    def caption_places(self, neighbours: Neighbours) -> tuple[Ints, Ints]:
        """Return the positions of the captions of the neighbours, and the query of each, both (C,)."""
        query, rank = np.nonzero(np.isfinite(neighbours.similarity))
        image = neighbours.images[query, rank]
        return ranges(self._first[image], self.per_image[image]), np.repeat(query, self.per_image[image])

    def image_captions(self, image: int) -> list[list[int]]:
        """Return the token ids of the captions of a training image."""
        return self.captions.take(ranges(self._first[[image]], self.per_image[[image]])).unpack()

    def with_similarity(self, min_similarity: float, calibration: str) -> "RetrievalIndex":
        """Return this index with a calibrated similarity; see `IndexInfo`."""
        return replace(self, info=replace(self.info, min_similarity=min_similarity, calibration=calibration))

    def with_tuned(self, kind: str, chosen: TunedRerank) -> "RetrievalIndex":
        """Return this index with the settings of a kind of reranking."""
        return replace(self, info=replace(self.info, tuned={**self.info.tuned, kind: chosen}))

    def save(self, folder: Path) -> None:
        """Write both files, each atomically.

        Raises:
            SeesayError: the disk is full or cannot be written.
        """
        arrays = {
            "mean": self.space.mean,
            "components": self.space.components,
            "noise": np.array([self.space.noise], np.float64),
            "vectors": self.vectors.astype(np.float16),
            "tokens": self.captions.tokens.astype(np.int32),
            "lengths": self.captions.lengths.astype(np.int32),
            "per_image": self.per_image.astype(np.int32),
            "ids": _text_array(self.ids),
            "paths": _text_array(self.paths),
            **{f"codes{order}": codes for order, codes in enumerate(self.frequencies.codes)},
            **{f"counts{order}": counts.astype(np.int32) for order, counts in enumerate(self.frequencies.counts)},
        }
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        write_atomically(folder / ARRAYS_FILE, content)
        self.save_info(folder, sha256(content).hexdigest())

    def save_info(self, folder: Path, digest: str = "") -> None:
        """Write `retrieval.json` atomically.

        Args:
            folder: the run folder.
            digest: SHA-256 of the other file; empty: as in the existing `retrieval.json`.
        """
        from seesay import __version__

        path = folder / INFO_FILE
        content = {
            "format": _FORMAT,
            "seesay": __version__,
            "arrays": digest or json.loads(path.read_text(encoding="utf-8"))["arrays"],
            "images": len(self.ids),
            "captions": len(self.captions.lengths),
            "vocabulary": self.frequencies.vocabulary,
            **asdict(self.info),
        }
        write_atomically(path, text_bytes(json.dumps(content, indent=2, ensure_ascii=False) + "\n"))

    @cached_property
    def _captions(self) -> list[Caption]:
        """All captions, each once in memory however many queries they are returned for."""
        return [tuple(caption) for caption in self.captions.unpack()]

    @cached_property
    def _first(self) -> Ints:
        """Position of the first caption of each image, (I,)."""
        return np.asarray(np.cumsum(self.per_image) - self.per_image)

    @cached_property
    def _places(self) -> Mapping[str, tuple[int, ...]]:
        """Positions of the images by id and by path."""
        found: dict[str, tuple[int, ...]] = {}
        for place, names in enumerate(zip(self.ids, self.paths, strict=True)):
            for name in set(names):
                found[name] = (*found.get(name, ()), place)
        return found


def nearness(query: Query, found: Neighbours) -> Floats:
    """Return how like the training images each query is, (B,); -1 if there are no neighbours.

    It is the mean similarity of the `NEAREST` most similar images times the query's coverage.
    """
    nearest = found.similarity[:, :NEAREST]
    real = np.isfinite(nearest)
    total = np.where(real, nearest, 0).sum(1) / np.maximum(1, real.sum(1))
    return np.where(real.any(1), total * query.coverage, -1.0).astype(np.float32)


def has_index(folder: Path) -> bool:
    """Return whether a run folder has an index."""
    return (folder / INFO_FILE).is_file()


def load_index(folder: Path) -> RetrievalIndex:
    """Return the index of a run folder.

    Raises:
        CheckpointError: a file is missing or damaged, or they are from different indexes.
    """
    path = folder / INFO_FILE
    again = f"; {_AGAIN}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise CheckpointError(f"{path} was written by another version of seesay{again}")
        raw = (folder / ARRAYS_FILE).read_bytes()
        if sha256(raw).hexdigest() != content["arrays"]:
            raise CheckpointError(f"{path} and {ARRAYS_FILE} belong to different indexes{again}")
        tuned = {kind: TunedRerank(**values) for kind, values in content["tuned"].items()}
        info = IndexInfo(
            content["features"], content["weights"], content["min_similarity"], content["calibration"], tuned
        )
        arrays = load_file(folder / ARRAYS_FILE)
        return _from_arrays(arrays, content["vocabulary"], info)
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the retrieval index in {folder} is damaged ({reason}){again}") from error


def _from_arrays(arrays: Mapping[str, NDArray[Any]], vocabulary: int, info: IndexInfo) -> RetrievalIndex:
    per_image = arrays["per_image"].astype(np.int64)
    codes, counts = (
        tuple(arrays[f"{name}{order}"].astype(np.int64) for order in range(MAX_ORDER)) for name in ("codes", "counts")
    )
    return RetrievalIndex(
        _texts(arrays["ids"]),
        _texts(arrays["paths"]),
        FeatureSpace(arrays["mean"], arrays["components"], float(arrays["noise"][0])),
        arrays["vectors"].astype(np.float32),
        TokenLists(arrays["tokens"].astype(np.int64), arrays["lengths"].astype(np.int64)),
        per_image,
        DocumentFrequencies(len(per_image), vocabulary, codes, counts),
        info,
    )


def _most_similar(found: Neighbours, count: int) -> Neighbours:
    """Return the `count` most similar images of each query, most similar first."""
    similarity = found.similarity
    if count < similarity.shape[1]:
        kept = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    else:
        kept = np.broadcast_to(np.arange(similarity.shape[1]), similarity.shape)
    order = np.argsort(-np.take_along_axis(similarity, kept, 1), axis=1, kind="stable")
    kept = np.take_along_axis(kept, order, 1)
    return Neighbours(np.take_along_axis(found.images, kept, 1), np.take_along_axis(similarity, kept, 1))


def _text_array(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(texts).encode(), np.uint8)


def _texts(array: NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(json.loads(array.tobytes()))
