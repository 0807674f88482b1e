"""Every command and Python block in README and docs is run, or has a reason why not.

A reason is stated for a kind of command in the tables below, or for one block in the page, in a comment before it:
`<!-- not run: needs a model server; tests/captioners/endpoint -->`. Commands are always parsed by the real entry point:
a shell expands the blocks (loops, variables, comments) and records the commands without running them.
"""

import dataclasses
import functools
import inspect
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclopts import MissingArgumentError
from PIL import Image

import seesay
from seesay.cli import main as cli
from seesay.config import DecodingOptions, changed_decoding, resolve_config
from seesay.config.flags import given_flags
from seesay.data.annotations import load_annotations
from seesay.serving.app import create_app
from seesay.serving.limits import Limits
from seesay.training.train import TrainingResult, train
from tests import tiny
from tests.serving.servers import running

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BASH = shutil.which("bash")

PARSED_ONLY = {
    "train": "trains for minutes or hours, with weights of the hub; tests/training",
    "tune": "trains many times; tests/training/tuning/test_tune.py",
    "extract": "needs weights of the hub; tests/features",
    "serve": "runs until it is stopped; tests/serving",
    "review": "runs until it is stopped; tests/review and tests/cli/test_review.py",
    "push": "needs the hub; tests/hub",
    "export": "the fixture `exported` runs it",
    "completion": "writes into the home folder; tests/cli/test_options.py",
    "data scenes": "draws 3,400 images; tests/data/synthetic/test_scenes.py",
    "data download": "needs the network; tests/data/test_download.py",
}
"""Commands that are only parsed, with the reason."""

PARSED_FLAGS = {
    "--endpoint": "needs a model server; tests/captioners/endpoint",
    "evaluations/qwen3-vl-test": "needs the evaluation of a model server; tests/captioners/endpoint",
    "--engine": "starts a Ray cluster; tests/bulk/test_ray.py",
    "--force-words": "its words are not in the tests' vocabulary",
    "--prompt": "needs a pretrained model or a server; tests/cli/test_images.py",
    "--yes": "downloads a model; tests/cli/test_models.py",
    "--human": "needs several captions of each image; tests/cli/test_main.py",
    "knn": "needs an encoder with weights of the hub; tests/evaluation/test_rerank_tuning.py",
    "--store": "needs stores of encoders with weights of the hub",
}
"""Flags and arguments with which a command is only parsed, with the reason."""

PARSED_PAGES = {
    "docs/results": "needs the runs that its own commands train for hours",
    "docs/pretrained.md": "needs models of the hub; tests/captioners/pretrained",
    "docs/hub.md": "needs the hub; tests/hub",
    "docs/finetuning.md": "needs models of the hub; tests/training/finetuning",
}
"""Starts of the names of pages whose commands are only parsed, with the reason."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block of a page: its position, language, name of the file that it shows, text, and why it is not run."""

    name: str
    language: str
    title: str
    text: str
    reason: str | None


FENCED = re.compile(
    r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w*)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCED.finditer(text):
            line = text[: match.start()].count("\n") + 1
            yield Block(f"{_name(page)}:{line}", match[2], match[3] or "", match[4], match[1])


BLOCKS = list(_blocks())
SHELL = [block for block in BLOCKS if block.language in ("", "sh", "bash", "console")]
PYTHON = [block for block in BLOCKS if block.language == "python"]
FILES = [block for block in BLOCKS if block.title]
OTHERS = [block for block in BLOCKS if block not in SHELL + PYTHON + FILES and block.language != "text"]
INLINE = [(_name(page), found) for page in PAGES for found in re.findall(r"`(seesay [^`]+)`", page.read_text("utf-8"))]

_RECORD = """
PATH=/nowhere
command_not_found_handle() { printf '%s\\0' "$BLOCK" "$#" "$@"; }
cd() { :; }
"""


@functools.cache
def commands() -> dict[str, list[list[str]]]:
    """The words of every command of each shell block, as expanded by the shell."""
    script = _RECORD + "\n".join(f"BLOCK={shlex.quote(block.name)}\n{block.text}" for block in SHELL)
    done = subprocess.run([str(BASH), "--norc", "-c", script], capture_output=True, check=True, env={"PWD": "/here"})
    assert not done.stderr, done.stderr.decode()
    words = iter(done.stdout.decode().split("\0")[:-1])
    found: dict[str, list[list[str]]] = {block.name: [] for block in SHELL}
    for name in words:
        found[name].append([next(words) for _ in range(int(next(words)))])
    return found


def _seesay(words: list[str]) -> list[str] | None:
    """The arguments of seesay in a command, also if another program starts it."""
    if words[0] == "srun":
        words = words[1:]
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    return words[1:] if words[0] in ("seesay",) else None


