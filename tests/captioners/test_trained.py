import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seesay.captioners.caption import Caption
from seesay.captioners.ensemble import EnsembleCaptioner, load_runs
from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import load_run
from seesay.config import DecodingOptions
from seesay.data.annotations import Annotations
from seesay.errors import CheckpointError, ConfigError, EncoderError, ImageError
from seesay.features import JoinedStores, import_features
from seesay.images.loading import Preprocessing
from seesay.training.train import train
from tests import tiny

BEAM = DecodingOptions(strategy="beam")
SAMPLE = DecodingOptions(strategy="sample")


@pytest.fixture(scope="module")
def captioner(cached_run: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(cached_run, "cpu")


def assert_same(found: Sequence[Caption], wanted: Sequence[Caption], rel: float = 1e-4) -> None:
    assert [caption.text for caption in found] == [caption.text for caption in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, rel=rel, abs=rel)
        assert a.score == pytest.approx(b.score, rel=rel, abs=rel)
        assert (a.words, a.finished, a.grid) == (b.words, b.finished, b.grid)


@pytest.mark.parametrize("options", [None, BEAM], ids=["greedy", "beam"])
def test_file_gets_the_caption_of_its_stored_features(
    captioner: TrainedCaptioner, annotations: Annotations, store: JoinedStores, options: DecodingOptions | None
) -> None:
    """Preprocessing and rounding are those of training; the weights file has its own means."""
    assert captioner.model.encoder is not None
    assert captioner.model.encoder.preprocessing.mean == (0.4, 0.5, 0.6)
    items = annotations.items
    captions = captioner.caption([item.image for item in items], options)
    features, _ = store.read([item.id for item in items])
    assert_same(captions, captioner.caption_features(torch.from_numpy(features), None, options))
    assert len({caption.text for caption in captions}) > 10, "equal captions would prove nothing"


@pytest.mark.parametrize("options", [None, BEAM, SAMPLE], ids=["greedy", "beam", "sample"])
def test_caption_does_not_depend_on_the_batch(
    captioner: TrainedCaptioner, images: list[str], options: DecodingOptions | None
) -> None:
    together = captioner.caption(images, options)
    assert_same([captioner.caption(image, options) for image in images], together)
    by_threes = [found for _, found in captioner.caption_each(images[::-1], options, batch_size=3)]
    assert all(isinstance(found, Caption) for found in by_threes)
    assert_same([found for found in by_threes if isinstance(found, Caption)][::-1], together)


def test_opened_image_gets_the_caption_of_its_file(captioner: TrainedCaptioner, images: list[str]) -> None:
    for path in images[:6]:
        with Image.open(path) as image:
            assert_same([captioner.caption(image)], [captioner.caption(Path(path))])
    with Image.open(images[0]) as image:
        rgba = image.convert("RGBA")
    assert_same([captioner.caption(rgba)], [captioner.caption(images[0])])


class TestImagesInMemory:
    def test_bytes_and_arrays_get_the_caption_of_their_file(
        self, captioner: TrainedCaptioner, images: list[str]
    ) -> None:
        # Bug: bytes were read as a sequence of numbers, an array as a sequence of images.
        for each in (captioner, EnsembleCaptioner([captioner, captioner])):
            wanted = each.caption(images[0])
            content = Path(images[0]).read_bytes()
            pixels = np.asarray(Image.open(images[0]).convert("RGB"))
            rgba = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)
            for image in (content, pixels, rgba, np.asfortranarray(pixels)):
                assert_same([each.caption(image)], [wanted])
            assert_same(each.caption([content, pixels]), [wanted, wanted])

    def test_grey_arrays_have_two_axes_or_one_channel(self, captioner: TrainedCaptioner) -> None:
        grey = np.asarray(tiny.image(1).convert("L"))
        assert_same(captioner.caption([grey, grey[..., None]]), [captioner.caption(Image.fromarray(grey))] * 2)

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((3, 32, 32), np.uint8),
            np.zeros((32, 32, 3), np.float32),
            np.zeros((2, 32, 32, 3), np.uint8),
            np.zeros((0, 32, 3), np.uint8),
            np.zeros(32, np.uint8),
        ],
        ids=lambda array: f"{array.dtype} {array.shape}",
    )
    def test_arrays_that_are_not_images_raise(self, captioner: TrainedCaptioner, array: np.ndarray) -> None:
        message = re.escape(
            f"an array of {array.dtype} {array.shape} is not an image; pass uint8 RGB (height, width, 3)"
        )
        with pytest.raises(ImageError, match=message):
            captioner.caption(array)

    def test_the_error_of_a_damaged_image_omits_its_bytes(self, captioner: TrainedCaptioner, images: list[str]) -> None:
        content = Path(images[0]).read_bytes()[:-60]
        with pytest.raises(ImageError, match=rf"^image of {len(content)} bytes: damaged or truncated"):
            captioner.caption(content)
        with Image.open(io.BytesIO(content)) as image, pytest.raises(ImageError, match=r"^opened image of 44 x 32: "):
            captioner.caption(image)


