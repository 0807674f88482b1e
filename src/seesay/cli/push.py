"""`seesay push`: upload a run to the Hugging Face hub."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from seesay.cli.console import print_json, print_line
from seesay.cli.options import COMMON, Json
from seesay.errors import ConfigError

if TYPE_CHECKING:
    from seesay.hub.push import PushResult


def push(
    run: Annotated[str, COMMON],
    name: Annotated[str, COMMON],
    *,
    license: Annotated[str, COMMON] = "",
    tag: Annotated[list[str] | None, Parameter(consume_multiple=True, show=True)] = None,
    example: Annotated[str, COMMON] = "",
    public: Annotated[bool, Parameter(negative="", show=True)] = False,
    card_only: Annotated[bool, Parameter(negative="", show=True)] = False,
    dry_run: Annotated[bool, Parameter(negative="", show=True)] = False,
    out: Annotated[Path | None, COMMON] = None,
    json: Json = False,
) -> None:
    """Upload a finished run to the Hugging Face hub, with a model card made from the run.

    Args:
        run: run folder.
        name: name of the repository, OWNER/NAME; created if it does not exist.
        license: licence that the card states, as the hub writes it, such as mit or cc-by-4.0 [default: none].
        tag: further tags of the card.
        example: image for the card's usage example, of which only the caption is published [default: a drawn scene].
        public: create a public repository instead of a private one; an existing one stays as it is.
        card_only: upload the model card only.
        dry_run: write the files into --out and upload nothing.
        out: folder of --dry-run [default: hub/NAME].
    """
    from seesay.hub.card import CardOptions
    from seesay.hub.facts import read_facts
    from seesay.hub.push import PushOptions, check_name, write_repository
    from seesay.hub.push import push as upload

    if out is not None and not dry_run:
        raise ConfigError("--out is the folder of --dry-run; add --dry-run or drop --out")
    card = CardOptions(license, tuple(tag or ()), example)
    if dry_run:
        check_name(name)
        folder = out or Path("hub") / name.partition("/")[2]
        write_repository(read_facts(run), folder, name, card, copy=True)
        if json:
            print_json({"folder": folder})
            return
        print_line(f"written to {folder}, nothing was uploaded; read {folder / 'README.md'}")
        return
    done = upload(run, name, PushOptions(card, public, card_only))
    if json:
        print_json(asdict(done))
    else:
        report(name, done)


def report(name: str, done: "PushResult") -> None:
    """Print where an uploaded run is, and how to use it."""
    print_line(f"{done.url} ({'private' if done.private else 'public'}), commit {done.commit[:8]}")
    print_line(f"use it with: seesay caption IMAGES --model {name}")
