"""Export of a trained run to ONNX, for use without torch; see `docs/export.md`.

Modules: `onnx` (the public function), `graphs` (modules to ONNX), `layers` (exportable forms of layers), `quantise`
    (the
encoder in 8 bits), `folder` (atomic creation of a folder).
"""

from seesay.export.onnx import ExportReport, export_onnx

__all__ = ["ExportReport", "export_onnx"]