def parse(arguments: list[str]) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """Parse a command line with the real entry point; return the command and its bound arguments."""
    command, bound, _ = cli.app.parse_args(arguments, exit_on_error=False, print_error=False)
    return command, bound


def check_settings(command: Callable[..., Any], bound: inspect.BoundArguments) -> None:
    """Check the configuration of a command's flags."""
    flags = given_flags(bound.arguments.get("flags"))
    if command.__name__ in ("train", "extract", "tune"):
        overlay = "scst" if bound.arguments.get("scst") else ""
        resolve_config(bound.arguments.get("preset", "attention-gru"), None, flags, overlay=overlay)
    elif command.__name__ in ("caption", "evaluate", "explain"):
        changed_decoding(DecodingOptions(), flags, str)


def _reason(block: Block, arguments: list[str]) -> str | None:
    """The reason why a command is only parsed; None if it is run."""
    if block.reason:
        return block.reason
    for page in PARSED_PAGES:
        if block.name.startswith(page):
            return PARSED_PAGES[page]
    for length in (1, 2):
        if reason := PARSED_ONLY.get(" ".join(arguments[:length])):
            return reason
    return next((PARSED_FLAGS[word] for word in arguments if word in PARSED_FLAGS), None)


def _check_other(words: list[str]) -> None:
    """Check a command of another program: its files, targets, packages and flags exist.

    It is not run: git clone and pip need the network, docker needs its daemon, and benchmarks take minutes.
    """
    program, *rest = words
    positional = [word for word in rest if not word.startswith("-")]
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(positional) <= set(targets)
    elif program == "python":
        script = ROOT / positional[0]
        text = "".join(path.read_text(encoding="utf-8") for path in (script, *(ROOT / "benchmarks/bench").glob("*.py")))
        for flag in (word for word in rest if word.startswith("-")):
            assert f'"{flag}"' in text, f"{positional[0]} has no {flag}"
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project["optional-dependencies"]
        known = [*project["dependencies"], *(name for names in extras.values() for name in names)]
        packages = {re.split(r"[<>=\[]", name)[0] for name in known} | {
            "seesay",
            "git+https://github.com/seesay/seesay",
        }
        for requirement in positional[1:]:
            name, _, wanted = requirement.partition(" @ ")[0].rstrip("]").partition("[")
            assert name in packages
            assert not wanted or set(wanted.split(",")) <= set(extras)
    elif program == "curl":
        from seesay.serving.requests import read_request

        fields = [(name, value) for name, mark, value in (word.partition("=") for word in rest) if mark]
        read_request([field for field in fields if field[0] != "images"], DecodingOptions())
        assert rest[-1].endswith("/v1/caption")
    elif program == "tar":
        assert all((ROOT / archive).is_file() for archive in positional)
    elif program == "hf":
        assert rest == ["auth", "login"]
    elif program == "docker":
        assert (ROOT / "Dockerfile").is_file()
    else:
        assert words[:2] == ["git", "clone"], f"unknown program {program}"


COURSE_SCENE = "course/scenes/images/scene-test-00000.png"


@pytest.fixture
def docs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached_run: Path, exported: Path, colours: Path
) -> Path:
    """A folder in which the paths of the docs are the tests' run, data and images."""
    for name in ("mine", "other", "attention-gru", "a", "b"):
        shutil.copytree(cached_run, tmp_path / "runs" / name)
    shutil.copytree(exported, tmp_path / "runs/attention-gru/onnx")
    for name in ("demo", "course"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run").symlink_to(cached_run)
    shutil.copytree(cached_run.parent / "features", tmp_path / "features")
    (tmp_path / "data").mkdir()
    for name in ("mine", "flickr8k"):
        (tmp_path / "data" / name).symlink_to(colours)
    for name in ("photo.jpg", "scene.png", "000000000139.jpg", "photos/a.jpg", "photos/b.jpg", COURSE_SCENE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(colours / "images/red-blue.png") as image:  # has a short caption, unlike noise
            image.save(tmp_path / name)
    box = {"image_id": 139, "category_id": 1, "bbox": [1, 2, 30, 20], "iscrowd": 0, "area": 600, "id": 1}
    instances = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "width": 44, "height": 32}],
        "categories": [{"id": 1, "name": "chair"}],
        "annotations": [box],
    }
    (tmp_path / "instances_val2017.json").write_text(json.dumps(instances))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(BASH is None, reason="needs bash to expand the blocks")
@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_every_command_of_a_block_is_valid(block: Block) -> None:
    found = commands()[block.name]
    assert found
    for words in found:
        arguments = _seesay(words)
        if arguments is None:
            _check_other(words)
        else:
            check_settings(*parse(arguments))