def test_sampling_an_opened_image_is_deterministic(captioner: TrainedCaptioner, images: list[str]) -> None:
    """Bug: the seed was the address of the image in memory."""
    with Image.open(images[0]) as image:
        copies = [image.copy() for _ in range(4)]
    assert len({captioner.caption(copy, SAMPLE).text for copy in copies}) == 1
    seeds = [SAMPLE.replace(sampling_seed=seed) for seed in range(8)]
    assert len({captioner.caption(copies[0], options).text for options in seeds}) > 1


def test_one_image_gives_a_caption_and_several_give_a_list(captioner: TrainedCaptioner, images: list[str]) -> None:
    caption = captioner.caption(images[0])
    assert isinstance(caption, Caption)
    assert captioner.caption([images[0]]) == [caption]
    assert captioner.caption([]) == []
    assert " ".join(caption.words) == caption.text
    assert len(caption.log_probs) == len(caption.words)
    assert 0 < caption.probability <= 1
    assert caption.probability == pytest.approx(np.exp(sum(caption.log_probs)))


def test_attention_is_returned_if_requested(captioner: TrainedCaptioner, images: list[str]) -> None:
    assert captioner.caption(images[0]).attention is None
    caption = captioner.caption(images[0], attention=True)
    assert caption.attention is not None
    assert caption.attention.shape == (len(caption.words), 4)
    np.testing.assert_allclose(caption.attention.sum(1), 1, rtol=1e-5)
    assert caption.grid == (2, 2)


def test_the_default_maximum_length_is_that_of_training(captioner: TrainedCaptioner, images: list[str]) -> None:
    assert captioner.options().max_length == 8
    assert captioner.options(DecodingOptions(max_length=3)).max_length == 3
    short = captioner.caption(images, DecodingOptions(max_length=2))
    assert {len(caption.words) for caption in short} == {2}
    assert not any(caption.finished for caption in short)


