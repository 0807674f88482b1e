"""A trained run made into a folder that works without torch; `docs/export.md` tells how it is used.

By role: `onnx` (the one function), `graphs` (networks to ONNX), `quantise` (the encoder in 8 bits), `folder` (written
whole or not at all).
"""

from seesay.export.onnx import ExportReport, export_onnx

__all__ = ["ExportReport", "export_onnx"]
