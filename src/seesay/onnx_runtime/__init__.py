"""Captions from a folder that `seesay export` wrote, by NumPy and onnxruntime: where torch is not installed.

By role: `captioner` (the class to use), `manifest` (what is in the folder), `graphs` (the networks), `search` (the
loop, as in `seesay.decoding.search`), `scoring` (what may be said), `choosing` (the best of the scores), `finished`
(ranking). What does not compute on tensors is shared with the engine on torch.
"""

from seesay.onnx_runtime.captioner import OnnxCaptioner
from seesay.onnx_runtime.manifest import Manifest, is_export

__all__ = ["Manifest", "OnnxCaptioner", "is_export"]
