import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seesay.errors import CheckpointError
from seesay.retrieval import index as module
from seesay.retrieval.index import IndexInfo, Query, RetrievalIndex, TunedRerank, load_index, nearness
from seesay.retrieval.space import FeatureSpace, pool
from tests import tiny

IMAGES, WIDTH = 40, 12


def pooled(seed: int, count: int = IMAGES) -> Any:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32) * np.arange(1, WIDTH + 1)


@pytest.fixture(scope="module")
def index() -> RetrievalIndex:
    images = [(f"image {number}", f"/photos/{number}.jpg") for number in range(IMAGES)]
    captions = [[[4 + number % 7, 5, 6]] * (1 + number % 3) for number in range(IMAGES)]
    return RetrievalIndex.build(images, pooled(0), captions, IndexInfo({"encoder": "x"}))


class TestSpace:
    def test_variances_are_square_roots_of_the_principal_ones(self) -> None:
        features = pooled(1, 500)
        space = FeatureSpace.fit(features)
        projected = (features - space.mean) @ space.components
        centred = (features - features.mean(0)).astype(np.float64)
        variances = np.linalg.svd(centred, compute_uv=False) ** 2 / len(features)
        covariance = projected.T @ projected / len(features)
        np.testing.assert_allclose(covariance, np.diag(np.sqrt(variances)), atol=1e-3 * variances.max() ** 0.5)

    def test_few_images_span_fewer_components(self) -> None:
        space = FeatureSpace.fit(pooled(2, 5))
        assert space.components.shape == (WIDTH, 4)
        assert space.coverage(pooled(2, 5)).tolist() == [1.0] * 5

    def test_coverage_is_small_off_the_kept_components(self) -> None:
        features = pooled(3, 300)
        space = FeatureSpace.fit(features, dimensions=6)
        largest = np.linalg.svd((features - features.mean(0)), full_matrices=False)[2]
        inside, outside = (features.mean(0) + 5 * largest[place] for place in (0, -1))
        covered = space.coverage(np.stack([inside, outside]))
        assert covered[0] > 0.99
        assert covered[1] < 0.01
        assert np.allclose(np.linalg.norm(space.project(features), axis=1), 1, atol=1e-5)

    def test_padding_does_not_count_in_the_mean(self) -> None:
        features = tiny.features(0, 2, 3, 4)
        mask = np.array([[True, True, False], [True, True, True]])
        expected = np.stack([features[0, :2].astype(np.float32).mean(0), features[1].astype(np.float32).mean(0)])
        np.testing.assert_allclose(pool(features, mask), expected, rtol=1e-5)
        np.testing.assert_allclose(pool(features), features.astype(np.float32).mean(1), rtol=1e-5)