def test_unreadable_image_raises_alone_and_is_an_entry_in_a_batch(
    captioner: TrainedCaptioner, images: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(Path(images[0]).read_bytes()[:60])
    with pytest.raises(ImageError, match=r"broken\.png: damaged or truncated"):
        captioner.caption(tmp_path / "broken.png")
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        captioner.caption([images[0], tmp_path / "gone.png"])
    mixed = [images[0], str(tmp_path / "broken.png"), images[1], str(tmp_path / "gone.png")]
    found = list(captioner.caption_each(mixed, batch_size=2))
    assert [image for image, _ in found] == mixed
    assert [type(result) for _, result in found] == [Caption, ImageError, Caption, ImageError]
    assert all(isinstance(found, ImageError) for _, found in captioner.caption_each(mixed[1::2]))


def test_in_loop_run_uses_the_preprocessing_of_training(loop_run: Path, images: list[str]) -> None:
    captioner = TrainedCaptioner.load(loop_run, "cpu")
    encoder = captioner.model.encoder
    assert encoder is not None
    assert encoder.preprocessing == Preprocessing(48, "squash", (0.5,) * 3, (0.5,) * 3)
    assert_same([captioner.caption(image) for image in images[:4]], captioner.caption(images[:4]))


class TestLoading:
    @pytest.fixture
    def run(self, cached_run: Path, tmp_path: Path) -> Path:
        return shutil.copytree(cached_run, tmp_path / "run")

    def test_encoder_weights_file_is_not_needed_after_training(
        self, colours: Path, tmp_path: Path, images: list[str]
    ) -> None:
        weights = tiny.write_encoder(tmp_path / "weights.safetensors", seed=2)
        train(tiny.cached(weights), colours, tmp_path / "run", features=tmp_path / "features")
        before = TrainedCaptioner.load(tmp_path / "run", "cpu").caption(images)
        weights.unlink()
        assert TrainedCaptioner.load(tmp_path / "run", "cpu").caption(images) == before

    def test_encoder_identity_equals_that_of_its_store(self, captioner: TrainedCaptioner, cached_run: Path) -> None:
        """Bug: evaluation extracted features again, since the encoder's digest was that of uninitialised weights."""
        assert captioner.model.encoder is not None
        assert captioner.model.encoder.identity == load_run(cached_run).info.features

    def test_run_without_weights_raises(self, run: Path) -> None:
        (run / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="its first epoch is not finished"):
            TrainedCaptioner.load(run, "cpu")

    def test_truncated_weights_raise(self, run: Path) -> None:
        path = run / "model.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            TrainedCaptioner.load(run, "cpu")

    def test_changed_hub_encoder_raises(
        self, cached_run: Path, run: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
    ) -> None:
        text = (run / "captioner.json").read_text()
        digest = str(load_run(run).info.features["digest"])
        (run / "captioner.json").write_text(
            text.replace('"encoder_stored": true', '"encoder_stored": false').replace(digest, "0" * 16)
        )
        with pytest.raises(CheckpointError, match=rf"another version of test_resnet: weights 0+ then, {digest} now"):
            TrainedCaptioner.load(run, "cpu")

    def test_missing_encoder_weights_file_is_named(self, run: Path, weights: Path) -> None:
        for name, old, new in (
            ("captioner.json", '"encoder_stored": true', '"encoder_stored": false'),
            ("config.yaml", str(weights), "gone.safetensors"),
        ):
            (run / name).write_text((run / name).read_text().replace(old, new))
        with pytest.raises(EncoderError, match=r"gone\.safetensors"):
            TrainedCaptioner.load(run, "cpu")

    def test_run_on_imported_features_cannot_caption_images(
        self, colours: Path, annotations: Annotations, weights: Path, tmp_path: Path, images: list[str]
    ) -> None:
        named = {item.id: item.image for item in annotations}
        arrays = {name: tiny.features(place, 1 + place % 3, 5) for place, name in enumerate(named)}
        np.savez(tmp_path / "f.npz", **arrays)  # type: ignore[arg-type]
        import_features(tmp_path / "f.npz", named, tmp_path / "s")
        train(tiny.cached(weights), colours, tmp_path / "run", stores=[tmp_path / "s"])
        captioner = TrainedCaptioner.load(tmp_path / "run", "cpu")
        with pytest.raises(ConfigError, match="trained on imported or joined features"):
            captioner.caption(images[0])
        ragged = torch.zeros(2, 3, 5)
        mask = torch.tensor([[True, False, False], [True, True, True]])
        assert len(captioner.caption_features(ragged, mask)) == 2
        padded = captioner.caption_features(torch.tensor([[[1.0] * 5, [9.0] * 5]]), torch.tensor([[True, False]]))
        assert_same(padded, captioner.caption_features(torch.ones(1, 1, 5)))


class TestSeveralCaptions:
    @pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
    def test_alternatives_are_distinct(self, captioner: TrainedCaptioner, images: list[str], strategy: str) -> None:
        options = DecodingOptions(strategy="beam", beam_size=4, num_return_sequences=3).with_strategy(strategy)  # type: ignore[arg-type]
        for caption in captioner.caption(images[:5], options):
            texts = [caption.text, *(each.text for each in caption.alternatives)]
            assert len(set(texts)) == len(texts) == 3
            assert all(each.alternatives == () for each in caption.alternatives)
        assert captioner.caption(images[0], BEAM).alternatives == ()

    def test_required_and_banned_words_are_respected(self, captioner: TrainedCaptioner, images: list[str]) -> None:
        plain = captioner.caption(images[0], BEAM)
        options = BEAM.replace(force_words=("purple", "its right"), bad_words=(plain.words[0],), complete_endings=True)
        if plain.words[0] in ("purple", "its", "right"):
            options = options.replace(bad_words=())
        caption = captioner.caption(images[0], options)
        assert "purple" in caption.words
        assert "its right" in caption.text
        assert not set(options.bad_words) & set(caption.words)
        assert caption.words[-1] not in ("a", "its", "on", "to", "the", "and")
        with pytest.raises(ConfigError, match=r"'purpel' is not in the vocabulary of \d+ words; similar words: purple"):
            captioner.caption(images[0], BEAM.replace(force_words=("purpel",)))


class TestEnsemble:
    def test_an_ensemble_of_equal_runs_equals_one_run(self, cached_run: Path, images: list[str]) -> None:
        both = load_runs([cached_run, cached_run], "cpu")
        assert isinstance(both, EnsembleCaptioner)
        assert_same(both.caption(images[:5], BEAM), load_runs([cached_run], "cpu").caption(images[:5], BEAM))

    def test_members_use_their_own_encoders(self, cached_run: Path, loop_run: Path, images: list[str]) -> None:
        both = load_runs([cached_run, loop_run], "cpu")
        other = load_runs([loop_run, cached_run], "cpu")
        captions = both.caption(images)
        assert [caption.text for caption in captions] == [caption.text for caption in other.caption(images)]
        alone = [TrainedCaptioner.load(run, "cpu").caption(images) for run in (cached_run, loop_run)]
        for each in alone:
            assert [caption.log_probs for caption in captions] != [caption.log_probs for caption in each]
        with pytest.raises(ImageError, match="no such file"):
            both.caption("gone.png")

    def test_members_with_different_encoders_cannot_share_features(
        self, cached_run: Path, loop_run: Path, store: JoinedStores, annotations: Annotations
    ) -> None:
        # Bug: all members received the same features, whatever their encoders.
        features = torch.from_numpy(store.read([annotations.items[0].id])[0])
        with pytest.raises(ConfigError, match=r"run and .*run were trained on features of different encoders"):
            load_runs([cached_run, loop_run], "cpu").caption_features(features)
        twice = load_runs([cached_run, cached_run], "cpu").caption_features(features)
        assert_same(twice, TrainedCaptioner.load(cached_run, "cpu").caption_features(features))

    def test_different_vocabularies_are_named(
        self, cached_run: Path, weights: Path, colours: Path, tmp_path: Path, features: Path
    ) -> None:
        train(tiny.cached(weights, epochs=1, vocabulary_size=5), colours, tmp_path / "small", features=features)
        with pytest.raises(ConfigError, match=r"run and .*small have different vocabularies, of \d+ and 9 words"):
            load_runs([cached_run, tmp_path / "small"], "cpu")

    def test_encoding_keeps_no_graph(self, cached_run: Path, images: list[Path]) -> None:
        both = EnsembleCaptioner([TrainedCaptioner.load(cached_run, "cpu")] * 2)
        state = both.encode([both.prepare(images[0]).inputs])
        assert all(tensor.is_inference() for tensor in state.per_image.values())

    def test_an_empty_ensemble_raises(self) -> None:
        with pytest.raises(ConfigError, match="at least one captioner"):
            EnsembleCaptioner([])


def test_misspelt_banned_words_are_logged_once(
    cached_run: Path, images: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = DecodingOptions(bad_words=("purpel",))
    list(TrainedCaptioner.load(cached_run, "cpu").caption_each(images[:6], options, batch_size=2))
    (message,) = [line for line in caplog.messages if "purpel" in line]
    assert message.startswith("decoding.bad_words: 'purpel' is not in the vocabulary of ")


def test_the_trace_contains_the_caption(captioner: TrainedCaptioner, images: list[str]) -> None:
    caption, trace = captioner.trace(images[0], BEAM)
    assert caption.text == captioner.caption(images[0], BEAM).text
    assert len(trace.images[0]) > 3 * len(caption.words)
