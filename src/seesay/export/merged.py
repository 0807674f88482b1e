"""`export_merged`: write a fine-tuned model as a folder in the format of the Hugging Face hub."""

from pathlib import Path

from safetensors import SafetensorError

from seesay.captioners.pretrained import load_pretrained
from seesay.captioners.pretrained.adapters import replace_folder
from seesay.captioners.settings import ModelSettings
from seesay.checkpoint import unwritable
from seesay.outputs import FolderKind, check_folder, only_writer_of

MERGED = FolderKind(
    "merged model",
    ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"),
    signature=("seesay_run.json", b'"seesay": "'),
)
"""A folder with a merged model; its marker tells it from a model that seesay did not write."""


def export_merged(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the model of a fine-tuned run, with its adapters merged into the weights; return the folder.

    The folder is read by transformers alone, and by seesay like any model of the hub.

    Args:
        run: the run folder.
        out: the folder to write; None = `merged` in the run folder. An earlier export is replaced.

    Raises:
        CheckpointError: the run is damaged or has no weights yet, or the disk is full.
        DataError: `out` has files of something else.
        MissingDependencyError: transformers or peft is not installed.
    """
    source = Path(run)
    target = Path(out) if out is not None else source / "merged"
    check_folder(target, MERGED, inputs=[source])
    captioner = load_pretrained(ModelSettings((str(source),), "cpu", precision="float32"))

    def write(part: Path) -> None:
        captioner.model.save_pretrained(part)
        captioner.processor.save_pretrained(part)

    with only_writer_of(target, MERGED):
        try:
            replace_folder(target, write)
        except (OSError, SafetensorError) as error:
            raise unwritable(target, error) from error
    return target