class TestSearch:
    @pytest.mark.parametrize("block", [7, 1 << 16])
    def test_finds_what_sorting_all_cosines_finds(
        self, index: RetrievalIndex, block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_BLOCK", block)
        query = index.query(pooled(5, 9))
        found = index.search(query, 6)
        cosines = query.vectors @ index.vectors.T
        np.testing.assert_allclose(found.similarity, -np.sort(-cosines, axis=1)[:, :6], rtol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(cosines, found.images, 1), found.similarity, rtol=1e-5)

    @pytest.mark.parametrize("names", ["image {}", "/photos/{}.jpg"])
    def test_an_image_never_retrieves_itself_by_name(self, index: RetrievalIndex, names: str) -> None:
        # Other features under the same name: the image was changed.
        found = index.search(index.query(pooled(6), [names.format(number) for number in range(IMAGES)]), IMAGES)
        own = found.images == np.arange(IMAGES)[:, None]
        assert own.sum() == IMAGES
        assert np.isneginf(found.similarity[own]).all()
        assert all(number not in index.captions_of(found).image[[]] for number in range(IMAGES))

    def test_an_image_never_retrieves_its_copies(self, index: RetrievalIndex) -> None:
        noisy = pooled(0) * np.float32(1 + 1e-3)
        found = index.search(index.query(noisy), 5)
        assert (found.similarity < module.NEAR_DUPLICATE).all()
        assert (found.images != np.arange(IMAGES)[:, None]).all()

    def test_the_captions_of_excluded_images_are_left_out(self, index: RetrievalIndex) -> None:
        found = index.search(index.query(pooled(0)[:2], ["image 0", "image 1"]), IMAGES)
        captions = index.captions_of(found)
        assert np.bincount(captions.image).tolist() == [index.per_image.sum() - index.per_image[n] for n in (0, 1)]
        wanted = [caption for place in found.images[0][:-1] for caption in index.image_captions(int(place))]
        assert captions.captions.unpack()[: len(wanted)] == wanted

    def test_nearness_is_the_mean_of_five_times_the_coverage(self, index: RetrievalIndex) -> None:
        query = index.query(pooled(7, 3))._replace(coverage=np.array([1.0, 0.5, 0.0], np.float32))
        found = index.search(query, 8)
        wanted = found.similarity[:, :5].mean(1) * [1.0, 0.5, 0.0]
        np.testing.assert_allclose(nearness(query, found), wanted, rtol=1e-5)
        nothing = found._replace(similarity=np.full_like(found.similarity, -np.inf))
        assert nearness(query, nothing).tolist() == [-1.0] * 3
        part = Query(query.vectors, query.coverage, ["a", "b", "c"]).part(1, 3)
        assert (len(part.vectors), list(part.names or ())) == (2, ["b", "c"])


class TestNearestCaptions:
    def test_they_are_the_first_captions_of_the_most_similar_images(self) -> None:
        images = [(str(number), str(number)) for number in range(IMAGES)]
        captions = [[[number, caption] for caption in range(1 + number % 7)] for number in range(IMAGES)]
        made = RetrievalIndex.build(images, pooled(0), captions, IndexInfo({}))
        query = made.query(pooled(5, 9), ["3"] * 9)
        wanted = [
            [
                tuple(captions[place][n]) if n < len(captions[place]) else ()
                for place in row
                for n in range(module.MAX_CAPTIONS)
            ]
            for row in made.search(query, 6).images.tolist()
        ]
        assert made.nearest_captions(query, 6) == wanted
        assert made.number_of_captions(6) == 6 * module.MAX_CAPTIONS

    def test_queries_unlike_the_training_images_have_none(self, index: RetrievalIndex) -> None:
        query = index.query(pooled(7, 3))
        near = nearness(query, index.search(query, 5))
        found = index.with_similarity(float(np.sort(near)[1]), "by hand").nearest_captions(query, 2)
        assert [any(captions) for captions in found] == (near >= np.sort(near)[1]).tolist()
        assert {len(captions) for captions in found} == {index.number_of_captions(2)}

    def test_missing_images_are_empty(self, index: RetrievalIndex) -> None:
        (found,) = index.nearest_captions(index.query(pooled(5, 1)), IMAGES + 3)
        assert len(found) == index.number_of_captions(IMAGES + 3)
        assert sum(map(bool, found)) == index.per_image.sum()


class TestFiles:
    def test_an_index_survives_a_round_trip(self, index: RetrievalIndex, tmp_path: Path) -> None:
        tuned = index.with_similarity(0.25, "by hand").with_tuned("consensus", TunedRerank(7, 0.5, 3))
        tuned.save(tmp_path)
        read = load_index(tmp_path)
        assert (read.ids, read.paths, read.info) == (tuned.ids, tuned.paths, tuned.info)
        assert read.captions.unpack() == index.captions.unpack()
        np.testing.assert_array_equal(read.vectors, index.vectors)
        query = index.query(pooled(8, 4))
        assert (read.search(query, 3).images == index.search(query, 3).images).all()
        assert all(np.array_equal(a, b) for a, b in zip(read.frequencies.counts, index.frequencies.counts, strict=True))
        assert json.loads((tmp_path / "retrieval.json").read_text())["images"] == IMAGES

    @pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"half"])
    @pytest.mark.parametrize("name", ["retrieval.json", "retrieval.safetensors"])
    def test_damaged_files_are_reported_in_one_line(
        self, index: RetrievalIndex, tmp_path: Path, name: str, content: bytes | None
    ) -> None:
        index.save(tmp_path)
        path = tmp_path / name
        whole = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
        with pytest.raises(
            CheckpointError, match=r"build it again with seesay evaluate RUN DATA --tune-rerank"
        ) as caught:
            load_index(tmp_path)
        assert "\n" not in str(caught.value)

    def test_files_of_different_indexes_are_an_error(self, index: RetrievalIndex, tmp_path: Path) -> None:
        index.save(tmp_path)
        replace(index, vectors=index.vectors[::-1]).save(tmp_path / "..")
        (tmp_path / ".." / "retrieval.safetensors").rename(tmp_path / "retrieval.safetensors")
        with pytest.raises(CheckpointError, match="belong to different indexes"):
            load_index(tmp_path)

    def test_another_encoder_is_an_error(self, index: RetrievalIndex) -> None:
        index.require({"encoder": "x"}, "")
        for features, weights in (({"encoder": "y"}, ""), ({"encoder": "x"}, "abc")):
            with pytest.raises(CheckpointError, match=re.escape("of another encoder or of earlier weights")):
                index.require(features, weights)
