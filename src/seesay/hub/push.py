"""Upload of a run to the Hugging Face hub."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from seesay.data.synthetic.drawing import draw_scene
from seesay.data.synthetic.scenes import sample_scene
from seesay.errors import ConfigError, SeesayError, UploadError
from seesay.files import write_atomically
from seesay.hub.card import CardOptions, build_card, run_snippet
from seesay.hub.facts import RunFacts, read_facts
from seesay.hub.layout import CARD, PUSHED
from seesay.hub.pull import first_line, hide_progress_bars
from seesay.hub.staging import REPOSITORY, stage
from seesay.models.hub import hub_answers
from seesay.outputs import check_folder, delete_own

_SCENE_SIZE = 224
_IGNORED = frozenset((".gitattributes", CARD))


@dataclass(frozen=True)
class PushOptions:
    """How a run is pushed.

    Attributes:
        card: what the user adds to the model card.
        public: create a public repository; the visibility of an existing one does not change.
        card_only: upload the model card only, to a repository that exists.
    """

    card: CardOptions = field(default_factory=CardOptions)
    public: bool = False
    card_only: bool = False


@dataclass(frozen=True)
class PushResult:
    """The result of an upload.

    Attributes:
        url: address of the repository.
        commit: the commit that has the files.
        private: whether the repository is private.
    """

    url: str
    commit: str
    private: bool


def push(run: str | Path, name: str, options: PushOptions = PushOptions()) -> PushResult:
    """Upload a finished run to the Hugging Face hub, with a model card made from its files.

    Uploaded are the files of `seesay.hub.layout.PUSHED`, without paths of this machine. The files are loaded and the
    card's usage example is run before anything is sent. After an interruption, the same call resumes: the hub keeps
    complete files, and unchanged ones are not sent again.

    Args:
        run: the run folder.
        name: name of the repository, OWNER/NAME. A new one is private by default.
        options: see `PushOptions`.

    Raises:
        CheckpointError: not a run, or one that is unfinished, damaged or adapts a local model.
        ConfigError: the name is invalid, there is no token, or the repository has files of another kind.
        UploadError: the hub does not answer or refuses, or the upload was interrupted.
        SeesayError: the run cannot caption an image.
    """
    facts = read_facts(run)
    check_access(name)
    with tempfile.TemporaryDirectory(prefix="seesay-push-") as temporary:
        folder = Path(temporary) / "repository"
        write_repository(facts, folder, name, options.card)
        return _upload(folder, name, options)


def write_repository(facts: RunFacts, folder: Path, name: str, options: CardOptions, *, copy: bool = False) -> None:
    """Write what `push` uploads into a folder, after running the card's usage example.

    Args:
        facts: the run.
        folder: the folder; an earlier one of this kind is replaced.
        name: name of the repository.
        options: what the user adds to the card.
        copy: copy the weights instead of linking to them.

    Raises:
        CheckpointError: the run is damaged or adapts a local model.
        DataError: the folder contains other files.
        SeesayError: the run cannot caption an image.
    """
    check_name(name)
    check_folder(folder, REPOSITORY, inputs=[facts.folder])
    delete_own(folder, REPOSITORY)
    write_atomically(folder / CARD, b"---\nlibrary_name: seesay\n---\n")  # marks the folder
    try:
        stage(facts, folder, copy=copy)
        with _example_image(options.example) as image:
            printed = run_snippet(folder, image)
        write_atomically(folder / CARD, build_card(facts, name, options, printed).encode())
    except BaseException:
        delete_own(folder, REPOSITORY)
        raise


def check_access(name: str) -> None:
    """Check the name of a repository, and that the hub answers and accepts the token.

    Raises:
        ConfigError: the name is invalid, or there is no token.
        UploadError: the hub does not answer, or refuses the token.
    """
    from huggingface_hub import HfApi, constants, get_token

    check_name(name)
    if not get_token():
        raise ConfigError("there is no token of the Hugging Face hub; run: hf auth login, or set HF_TOKEN")
    if constants.HF_HUB_OFFLINE or not hub_answers():
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
        raise UploadError(f"{name} cannot be reached ({reason}); connect and run: seesay push RUN {name}")
    with _errors_of(name):
        HfApi().whoami()


def check_name(name: str) -> None:
    """Check the name of a repository.

    Raises:
        ConfigError: it is not OWNER/NAME, or the hub does not allow it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is not a name for the hub: {first_line(error)}") from error
    if name.count("/") != 1:
        raise ConfigError(f"{name!r} is not a name for the hub; write OWNER/NAME, as in ada/garden-captions")


def _upload(folder: Path, name: str, options: PushOptions) -> PushResult:
    from huggingface_hub import HfApi

    hide_progress_bars()
    api = HfApi()
    with _errors_of(name):
        if not options.card_only:
            api.create_repo(name, private=not options.public, exist_ok=True)
        info = api.model_info(name)
        _check_repository(name, [file.rfilename for file in info.siblings or ()])
        if options.card_only:
            done = api.upload_file(
                path_or_fileobj=folder / CARD, path_in_repo=CARD, repo_id=name, commit_message="Update the model card"
            )
        else:
            done = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message="Upload a run of seesay",
                delete_patterns=list(PUSHED),  # files of an earlier run under this name
            )
    return PushResult(f"{api.endpoint}/{name}", str(done.oid), bool(info.private))


def _check_repository(name: str, files: list[str]) -> None:
    """Check that a repository is new or has a run.

    Raises:
        ConfigError: it has other files.
    """
    others = [file for file in files if file not in _IGNORED]
    if others and "captioner.json" not in files:
        raise ConfigError(f"{name} on the hub has files of another kind, such as {others[0]}; choose another name")


@contextmanager
def _example_image(example: str) -> Iterator[str]:
    """Yield the path of the user's image, or of a drawn scene."""
    if example:
        yield example
        return
    with tempfile.TemporaryDirectory(prefix="seesay-example-") as folder:
        path = Path(folder) / "photo.png"
        draw_scene(sample_scene(0, "test", 0), _SCENE_SIZE)[0].save(path)
        yield str(path)


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Raise errors of the hub's library as one line.

    Raises:
        ConfigError: the hub has no such repository, or refuses the metadata of the card.
        UploadError: the hub refuses access, or the upload was interrupted.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except SeesayError:
        raise
    except Exception as error:  # of the HTTP library, which depends on the version
        lines = " ".join(str(error).split())
        if isinstance(error, ValueError) and "metadata in README.md" in lines:
            raise ConfigError(f"{name}: the hub refuses the model card: {lines}") from error
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, HfHubHTTPError):
            cause = cause.__cause__  # of the message "Error while uploading FILE"
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            raise _hub_error(name, cause.response.status_code) from error
        raise UploadError(
            f"{name} was not uploaded completely ({first_line(cause)}); run the same command to resume"
        ) from error


def _hub_error(name: str, status: int) -> SeesayError:
    """Return the error for an answer of the hub."""
    if status == 401:
        return UploadError(
            f"{name}: the hub refuses the token (401); run: hf auth login, or set HF_TOKEN to a valid one"
        )
    if status == 403:
        return UploadError(
            f"{name}: the token may not write there (403); check the owner in the name, or use a token that may write"
        )
    if status == 404:
        return ConfigError(f"{name}: the hub has no such repository (404); push the run first, without --card-only")
    return UploadError(f"{name}: the hub answered {status}; run the same command later to resume")