@pytest.mark.skipif(BASH is None, reason="needs bash to expand the blocks")
def test_commands_that_fit_the_tests_data_work(docs_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = set()
    for block in SHELL:
        for words in commands()[block.name]:
            arguments = _seesay(words)
            if arguments is None or tuple(arguments) in ran or _reason(block, arguments):
                continue
            if arguments[:2] == ["evaluate", "captions.jsonl"]:  # replaced by predictions of a split
                _write_predictions(docs_folder / "captions.jsonl", docs_folder / "data/mine")
            if arguments[:2] == ["compare", "runs/mine"]:
                cli.main(["evaluate", "runs/other", "data/mine"])
            code = cli.main(arguments)
            assert code == 0, f"{block.name}: {shlex.join(words)}: {capsys.readouterr().err}"
            ran.add(tuple(arguments))
    assert {arguments[0] for arguments in ran} >= {"caption", "explain", "evaluate", "compare", "data"}


def _write_predictions(path: Path, data: Path) -> None:
    rows = [{"image": Path(item.image).name, "caption": "red beside blue"} for item in load_annotations(data)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("page", "command"), INLINE, ids=lambda value: value)
def test_commands_within_sentences_are_valid(page: str, command: str) -> None:
    arguments = shlex.split(command.replace("...", "").replace("…", ""))[1:]
    if arguments[-1:] == ["--config"]:
        arguments.append("file.yaml")
    try:
        if "--help" not in arguments:
            parse(arguments)
    except MissingArgumentError:
        assert len(arguments) <= 2  # only names the command


def _fake_train(*arguments: Any) -> TrainingResult:
    inspect.signature(train).bind(*arguments)
    return TrainingResult(Path(arguments[2]), epochs=10, best=0.5, best_epoch=9, stopped_by="epochs", seconds=1.0)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_works(block: Block, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.reason:
        compile(block.text, block.name, "exec")
        pytest.skip(block.reason)
    if block.name.startswith("docs/course/"):
        pytest.skip("the blocks of a page share names; tests/test_course.py runs them")
    text, served = block.text, "http://127.0.0.1:8000" in block.text
    if re.search("runs/|photos/|data/mine|demo/", text) or served:
        request.getfixturevalue("docs_folder")
    monkeypatch.setattr(seesay, "train", _fake_train, raising=False)  # needs weights from the hub and minutes
    with ExitStack() as stack:
        if served:
            app = create_app(seesay.load_captioner("runs/attention-gru"))
            server = stack.enter_context(running(app, Limits()))
            text = text.replace("http://127.0.0.1:8000", server.url)
        exec(compile(text, block.name, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("block", OTHERS, ids=lambda block: block.name)
def test_data_can_be_parsed(block: Block) -> None:
    read: dict[str, Callable[[str], Any]] = {"json": json.loads, "yaml": yaml.safe_load}
    assert isinstance(read[block.language](block.text), dict)


@pytest.mark.parametrize("block", FILES, ids=lambda block: f"{block.name} {block.title}")
def test_files_of_captions_can_be_read(block: Block, tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        tiny.image(len(name)).save(tmp_path / f"{name}.jpg")
    (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    found = load_annotations(tmp_path)
    captioned = {Path(item.image).stem for item in found if item.captions}
    assert captioned == {"dog", "cat"} or captioned == {Path(block.title).stem}  # a text beside one image


@pytest.mark.parametrize("name", ["garden.parquet", "garden-000.tar"])
def test_files_written_by_python_examples_can_be_read(docs_folder: Path, name: str) -> None:
    (block,) = [block for block in PYTHON if f'"{name}"' in block.text]
    exec(compile(block.text, block.name, "exec"), {"__name__": "example"})
    assert all(item.captions for item in load_annotations(docs_folder / name))


def test_every_reason_is_used() -> None:
    used = {
        _reason(block, arguments)
        for block in SHELL
        for words in commands()[block.name]
        if (arguments := _seesay(words))
    }
    assert {*PARSED_ONLY.values(), *PARSED_FLAGS.values(), *PARSED_PAGES.values()} <= used


def test_the_tests_of_every_promise_exist() -> None:
    cited = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"))
    assert len(cited) > 50
    for file, name in cited:
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    visible = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in visible}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=_name)
def test_links_within_the_repository_have_a_target(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{_name(page)}: {link}"
        assert not anchor or anchor in _anchors(target), f"{_name(page)}: {link}"


def test_every_page_is_linked_from_another_one() -> None:
    linked = {
        (page.parent / name).resolve()
        for page in PAGES
        for name in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
        if not name.startswith("http")
    }
    assert set(PAGES) <= linked
