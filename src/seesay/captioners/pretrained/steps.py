"""Single decoding steps of a transformers model, so that seesay's own search runs on it.

`generate` of transformers prepares the inputs, the prompt and the key-value cache of any architecture; a callable that
is passed as its `custom_generate` takes over there. Only this file and `beam` depend on the version of transformers.
"""

import copy
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seesay.decoding.arrays import NEG_INF
from seesay.decoding.hypothesis import Hypothesis
from seesay.tokenizer import END_ID, UNK_ID

OFFSET = UNK_ID + 1
"""Token ids of the search are those of the tokenizer plus this: the first ids are special in the search."""

_PREFILL_ONLY = ("pixel_values", "pixel_attention_mask", "pixel_mask", "image_grid_thw", "image_sizes", "qformer")


def end_tokens(generation_config: Any) -> tuple[int, ...]:
    """Return the tokens that end a caption."""
    ends = generation_config.eos_token_id
    return tuple(ends) if isinstance(ends, (list, tuple)) else (int(ends),)


def forced_start(model: Any) -> int | None:
    """Return the token that a model requires at the start of every caption; None: there is none."""
    return model.generation_config.forced_bos_token_id if model.config.is_encoder_decoder else None


@dataclass(frozen=True)
class HubState:
    """The state of a model between two tokens, of B images with K hypotheses each.

    Rows of the tensors in `kwargs` and of the cache are (image, hypothesis) pairs, R = B * K. No tensor is modified in
    place, so that a search may start from the same state again.

    Attributes:
        per_row: `tokens`, the ids of the prompt and the caption, (B, K, T).
        kwargs: keyword arguments of the model's `prepare_inputs_for_generation`, among them the cache.
        pending: logits (R, V) and cross-attention (R, P) after the prompt; None once a token was added.
        rope_deltas: offset of the positions after the images, (R, 1), which Qwen-VL models store in the model.
    """

    per_row: dict[str, Tensor]
    kwargs: dict[str, Any]
    pending: tuple[Tensor, Tensor | None] | None
    rope_deltas: Tensor | None = None
    per_image: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, images: Tensor) -> "HubState":
        """Return the state of the images at positions `images` (B',)."""
        tokens = self.per_row["tokens"]
        rows = torch.arange(tokens.shape[0] * tokens.shape[1], device=tokens.device).view(tokens.shape[:2])
        return self._select(rows[images])

    def pick(self, parents: Tensor) -> "HubState":
        """Return the state in which row k of image b continues its row `parents[b, k]` (B, K')."""
        batch = torch.arange(len(parents), device=parents.device)[:, None]
        return self._select(batch * self.per_row["tokens"].shape[1] + parents)

    def _select(self, rows: Tensor) -> "HubState":
        """Return the state of the rows at flat positions `rows` (B', K')."""
        flat, tokens = rows.reshape(-1), self.per_row["tokens"]
        picked = tokens.reshape(-1, tokens.shape[-1])[flat].view(*rows.shape, -1)
        pending = self.pending and (self.pending[0][flat], _rows(self.pending[1], flat))
        count = tokens.shape[0] * tokens.shape[1]
        kwargs = {name: _select_rows(name, value, flat, count) for name, value in self.kwargs.items()}
        return HubState({"tokens": picked}, kwargs, pending, _rows(self.rope_deltas, flat))


class HubOutput(NamedTuple):
    """The output of a decoding step; see `seesay.models.protocol.StepOutput`."""

    logits: Tensor
    state: HubState
    attention: Tensor | None


