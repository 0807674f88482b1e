"""`seesay review`."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from seesay.captioners.alt_text import Style
from seesay.cli.console import print_error, print_line
from seesay.cli.options import COMMON
from seesay.cli.parameters import CaptionerFlags, Server
from seesay.errors import MissingDependencyError

if TYPE_CHECKING:
    from seesay.captioners.spec import ModelSpec
    from seesay.review.session import ReviewSession

ReviewModels = Annotated[
    list[str] | None,
    Parameter(
        name="--model", help="model that generates captions again [default: the page does not offer this]", show=True
    ),
]


def review(
    captions: Annotated[Path, COMMON],
    *,
    sidecar: Annotated[str, COMMON] = "",
    export: Annotated[Path | None, COMMON] = None,
    model: ReviewModels = None,
    style: Annotated[Style, COMMON] = "plain",
    captioner_flags: Annotated[CaptionerFlags, Server] = CaptionerFlags(),  # noqa: B008
    host: Annotated[str, COMMON] = "127.0.0.1",
    port: Annotated[int, COMMON] = 0,
) -> int:
    """Check and correct captions on a local web page.

    On Ctrl-C or SIGTERM unsaved changes are written and the program ends.

    Args:
        captions: output of `seesay caption --out` (.jsonl, .csv, .tsv, or .parquet, of which a copy is reviewed), or
            with --sidecar a folder of images.
        sidecar: suffix of the text file beside each image, such as .txt.
        export: write the accepted captions as training data to this file (.jsonl), without the page.
        style: style of captions that are generated again: as generated, or alt text of at most 125 characters.
        host: address to listen on.
        port: port to listen on; 0: any free port.
    """
    from seesay.review.files import caption_file
    from seesay.review.session import ReviewSession

    with ReviewSession(caption_file(captions, sidecar)) as session:
        if export is not None:
            return _export(session, export, captions)
        spec = captioner_flags.spec(model or ()) if model or captioner_flags.endpoint else None
        return _serve(session, spec, style, host, port)


def _export(session: "ReviewSession", path: Path, captions: Path) -> int:
    """Write the accepted captions; return the exit code."""
    from seesay.files import require_suffix
    from seesay.outputs import check_inputs
    from seesay.review.export import export_accepted

    require_suffix(path, {".jsonl": "JSON lines"}, "--export")
    check_inputs(path, [captions], "--export")
    print_line(f"{path}: images with accepted captions: {export_accepted(session.entries, path)}")
    return 0


def _serve(session: "ReviewSession", spec: "ModelSpec | None", style: Style, host: str, port: int) -> int:
    """Serve the page until a signal arrives, then save; return the exit code."""
    try:
        from seesay.review.app import create_app
        from seesay.serving.server import address, listen, serve
    except ImportError as error:
        raise MissingDependencyError(error.name or "FastAPI", "serve", "seesay review") from error
    from seesay.review.regeneration import Regenerator
    from seesay.serving.limits import Limits

    with listen(host, port) as listener:
        token = secrets.token_urlsafe(24)
        app = create_app(session, token, Regenerator(spec.load(), style) if spec else None)
        url = f"{address(listener)}/{token}/"
        serve(app, listener, Limits(), lambda: print_line(f"seesay reviews {session.file.name} at {url}"))
    if problem := session.save_finally():
        print_error(f"error: {problem}")
        return 2
    return 0
