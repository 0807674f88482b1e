"""Captioning with an exported folder, with NumPy and onnxruntime and without torch.

`captioner` has the public class, `manifest` the contents of the folder, `graphs` the networks. The search is that of
`seesay.decoding`.
"""

from seesay.captioners.onnx.captioner import OnnxCaptioner
from seesay.captioners.onnx.manifest import Manifest, is_export

__all__ = ["Manifest", "OnnxCaptioner", "is_export"]