@dataclass(frozen=True)
class HubDecoder:
    """The decoder of a transformers model, for `seesay.decoding.generate`.

    Attributes:
        model: the model whose `generate` was called: of some architectures a part of the whole model.
        ends: tokens that end a caption.
        regions: positions of the cross-attention that are regions of the image, for attention weights; None: return
            none.
    """

    model: Any
    ends: tuple[int, ...]
    regions: slice | None = None

    def step(self, tokens: Tensor, state: HubState) -> HubOutput:
        """Return the logits (B, K, V) of the token after `tokens` (B, K); ids are those of the search."""
        if state.pending is None:
            state, logits, attention = self.advance(self._to_model(tokens), state)
        else:  # `tokens` is the start token: the prompt was processed already
            (logits, attention), state = state.pending, replace(state, pending=None)
        shape = tokens.shape
        maps = None if attention is None else attention.reshape(*shape, -1)
        return HubOutput(self.to_search(logits).reshape(*shape, -1), state, maps)

    def advance(self, tokens: Tensor, state: HubState) -> tuple[HubState, Tensor, Tensor | None]:
        """Add tokens (B, K) in the tokenizer's ids; return the state, logits (R, V) and attention (R, N) or None."""
        every = torch.cat([state.per_row["tokens"], tokens[..., None]], -1)
        kwargs = {name: _copy_cache(value) for name, value in state.kwargs.items()}
        if state.rope_deltas is not None:
            _rope_owner(self.model).rope_deltas = state.rope_deltas
        outputs = self._forward(every.view(-1, every.shape[-1]), kwargs, first=False)
        kwargs = self._update(outputs, kwargs)
        following = HubState({"tokens": every}, kwargs, None, state.rope_deltas)
        return following, outputs.logits[:, -1].float(), self._attention(outputs)

    def prefill(self, ids: Tensor, kwargs: dict[str, Any]) -> HubState:
        """Process the prompts `ids` (B, L) with the images; return the state before the first token."""
        if hasattr(self.model, "_get_initial_cache_position"):  # before transformers 5
            kwargs = self.model._get_initial_cache_position(ids.shape[1], ids.device, kwargs)
        outputs = self._forward(ids, kwargs, first=True)
        kwargs = self._update(outputs, kwargs)
        if self.model.config.model_type != "git":  # which encodes the image at every token before transformers 5
            kwargs = {name: value for name, value in kwargs.items() if not name.startswith(_PREFILL_ONLY)}
        owner = _rope_owner(self.model)
        deltas = None if owner is None else owner.rope_deltas.reshape(len(ids), -1)
        pending = outputs.logits[:, -1].float(), self._attention(outputs)
        state = HubState({"tokens": ids[:, None]}, kwargs, pending, deltas)
        forced = forced_start(self.model)
        if forced is None:
            return state
        state, logits, attention = self.advance(torch.full_like(ids[:, :1], forced), state)
        return replace(state, pending=(logits, attention))

    def _forward(self, ids: Tensor, kwargs: dict[str, Any], first: bool) -> Any:
        prepare = self.model.prepare_inputs_for_generation
        extra: dict[str, Any] = {}
        if "next_sequence_length" in _generation_parameters():  # transformers 5
            extra = {"is_first_iteration": first} if first else {"next_sequence_length": 1}
        inputs = prepare(ids, **extra, **kwargs)
        if self.regions is not None:
            inputs["output_attentions"] = True
        return self.model(**inputs, return_dict=True)

    def _update(self, outputs: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        is_encoder_decoder = self.model.config.is_encoder_decoder
        updated: dict[str, Any] = self.model._update_model_kwargs_for_generation(
            outputs, dict(kwargs), is_encoder_decoder=is_encoder_decoder
        )
        return updated

    def _attention(self, outputs: Any) -> Tensor | None:
        """Return the cross-attention of the last position, (R, N): the mean over layers and heads, rows sum to 1."""
        if self.regions is None:
            return None
        weights = torch.stack([layer[:, :, -1, self.regions].float().mean(1) for layer in outputs.cross_attentions])
        mean = weights.mean(0)
        return mean / mean.sum(-1, keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)

    def _to_model(self, tokens: Tensor) -> Tensor:
        return torch.where(tokens < OFFSET, self.ends[0], tokens - OFFSET)

    def to_search(self, logits: Tensor) -> Tensor:
        """Return logits (R, V) with the columns of the search's special tokens before them, (R, OFFSET + V)."""
        ends = list(self.ends)
        head = logits.new_full((len(logits), OFFSET), NEG_INF)
        head[:, END_ID] = logits[:, ends].logsumexp(-1)
        mapped = torch.cat([head, logits], -1)
        mapped[:, [end + OFFSET for end in ends]] = NEG_INF
        return mapped


def start(model: Any, features: Mapping[str, Any], regions: slice | None = None) -> tuple[HubDecoder, HubState]:
    """Return the decoder and its state after the prompts and images of a batch.

    Args:
        model: a transformers model.
        features: arguments of its `generate`.
        regions: see `HubDecoder`.
    """
    found: list[tuple[HubDecoder, HubState]] = []

    def take_over(model: Any, input_ids: Tensor, generation_config: Any = None, **kwargs: Any) -> Tensor:
        for name in ("logits_processor", "stopping_criteria"):
            kwargs.pop(name, None)
        decoder = HubDecoder(model, end_tokens(generation_config), regions)
        found.append((decoder, decoder.prefill(input_ids, kwargs)))
        return input_ids

    model.generate(**features, custom_generate=take_over, **PLAIN)
    return found[0]


PLAIN: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "max_new_tokens": 1,
    "use_cache": True,
    "return_dict_in_generate": False,
}
"""Arguments of `generate` that replace those of a model's generation configuration."""


