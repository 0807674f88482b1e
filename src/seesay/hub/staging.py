"""A copy of a run for the hub: without paths of this machine, checkpoints, predictions and features."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seesay.checkpoint import CONFIG_FILE, INFO_FILE
from seesay.config import Config, replace, save_config
from seesay.errors import CheckpointError, SeesayError
from seesay.files import write_atomically
from seesay.hub.facts import RunFacts, is_local_path, name_only, public_name
from seesay.hub.layout import CARD, PUSHED
from seesay.outputs import FolderKind

REPOSITORY = FolderKind("repository", PUSHED, signature=(CARD, b"library_name: seesay"))
"""A folder that holds what `seesay push` uploads."""

_ADAPTER_CONFIG = "adapter/adapter_config.json"
_PATH_FIELDS = ("encoder_weights", "init_from")
_NOT_PATHS = ("", "pretrained", "none")


def stage(facts: RunFacts, folder: Path, *, copy: bool) -> None:
    """Write the files of a run that are pushed, except the card, into a folder.

    Args:
        facts: the run.
        folder: an empty or missing folder.
        copy: copy large files instead of linking to them.

    Raises:
        CheckpointError: the run adapts a model in a folder of this machine, which others do not have.
        SeesayError: the folder cannot be written.
    """
    if facts.pretrained.get("lora") and is_local_path(str(facts.pretrained.get("model", ""))):
        raise CheckpointError(
            f"{facts.folder} adapts the local model {facts.pretrained['model']}, which others do not have; "
            "push a run that adapts a model of the hub, or one that was fine-tuned without --lora"
        )
    for pattern in PUSHED:
        for source in sorted(facts.folder.glob(pattern)):
            if source.name != CARD:
                _place(source, folder / source.relative_to(facts.folder), copy or source.suffix != ".safetensors")
    _write_json(folder / INFO_FILE, _info(facts))
    save_config(replace(facts.config, **_names_of_paths(facts.config)), folder / CONFIG_FILE)
    for path in [folder / _ADAPTER_CONFIG, *sorted(folder.glob("model/*config*.json"))]:
        if path.is_file():
            _write_json(path, _with_public_names(path, facts))


def _place(source: Path, target: Path, copy: bool) -> None:
    """Copy a file, or link to it where the system can.

    Raises:
        SeesayError: the target cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not copy:
            with contextlib.suppress(OSError):  # on Windows, without the right to make links
                target.symlink_to(source.resolve())
                return
        shutil.copyfile(source, target)
    except OSError as error:
        raise SeesayError(f"cannot write {target} ({error.strerror}); check it or choose another path") from error


def _names_of_paths(config: Config) -> dict[str, str]:
    """Return the last part of the path in each field of a configuration that has a path, by field."""
    sections = config.model_dump(exclude={"text"})  # whose characters to filter may look like a path
    flat = {name: value for section in sections.values() for name, value in section.items() if isinstance(value, str)}
    paths = {name for name in _PATH_FIELDS if flat[name] not in _NOT_PATHS}
    paths |= {name for name, value in flat.items() if is_local_path(value) and name_only(value) not in ("", value)}
    return {name: name_only(flat[name]) for name in paths}


def _info(facts: RunFacts) -> dict[str, Any]:
    """Return the metadata of a run with names in place of paths."""
    info = {**facts.info, "data": facts.data}
    if facts.pretrained:
        info["pretrained"] = {**facts.pretrained, "model": public_name(str(facts.pretrained.get("model", "")))}
    return info


def _with_public_names(path: Path, facts: RunFacts) -> Any:
    """Return the content of a configuration file of transformers or peft, with the base model's name for its path.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path.name} of {facts.folder} is damaged: {error}") from error
    if not isinstance(content, Mapping):
        return content
    changed = dict(content)
    for name, value in content.items():
        if name.endswith("name_or_path") and isinstance(value, str) and is_local_path(value):
            changed[name] = name_only(str(facts.pretrained.get("model") or value))
            if path.name == "adapter_config.json":
                changed |= {name: facts.pretrained.get("model"), "revision": facts.pretrained.get("revision")}
    return changed


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
