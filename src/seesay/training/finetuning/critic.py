"""The second stage of a pretrained model: self-critical training on the CIDEr-D of sampled captions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from seesay.captioners.pretrained.captioner import PretrainedCaptioner
from seesay.captioners.pretrained.splitting import HubBatch, HubPart
from seesay.captioners.pretrained.steps import OFFSET, HubDecoder, end_tokens, start
from seesay.captioners.pretrained.targets import IGNORED
from seesay.decoding import GenerationRequest, Hypothesis, generate, sample_captions
from seesay.tokenizer import END_ID
from seesay.training.finetuning.encode_once import IMAGE_OF_ROW
from seesay.training.losses import policy_gradient, sequence_log_probs
from seesay.training.scst import Critic, RatedSamples, rewarded_tokens, without_dropout

Samples = Sequence[Sequence[Hypothesis]]


@dataclass(frozen=True)
class Criticism:
    """Sampled captions of a batch with their rewards.

    Attributes:
        samples: K captions of each of B images, in the search's token ids.
        rated: their rewards.
    """

    samples: Samples
    rated: RatedSamples


class FinetuningCritic:
    """Samples captions, and returns their policy-gradient loss; see `seesay.training.scst.SelfCritic`.

    Args:
        captioner: the model with its processor.
        scst: how captions are sampled and rewarded.
    """

    def __init__(self, captioner: PretrainedCaptioner, scst: Critic) -> None:
        self.captioner = captioner
        self.scst = scst
        self._decoder = HubDecoder(captioner.model, end_tokens(captioner.model.generation_config))

    @torch.no_grad()
    def sample(self, ids: Sequence[str], encoded: HubBatch) -> Criticism:
        """Return K samples per image without dropout, with their advantages; samples use torch's global generator."""
        scst = self.scst
        found: dict[int, Sequence[Hypothesis]] = {}
        greedy: dict[int, Sequence[Hypothesis]] = {}
        with without_dropout(self.captioner.model):
            for part in encoded.parts:
                decoder, state = start(self.captioner.model, self._features(part))
                draws = scst.draws(len(part.places), self.captioner.model.device)
                found |= zip(part.places, sample_captions(decoder, state, scst.sampling, draws), strict=True)
                if scst.baseline == "greedy":
                    best = generate(decoder, state, GenerationRequest(scst.options))
                    greedy |= zip(part.places, best, strict=True)
        samples = [found[place] for place in range(len(ids))]
        return Criticism(
            samples,
            scst.rate(
                ids,
                rewarded_tokens(samples),
                lambda: rewarded_tokens([greedy[place] for place in range(len(ids))]),
            ),
        )

    def passes(self, encoded: HubBatch, found: Criticism, limit: int) -> Iterator["SampledPass"]:
        """Yield the samples as arguments of forward passes of at most `limit` captions (0: no limit), on the CPU."""
        family = self.captioner.family
        rows = [(image, number) for image, samples in enumerate(found.samples) for number in range(len(samples))]
        for group in self.captioner.splitter.group_prompts([encoded.inputs[image][1] for image, _ in rows]):
            size = limit or len(group)
            for at in range(0, len(group), size):
                part = [rows[place] for place in group[at : at + size]]
                samples = [found.samples[image][number] for image, number in part]
                inputs = family.training_inputs(
                    [Image.fromarray(encoded.inputs[image][0]) for image, _ in part],
                    [encoded.inputs[image][1] for image, _ in part],
                    [[*(token - OFFSET for token in each.tokens), family.end] for each in samples],
                )
                targets = torch.full_like(inputs["labels"], IGNORED)
                for row, each in enumerate(samples):
                    targets[row, : len(each.tokens) + 1] = torch.tensor([*each.tokens, END_ID])
                cut = torch.tensor([not each.finished for each in samples])
                advantages = torch.tensor([found.rated.advantages[image, number] for image, number in part])
                del inputs["labels"]
                inputs[IMAGE_OF_ROW] = tuple(image for image, _ in part)
                yield SampledPass(inputs, targets, cut, advantages.to(torch.float32))

    def loss(self, logits: Tensor, sampled: "SampledPass") -> Tensor:
        """Return the policy-gradient loss of the samples of a pass, summed.

        Args:
            logits: (R, T, V), in the tokenizer's ids.
            sampled: the samples.
        """
        targets = sampled.targets.to(logits.device)
        real = targets != IGNORED
        mapped = self._decoder.to_search(logits[real].float())  # several end tokens are one event
        words = targets[real]
        log_probs = mapped.log_softmax(-1).gather(1, words[:, None])[:, 0]
        rows = torch.arange(len(targets), device=logits.device)[:, None].expand_as(targets)[real]
        log_probs = sequence_log_probs(log_probs, sampled.cut.to(logits.device)[rows] & (words == END_ID))
        return policy_gradient(log_probs, sampled.advantages.to(logits.device)[rows], 1)

    def _features(self, part: HubPart) -> dict[str, object]:
        return {name: self.captioner.on_device(value) for name, value in part.features.items()}


@dataclass(frozen=True)
class SampledPass:
    """Samples as arguments of a forward pass.

    Attributes:
        inputs: arguments of the model, and `IMAGE_OF_ROW`.
        targets: the tokens of the last T positions in the search's ids, (R, T); `IGNORED` after the end.
        cut: whether a sample was cut at the maximum length, (R,).
        advantages: (R,).
    """

    inputs: dict[str, object]
    targets: Tensor
    cut: Tensor
    advantages: Tensor
