"""`seesay export`: write a run in a format that works without torch."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from seesay.cli.console import print_line


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
        out: output folder; replaces an earlier export [default: RUN/onnx, or RUN/onnx-int8].
        format: export format.
        int8: quantise the encoder to 8 bits, calibrated on these images (folders, globs, files; a hundred similar to
            those to be captioned are enough).
    """
    from seesay.export import export_onnx

    done = export_onnx(run, out, tuple(int8 or ()))
    sizes = f"encoder {done.encoder_bytes / 1e6:.1f} MB, decoder {done.decoder_bytes / 1e6:.1f} MB"
    print_line(f"{done.folder}: {sizes}; scores differ by at most {done.difference:.1g} nats from the run's")
    print_line(f"use it with: seesay caption --model {done.folder} IMAGES")