@functools.cache
def _generation_parameters() -> Sequence[str]:
    from transformers import GenerationMixin

    return tuple(inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters)


def _rope_owner(model: Any) -> Any:
    return next((part for part in model.modules() if getattr(part, "rope_deltas", None) is not None), None)


def _rows(value: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if value is None else value[rows]


def _select_rows(argument: str, value: Any, rows: Tensor, count: int) -> Any:
    """Return the rows of a cache, tensor or mapping of tensors with `count` rows; any other argument as it is."""
    if hasattr(value, "reorder_cache"):
        cache = _copy_cache(value)
        cache.reorder_cache(rows)
        return cache
    if isinstance(value, Tensor):
        # Positions in time, height and width have the rows as second dimension; cache positions have none.
        dim = 1 if argument == "position_ids" and value.ndim == 3 else 0
        has_rows = argument != "cache_position" and value.ndim > dim and value.shape[dim] == count
        return value.index_select(dim, rows) if has_rows else value
    if isinstance(value, Mapping):  # the output of an encoder
        selected = copy.copy(value)
        for name, part in value.items():
            selected[name] = _select_rows(name, part, rows, count)  # type: ignore[index]
        return selected
    return value


def _copy_cache(value: Any) -> Any:
    """Return a copy of a cache that shares its tensors, which the layers replace instead of modifying; or the value."""
    if not hasattr(value, "reorder_cache"):
        return value
    copied = copy.copy(value)
    for name in ("self_attention_cache", "cross_attention_cache"):
        if hasattr(value, name):
            setattr(copied, name, _copy_cache(getattr(value, name)))
    if hasattr(value, "is_updated"):
        copied.is_updated = dict(value.is_updated)
    if "layers" in vars(value):
        copied.layers = [copy.copy(layer) for layer in value.layers]
    return copied


def score_attention(
    decoder: HubDecoder, state: HubState, found: Sequence[Sequence[Hypothesis]]
) -> list[list[Hypothesis]]:
    """Return hypotheses with their attention weights, computed with teacher forcing.

    Args:
        decoder: with `regions`.
        state: before the first token of B images.
        found: hypotheses of each image.
    """
    rows = max(map(len, found))
    length = 1 + max(len(each.tokens) for hypotheses in found for each in hypotheses)
    fed = torch.full((len(found), rows, length), END_ID)
    for image, hypotheses in enumerate(found):
        for row, each in enumerate(hypotheses):
            fed[image, row, 1 : 1 + len(each.tokens)] = torch.tensor(each.tokens)
    fed = fed.to(state.per_row["tokens"].device)
    state = state.pick(torch.zeros_like(fed[..., 0]))
    maps = []
    for step in range(length):
        output = decoder.step(fed[..., step], state)
        state = output.state
        assert output.attention is not None
        maps.append(output.attention.cpu())
    stacked = torch.stack(maps, 2).numpy()  # (B, K, T + 1, N)
    return [
        [replace(each, attention=stacked[image, row, : len(each.log_probs)]) for row, each in enumerate(hypotheses)]
        for image, hypotheses in enumerate(found)
    ]
