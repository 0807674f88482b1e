"""Runs made into what works without torch."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from seesay.console import say


def export(
    run: str,
    *,
    out: Path | None = None,
    format: Literal["onnx"] = "onnx",
    int8: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
) -> None:
    """Write a run as a folder of ONNX graphs that captions images without torch.

    Args:
        run: run folder.
        out: folder to write; an earlier export there is replaced [default: RUN/onnx, or RUN/onnx-int8].
        format: what kind of folder.
        int8: compute the encoder in 8 bits, by the range of its activations on these images (folders, globs,
            files; a hundred like those to be captioned are enough).
    """
    from seesay.export import export_onnx

    done = export_onnx(run, out, tuple(int8 or ()))
    sizes = f"encoder {done.encoder_bytes / 1e6:.1f} MB, decoder {done.decoder_bytes / 1e6:.1f} MB"
    say(f"{done.folder}: {sizes}; scores within {done.difference:.1g} nats of the run's")
    say(f"use it with: seesay caption --model {done.folder} IMAGES")
