"""The exported captioner against its run, and without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seesay.captioners.caption import Caption
from seesay.captioners.onnx import OnnxCaptioner, is_export
from seesay.captioners.onnx.manifest import DECODER_FILE, ENCODER_FILE, MANIFEST_FILE, REQUIREMENTS, TOKENIZER_FILE
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.errors import CheckpointError, ConfigError, EncoderError, ImageError, MissingDependencyError
from tests import tiny
from tests.missing import modules_beyond

ONLY_REQUIREMENTS = "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')))"
SEARCHES = {
    "the run's own": None,
    "beam 3": DecodingOptions(strategy="beam", beam_size=3),
    "beam 5, several": DecodingOptions(strategy="beam", beam_size=5, num_return_sequences=4),
    "constraints": DecodingOptions(
        strategy="beam",
        beam_size=5,
        bad_words=("worda", "wordb wordc"),
        no_repeat_ngram_size=2,
        min_length=4,
        max_length=8,
    ),
    "greedy, several": DecodingOptions(num_return_sequences=3, repetition_penalty=1.4, allow_unk=True),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Images of several sizes and modes, as files."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        image = tiny.image(number, 30 + 7 * number, 200 - 3 * number)
        image = image.convert("L") if number % 8 == 7 else image
        image.save(folder / f"{number:02}.{'png' if number % 3 else 'jpg'}")
    return sorted(map(str, folder.iterdir()))


def test_bytes_and_arrays_get_the_caption_of_their_file(captioner: OnnxCaptioner, photos: list[str]) -> None:
    content, pixels = Path(photos[1]).read_bytes(), np.asarray(Image.open(photos[1]).convert("RGB"))
    wanted = captioner.caption(photos[1])
    assert_same([captioner.caption(content), captioner.caption(pixels)], [wanted, wanted])


@pytest.fixture(scope="module")
def run(exported: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(exported.parent, "cpu")


@pytest.fixture(scope="module")
def captioner(exported: Path) -> OnnxCaptioner:
    return OnnxCaptioner.load(exported, threads=1)


def assert_same(found: list[Caption], wanted: list[Caption]) -> None:
    assert [each.text for each in found] == [each.text for each in wanted]
    for left, right in zip(found, wanted, strict=True):
        assert (left.words, left.finished, left.grid) == (right.words, right.finished, right.grid)
        assert left.log_probs == pytest.approx(right.log_probs, rel=2e-2, abs=2e-2)
        assert left.score == pytest.approx(right.score, rel=1e-2, abs=1e-2)
        if left.attention is not None and right.attention is not None:
            np.testing.assert_allclose(left.attention, right.attention, atol=1e-2)
        assert (left.attention is None) == (right.attention is None)
        assert_same(list(left.alternatives), list(right.alternatives))


@pytest.mark.parametrize("name", SEARCHES)
def test_captions_equal_those_of_the_run(
    name: str, run: TrainedCaptioner, captioner: OnnxCaptioner, photos: list[str]
) -> None:
    options = SEARCHES[name]
    wanted = run.caption(photos, options, attention=True)
    assert_same(captioner.caption(photos, options, attention=True), wanted)
    assert len({caption.text for caption in wanted}) > 10
    assert captioner.options(options) == run.options(options)


def test_preprocessed_pixels_equal_those_of_the_run(
    run: TrainedCaptioner, captioner: OnnxCaptioner, photos: list[str]
) -> None:
    for photo in photos[:10]:
        for image in (photo, Image.open(photo)):
            (mine,), (theirs,) = captioner.load_inputs(image), run.load_inputs(image)
            np.testing.assert_array_equal(mine, theirs)


def test_captions_do_not_depend_on_the_batch(captioner: OnnxCaptioner, photos: list[str]) -> None:
    together = captioner.caption(photos, SEARCHES["beam 3"])
    assert_same([captioner.caption(photo, SEARCHES["beam 3"]) for photo in photos[:8]], together[:8])


def test_an_unreadable_image_does_not_affect_the_others(captioner: OnnxCaptioner, photos: list[str]) -> None:
    pairs = list(captioner.caption_each([photos[0], "nowhere.jpg", photos[1]]))
    assert [isinstance(found, ImageError) for _, found in pairs] == [False, True, False]


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(strategy="sample", num_return_sequences=2),
        DecodingOptions(strategy="beam", beam_size=4, num_beam_groups=2, num_return_sequences=2),
        DecodingOptions(strategy="beam", force_words=("worda",)),
        DecodingOptions(complete_endings=True),
    ],
)
def test_every_strategy_equals_that_of_the_run(
    options: DecodingOptions, captioner: OnnxCaptioner, run: TrainedCaptioner, photos: list[str]
) -> None:
    for photo in photos[:3]:
        found, wanted = captioner.caption(photo, options, top_tokens=2), run.caption(photo, options, top_tokens=2)
        assert (found.text, [one.text for one in found.alternatives]) == (
            wanted.text,
            [one.text for one in wanted.alternatives],
        )
        assert [[word for word, _ in place] for place in found.top_tokens] == [
            [word for word, _ in place] for place in wanted.top_tokens
        ]


def test_reranking_needs_no_index_for_mbr_only(captioner: OnnxCaptioner, photos: list[str]) -> None:
    options = DecodingOptions(strategy="beam", rerank="mbr", rerank_candidates=5)
    found = captioner.caption(photos, options)
    plain = captioner.caption(photos, DecodingOptions(strategy="beam", beam_size=5, num_return_sequences=5))
    texts = [{each.text, *(other.text for other in each.alternatives)} for each in plain]
    assert all(each.text in candidates for each, candidates in zip(found, texts, strict=True))
    with pytest.raises(ConfigError, match="an exported captioner cannot have one: use the run itself"):
        captioner.caption(photos, options.replace(rerank="consensus"))


def test_features_that_are_not_finite_raise(captioner: OnnxCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        """An encoder that outputs NaN."""

        def run(self, names: Any, inputs: Any) -> list[Any]:
            return [np.full((1, 1, 2), np.nan, np.float32) for _ in captioner.graphs._encoder_outputs]

    monkeypatch.setattr(captioner.graphs, "_encoder", Broken())
    with pytest.raises(EncoderError, match="not finite"):
        captioner.caption(tiny.image(0))


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_needs_only_the_requirements_and_writes_no_cache(
    exported: Path, run: TrainedCaptioner, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bug: the documented list of packages without torch lacked pydantic and safetensors, so that every command failed.
    code = f"{ONLY_REQUIREMENTS}; from seesay.cli.main import main; sys.exit(main())"
    hidden = ",".join(modules_beyond(REQUIREMENTS))
    assert {"torch", "timm", "lightning", "transformers", "pyarrow", "matplotlib"} <= set(hidden.split(","))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--strategy", "beam", "--beam-size", "3", "--format", "jsonl"]
    lines = python("-c", code, hidden, "caption", *photos[:4], "--model", str(exported), *flags).splitlines()
    wanted = [each.text for each in run.caption(photos[:4], SEARCHES["beam 3"])]
    assert [json.loads(line)["caption"] for line in lines] == wanted
    # Unless telemetry is disabled, onnxruntime writes an identifier and a queue of events to the user's cache.
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path.relative_to(tmp_path))]


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.mark.parametrize("name", [ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE, MANIFEST_FILE])
def test_a_missing_or_truncated_file_is_named(name: str, copy: Path) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"{name}.* damaged"):
        OnnxCaptioner.load(copy)
    (copy / name).unlink()
    assert is_export(copy) is (name != MANIFEST_FILE)
    with pytest.raises(CheckpointError, match=name):
        OnnxCaptioner.load(copy)


@pytest.mark.parametrize(("key", "value"), [("format", 2), ("vocabulary_size", 7), ("decoding", {"beam": 3})])
def test_an_invalid_manifest_raises(key: str, value: Any, copy: Path) -> None:
    content = json.loads((copy / MANIFEST_FILE).read_text())
    (copy / MANIFEST_FILE).write_text(json.dumps({**content, key: value}))
    with pytest.raises(CheckpointError, match=r"export the run again|from different exports"):
        OnnxCaptioner.load(copy)


def test_graphs_of_different_exports_raise(copy: Path) -> None:
    (copy / DECODER_FILE).write_bytes((copy / ENCODER_FILE).read_bytes())
    with pytest.raises(CheckpointError, match="from different exports"):
        OnnxCaptioner.load(copy)


def test_a_missing_onnxruntime_names_the_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"seesay\[onnx\]"):
        OnnxCaptioner.load(exported)
