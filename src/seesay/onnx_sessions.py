"""Sessions of ONNX Runtime on a CPU."""

import os
from pathlib import Path
from typing import Any

from seesay.errors import MissingDependencyError


def open_session(model: Path | bytes, threads: int, *, spinning: bool = True) -> Any:
    """Return an `onnxruntime.InferenceSession` of a graph.

    Args:
        model: The file of the graph, or its content.
        threads: Threads per operation; 0 = as many as onnxruntime chooses.
        spinning: Threads spin for a while before they sleep, which takes cores from other threads of this process.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        Exception: The graph cannot be read. onnxruntime has one class per kind of error, without a common base.
    """
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # its warnings are of optimisations that did not apply
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def load_onnxruntime() -> Any:
    """Return the module `onnxruntime`, imported with its telemetry turned off.

    It reads the environment when it is imported, and would write an identifier and a queue of events into the user's
    cache. A user who sets ORT_DISABLE_TELEMETRY=0 keeps the telemetry.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "onnx", "an exported captioner") from error
    return onnxruntime
