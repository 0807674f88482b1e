"""The few array operations that decoding needs, for NumPy arrays and torch tensors alike.

The search keeps its own state in NumPy arrays on the host. Only scores over the vocabulary (..., V) stay where the
decoder computed them: these functions reduce them there and return small host arrays. This module does not import
torch; whoever passes a tensor has imported it.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEG_INF = float("-inf")

Array = Any
"""A NumPy array or a torch tensor."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def is_numpy(array: Array) -> bool:
    """Return whether an array is NumPy's."""
    return isinstance(array, np.ndarray)


def namespace(array: Array) -> Any:
    """Return the library of an array; exp, where, amax and cumsum take NumPy's arguments in both."""
    return np if is_numpy(array) else sys.modules["torch"]


def to_host(array: Array) -> NDArray[Any]:
    """Return an array as NumPy's, on the host; half precision as float32."""
    return np.asarray(array if is_numpy(array) else _upcast_floats(array).detach().cpu().numpy())


def to_device_of(host: NDArray[Any], like: Array) -> Array:
    """Return a host array as an array of the same library and on the same device as another."""
    if is_numpy(like):
        return host
    host = host if host.flags.c_contiguous and host.flags.writeable else host.copy()
    return sys.modules["torch"].from_numpy(host).to(like.device)


def upcast(scores: Array) -> Array:
    """Return half-precision scores as float32, since half precision would lose their differences."""
    if is_numpy(scores):
        return scores.astype(np.float32) if scores.dtype == np.float16 else scores
    return _upcast_floats(scores)


def _upcast_floats(tensor: Array) -> Array:
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def cast(array: Array, like: Array) -> Array:
    """Return an array in the type of another."""
    return array.astype(like.dtype) if is_numpy(array) else array.to(like.dtype)


def copy(array: Array) -> Array:
    """Return a copy."""
    return array.copy() if is_numpy(array) else array.clone()


def take_along(array: Array, indices: Array) -> Array:
    """Return the elements of the last axis at `indices`, (..., n)."""
    if is_numpy(array):
        return np.take_along_axis(array, indices, -1)
    return array.gather(-1, indices)


def put_along(array: Array, indices: Array, values: Array | float) -> None:
    """Set the elements of the last axis at `indices`, (..., n)."""
    if is_numpy(array):
        np.put_along_axis(array, indices, values, -1)
    else:
        array.scatter_(-1, indices, values)


def logsumexp(scores: Array) -> Floats:
    """Return log(sum(exp(scores))) over the last axis, on the host."""
    if not is_numpy(scores):
        from seesay.kernels.vocabulary_scores import logsumexp as torch_logsumexp  # imports torch

        return to_host(torch_logsumexp(scores)).astype(np.float64)
    peak = scores.max(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        peak = np.where(np.isfinite(peak), peak, 0)
        total = np.log(np.exp(scores - peak).sum(-1)) + peak[..., 0]
    return np.asarray(total, np.float64)


def stable_topk(scores: Array, count: int) -> tuple[Array, Array]:
    """Return the `count` highest scores of (..., M), or all if there are fewer, and their indices, best first.

    Equal scores keep their order; `topk` and `argpartition` return any of them.
    """
    size = scores.shape[-1]
    count = min(count, size)
    if is_numpy(scores):
        return _numpy_topk(scores, count)
    from seesay.kernels.vocabulary_scores import stable_topk as torch_topk  # imports torch

    return torch_topk(scores, count)


def _numpy_topk(scores: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    if count == scores.shape[-1]:
        indices = np.argsort(-scores, -1, kind="stable")
        return np.take_along_axis(scores, indices, -1), indices
    flat = scores.reshape(-1, scores.shape[-1])
    flat = np.where(np.isnan(flat), NEG_INF, flat) if np.isnan(flat.max(-1)).any() else flat
    least = np.partition(flat, -count, -1)[:, -count, None]
    above, equal = flat > least, flat == least
    kept = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdims=True)))
    indices = np.nonzero(kept)[1].reshape(len(flat), count)
    found = np.take_along_axis(flat, indices, -1)
    order = np.argsort(-found, -1, kind="stable")
    shape = (*scores.shape[:-1], count)
    return np.take_along_axis(found, order, -1).reshape(shape), np.take_along_axis(indices, order, -1).reshape(shape)


def fill_tokens(scores: Array, tokens: Sequence[int], value: float = NEG_INF) -> None:
    """Set the scores of some tokens in all rows of (..., V)."""
    if len(tokens):
        if is_numpy(scores):
            scores[..., list(tokens)] = value
        else:
            scores.index_fill_(-1, to_device_of(np.array(tokens, np.int64), scores), value)
