"""`seesay serve`."""

import os
from pathlib import Path
from typing import Annotated

from seesay.cli.console import print_line, status
from seesay.cli.options import COMMON
from seesay.cli.parameters import CaptionerFlags, Server
from seesay.errors import ConfigError, MissingDependencyError

API_KEY_VARIABLE = "SEESAY_API_KEY"


def serve(
    *models: Annotated[str, COMMON],
    model: Annotated[list[str] | None, COMMON] = None,
    host: Annotated[str, COMMON] = "127.0.0.1",
    port: Annotated[int, COMMON] = 8000,
    captioner_flags: Annotated[CaptionerFlags, Server] = CaptionerFlags(),  # noqa: B008
    max_batch: Annotated[int, COMMON] = 32,
    max_wait: float = 0.01,
    max_pending: int = 256,
    api_key_file: Annotated[Path | None, COMMON] = None,
) -> None:
    """Serve a captioner over HTTP, with a web UI that shows attention maps.

    On Ctrl-C or SIGTERM the server finishes accepted requests and exits.

    Args:
        models: run or exported folder, or OWNER/NAME of the hub; several runs that share a vocabulary are ensembled
            [default: the latest run].
        model: the same as MODELS, as in other commands; with --endpoint, the server's model.
        host: address to listen on; 0.0.0.0 listens on all interfaces.
        port: port to listen on; 0: any free port.
        max_batch: maximum number of images per batch.
        max_wait: maximum time that a batch waits for more images, in seconds.
        max_pending: maximum number of pending images; further requests get status 503.
        api_key_file: file with the API key that requests must send [default: SEESAY_API_KEY, or no key].
    """
    if min(max_batch, max_pending) < 1 or not 0 <= max_wait <= 10:
        raise ConfigError("--max-batch and --max-pending must be at least 1, --max-wait from 0 to 10 seconds")
    try:
        from seesay.serving.app import create_app
        from seesay.serving.server import address, listen, logging_json
        from seesay.serving.server import serve as run
    except ImportError as error:
        raise MissingDependencyError(error.name or "FastAPI", "serve", "seesay serve") from error
    from seesay.serving.limits import Limits

    key = _read_key(api_key_file)
    # First, so that a taken port is reported before the model is loaded, whose messages are JSON too.
    with listen(host, port) as listener, logging_json():
        bounds = Limits(max_batch, max_wait, max_pending)
        spec = captioner_flags.spec([*models, *(model or ())])
        status.show(f"loading {', '.join(spec.models) or spec.endpoint}")
        with spec.load() as captioner:
            app = create_app(captioner, bounds, key)
            url = address(listener)
            access = "requests need the API key" if key else "without an API key"
            run(app, listener, bounds, lambda: print_line(f"seesay serves at {url} ({access})"))


def _read_key(path: Path | None) -> str:
    if path is None:
        key = os.environ.get(API_KEY_VARIABLE)
        if key is not None and not key.strip():
            raise ConfigError(f"{API_KEY_VARIABLE} is empty; set it to the key, or unset it to serve without a key")
        return (key or "").strip()
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {path} cannot be read ({error}); write the key into it") from error
    if not key:
        raise ConfigError(f"--api-key-file {path} is empty; write the key into it")
    return key
