"""Download of a repository of the Hugging Face hub into the hub's cache."""

import sys
from collections.abc import Callable
from pathlib import Path

from seesay.errors import ConfigError, DownloadError, SeesayError
from seesay.files import sha256
from seesay.models.hub import hub_answers

_SHA256_DIGITS = 64


def download(
    name: str,
    revision: str | None,
    choose: Callable[[list[str]], list[str]],
    markers: list[str],
    ignore: list[str] | None = None,
) -> Path:
    """Return the folder of a repository in the hub's cache, which names it by the commit; download what is missing.

    The hub is asked once, so that a machine without a network uses its cache at once.

    Args:
        name: name of the repository.
        revision: branch, tag or commit; None: main.
        choose: returns patterns of the files to download, of the names of all files.
        markers: names of which a cached repository has one, if it is used offline.
        ignore: patterns of files that are not downloaded.

    Raises:
        ConfigError: the hub has no such repository or revision.
        DownloadError: the hub does not answer or refuses access, or a file was damaged on the way.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    hide_progress_bars()
    shown = f"{name}@{revision}" if revision else name
    if constants.HF_HUB_OFFLINE or not hub_answers():
        try:
            # Without patterns, files that were never meant to be downloaded would count as missing.
            return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=markers))
        except LocalEntryNotFoundError:
            reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
            raise DownloadError(
                f"{shown} is not in the cache and cannot be downloaded ({reason}); "
                "connect once, or pass the path of a folder with the model"
            ) from None
    blobs = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "blobs")
    cached = set(blobs.glob("*"))
    try:
        info = HfApi().model_info(name, revision=revision)
        patterns = choose([file.rfilename for file in info.siblings or ()])
        folder = Path(
            snapshot_download(
                name,
                revision=revision,  # not the commit: the cache stores which commit a revision was, for use offline
                allow_patterns=patterns,
                ignore_patterns=ignore,
            )
        )
    except SeesayError:
        raise
    except Exception as error:  # of the HTTP library, which depends on the version
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            raise _hub_error(shown, error, error.response.status_code) from error
        raise DownloadError(
            f"{shown} was not downloaded completely ({first_line(error)}); run the command again"
        ) from error
    _check_digests(shown, set(blobs.glob("*")) - cached)
    return folder


def _check_digests(shown: str, blobs: set[Path]) -> None:
    """Check new files of the cache, which names large ones by their SHA-256; the hub's library checks sizes only.

    Raises:
        DownloadError: a file is damaged; it is deleted.
    """
    damaged = [path for path in sorted(blobs) if len(path.name) == _SHA256_DIGITS and sha256(path) != path.name]
    for path in damaged:
        path.unlink()
    if damaged:
        raise DownloadError(f"{shown} was damaged on the way ({len(damaged)} files); run the command again")


def _hub_error(shown: str, error: Exception, status: int) -> SeesayError:
    """Return the error for an answer of the hub."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return DownloadError(f"{shown} is gated: accept its licence on its page of the hub, then run: hf auth login")
    if isinstance(error, RevisionNotFoundError):
        return ConfigError(f"{shown}: the hub has no such revision of the model; check the part after @")
    if status in (401, 403):
        return DownloadError(
            f"{shown}: the hub refuses access ({status}): the name is wrong or the model is private; "
            "check the name, or run: hf auth login"
        )
    if status == 404:
        return ConfigError(f"{shown}: the hub has no model of this name; check the name, as in organisation/model")
    return DownloadError(f"{shown}: the hub answered {status}; try again later")


def hide_progress_bars() -> None:
    """Without a terminal, write no progress bars of transfers, which a file or a pipe would show line by line."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
