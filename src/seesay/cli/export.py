"""`seesay export`: write a run in a format that works without seesay's training or without torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from seesay.cli.console import print_json, print_line
from seesay.cli.options import COMMON, Json
from seesay.errors import ConfigError


def export(
    run: Annotated[str, COMMON],
    *,
    out: Annotated[Path | None, COMMON] = None,
    format: Annotated[Literal["auto", "onnx", "hub"], COMMON] = "auto",
    int8: Annotated[list[str] | None, Parameter(consume_multiple=True, show=True)] = None,
    json: Json = False,
) -> None:
    """Write a run as a folder of ONNX graphs that captions images without torch; a fine-tuned model for transformers.

    Args:
        run: run folder.
        out: output folder; replaces an earlier export [default: RUN/onnx, RUN/onnx-int8, or RUN/merged].
        format: onnx, or hub, a folder in the format of the Hugging Face hub with merged adapters, of a fine-tuned
            model [default: the one that fits the run].
        int8: quantise the encoder to 8 bits, calibrated on these images (folders, globs, files; a hundred similar to
            those to be captioned are enough).
    """
    from seesay.checkpoint import is_pretrained_run

    if is_pretrained_run(run):
        if format == "onnx" or int8:
            raise ConfigError(
                f"{run} is a fine-tuned model of transformers, which is not exported to ONNX; drop --format onnx and "
                "--int8 to write a folder for transformers"
            )
        from seesay.export.merged import export_merged

        folder = export_merged(run, out)
        if json:
            print_json({"folder": folder})
            return
        print_line(f"{folder}: use it with transformers, or with: seesay caption --model {folder} IMAGES")
        return
    if format == "hub":
        raise ConfigError(f"{run} is no fine-tuned model of transformers; drop --format hub to write ONNX graphs")
    from seesay.export import export_onnx

    done = export_onnx(run, out, tuple(int8 or ()))
    if json:
        print_json(asdict(done))
        return
    sizes = f"encoder {done.encoder_bytes / 1e6:.1f} MB, decoder {done.decoder_bytes / 1e6:.1f} MB"
    print_line(f"{done.folder}: {sizes}; scores differ by at most {done.difference:.1g} nats from the run's")
    print_line(f"use it with: seesay caption --model {done.folder} IMAGES")
