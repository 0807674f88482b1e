"""Speed of our search, compared with a plain beam search of one image at a time and with one that sorts.

Run `python benchmarks/decoding.py --run RUN --store STORE [--data DATA]` for a trained captioner on stored features;
the default is random weights of the same sizes (attention-gru: 512 units, 5,000 words, 64 regions) with realistic
caption lengths. `--quick` measures less. Prints tables, then one line of JSON.

The plain search is fair: it caches memory, keys and state, uses `topk`, runs without gradients in the same precision
and with the same threads, computes only unfinished hypotheses, and stops when its beam has ended. It is timed with the
layers as usually written (tanh attention), and with our decoder's step. Each figure is the median over rounds of the
ratio within a round.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ending import LENGTH, SUPPRESSED, EndingDecoder
from bench.measuring import alternate, median_ratio, peak_memory, print_result, seconds
from seesay.config import ModelConfig
from seesay.decoding import DecodingOptions, GenerationRequest, Hypothesis, generate, init_state
from seesay.models.attention import AdditiveAttention
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.protocol import DecoderState
from seesay.tokenizer import END_ID, PAD_ID, START_ID

PENALTY = 0.7
VOCABULARY = 5000

Step = Callable[[Tensor, DecoderState], tuple[Tensor, DecoderState]]


def plain_layers(decoder: AttentionGRUDecoder, ending: EndingDecoder | None) -> Step:
    """Return a decoding step of one image with the decoder's layers as usually written; the state contains the keys."""
    attention = decoder.attention
    assert isinstance(attention, AdditiveAttention)

    def linear(layer: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(
            x, layer.weight, layer.bias
        )  # torch's own product; the layers of a loaded run are packed for our search

    def step(words: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        constant, hidden = state.per_image, state.per_row["hidden"]
        inner = torch.tanh(constant["keys"] + linear(attention.query, hidden)[:, None])  # (K, N, A)
        energy = linear(attention.score, inner)[..., 0]
        if "mask" in constant:
            energy = energy.masked_fill(~constant["mask"], float("-inf"))
        context = energy.softmax(-1) @ constant["memory"]
        inputs = linear(decoder.word_gates, decoder.embedding(words)) + linear(decoder.context_gates, context)
        gates, recurrent = inputs.chunk(3, -1), linear(decoder.state_gates, hidden).chunk(3, -1)
        reset, update = (torch.sigmoid(gates[each] + recurrent[each]) for each in (0, 1))
        hidden = torch.lerp(torch.tanh(gates[2] + reset * recurrent[2]), hidden, update)
        logits, rows = hidden, {"hidden": hidden}
        for layer in decoder.output.modules():
            if isinstance(layer, nn.Linear):
                logits = linear(layer, logits)
        if ending is not None:
            logits = ending.with_end(logits, state.per_row["length"])
            rows["length"] = state.per_row["length"] + 1
        return logits, DecoderState(constant, rows)

    return step


def own_step(decoder: AttentionGRUDecoder | EndingDecoder) -> Step:
    """Return a decoding step of one image with our decoder."""

    def step(words: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        output = decoder.step(
            words[None], DecoderState(state.per_image, {n: v[None] for n, v in state.per_row.items()})
        )
        return output.logits[0], DecoderState(state.per_image, {n: v[0] for n, v in output.state.per_row.items()})

    return step


def plain_beam(step: Step, state: DecoderState, beam: int) -> tuple[list[int], float]:
    """Return the best caption of one image and its score, by a straightforward but efficient beam search.

    Args:
        step: maps words (K,) and a state to logits (K, V).
        state: of one image, with one row.
        beam: beam size K.
    """
    words, sums, tokens = torch.tensor([START_ID]), torch.zeros(1), torch.zeros(1, 0, dtype=torch.int64)
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, LENGTH + 2):
        logits, state = step(words, state)
        logits[:, SUPPRESSED] = float("-inf")
        scores = sums[:, None] + torch.log_softmax(logits, -1)
        if length == LENGTH + 1:
            ends = (scores[:, END_ID] / length**PENALTY).tolist()
            ended += zip(ends, tokens.tolist(), strict=True)
            break
        sums, flat = scores.flatten().topk(beam - len(ended))
        parents, words = flat // logits.shape[-1], flat % logits.shape[-1]
        done = words == END_ID
        if done.any():
            ended += zip((sums[done] / length**PENALTY).tolist(), tokens[parents[done]].tolist(), strict=True)
            sums, parents, words = sums[~done], parents[~done], words[~done]
        if len(words) == 0:
            break
        tokens = torch.cat([tokens[parents], words[:, None]], 1)
        state = DecoderState(state.per_image, {name: value[parents] for name, value in state.per_row.items()})
    score, best = max(ended)
    return best, score


def sorted_beam(decoder: AttentionGRUDecoder | EndingDecoder, memory: Tensor, mask: Tensor | None, beam: int) -> Tensor:
    """Return the best captions (B, T) of a batch by a search that sorts all scores and never stops early."""
    images, batch = len(memory), torch.arange(len(memory))[:, None]
    state = decoder.init_state(memory, mask)
    words, sums = torch.full((images, 1), START_ID), torch.zeros(images, 1)
    tokens = torch.zeros(images, 1, 0, dtype=torch.int64)
    done, lengths = torch.zeros(images, 1, dtype=torch.bool), torch.ones(images, 1)
    for _ in range(LENGTH + 1):
        output = decoder.step(words, state)
        output.logits[..., SUPPRESSED] = float("-inf")
        log_probs = torch.log_softmax(output.logits, -1)
        padding = torch.full_like(log_probs, float("-inf"))
        padding[..., PAD_ID] = 0.0
        scores = (sums[..., None] + torch.where(done[..., None], padding, log_probs)).flatten(1)
        ordered, indices = scores.sort(1, descending=True)
        sums, flat = ordered[:, :beam], indices[:, :beam]
        parents, words = flat // log_probs.shape[-1], flat % log_probs.shape[-1]
        lengths = lengths[batch, parents] + (~done[batch, parents]).float()
        done = done[batch, parents] | (words == END_ID)
        tokens = torch.cat([tokens[batch, parents], words[..., None]], 2)
        state = output.state.pick(parents)
    best = (sums / lengths**PENALTY).argmax(1)
    return tokens[torch.arange(images), best]


class Bench:
    """One decoder and the memory of some images."""

    def __init__(self, decoder: AttentionGRUDecoder, memory: Tensor, mask: Tensor | None, random: bool) -> None:
        self.layers = decoder
        self.ending = EndingDecoder(decoder, VOCABULARY, memory) if random else None
        self.decoder: AttentionGRUDecoder | EndingDecoder = self.ending or decoder
        self.memory, self.mask = memory, mask

    def ours(self, beam: int, images: int, length: int = LENGTH) -> list[list[Hypothesis]]:
        """Return our captions of the first images; beam 1 is greedy."""
        greedy = DecodingOptions(max_length=length)
        options = (
            DecodingOptions(strategy="beam", beam_size=beam, max_length=length, length_penalty=PENALTY)
            if beam > 1
            else greedy
        )
        mask = None if self.mask is None else self.mask[:images]
        with torch.inference_mode():
            state = init_state(self.decoder, self.memory[:images], mask)
            return generate(self.decoder, state, GenerationRequest(options))

    def plain(self, beam: int, images: int, ours: bool) -> list[tuple[list[int], float]]:
        """Return captions of the plain search, with the usual layers or our step."""
        step = own_step(self.decoder) if ours else plain_layers(self.layers, self.ending)
        found = []
        for image in range(images):
            memory = self.memory[image : image + 1]
            mask = None if self.mask is None else self.mask[image : image + 1]
            state = self.decoder.init_state(memory, mask)
            rows = {name: value[0] for name, value in state.per_row.items()}
            constant = state.per_image
            if not ours:
                attention = self.layers.attention
                assert isinstance(attention, AdditiveAttention)
                constant = {"memory": memory[0], "keys": attention.key(memory)[0]}
                constant |= {} if mask is None else {"mask": mask[0]}
            found.append(plain_beam(step, DecoderState(constant, rows), beam))
        return found

    def sorted(self, beam: int, images: int) -> Tensor:
        """Return the captions of `sorted_beam`."""
        return sorted_beam(self.decoder, self.memory[:images], None if self.mask is None else self.mask[:images], beam)

    def check(self, beam: int, images: int) -> dict[str, float]:
        """Return the share of captions equal to those of the plain search, and the largest difference of scores."""
        ours, plain = self.ours(beam, images), self.plain(beam, images, ours=False)
        same = sum(list(found[0].tokens) == tokens for found, (tokens, _) in zip(ours, plain, strict=True))
        difference = max(abs(found[0].score - score) for found, (_, score) in zip(ours, plain, strict=True))
        return {"same_captions": same / images, "largest_score_difference": difference}


def compare(bench: Bench, beam: int, images: int, slow_images: int, rounds: int) -> dict[str, float]:
    """Return the images per second of each variant, and our speed relative to it.

    Args:
        bench: the decoder and the memory.
        beam: beam size.
        images: batch size.
        slow_images: number of images for the plain search.
        rounds: number of rounds.
    """
    variants: dict[str, tuple[Callable[[], object], int]] = {
        "ours": (lambda: bench.ours(beam, images), images),
        "plain": (lambda: bench.plain(max(1, beam), slow_images, ours=False), slow_images),
        "plain_own_step": (lambda: bench.plain(max(1, beam), slow_images, ours=True), slow_images),
        "sorted": (lambda: bench.sorted(max(1, beam), images), images),
    }
    rates = alternate(
        {name: lambda work=work, count=count: count / seconds(work) for name, (work, count) in variants.items()},  # type: ignore[misc]
        rounds,
    )
    result = {f"{name}_per_s": statistics.median(values) for name, values in rates.items()}
    for name in ("plain", "plain_own_step", "sorted"):
        result[f"times_{name}"] = median_ratio(rates["ours"], rates[name])
    return result


def growth(bench: Bench, rounds: int) -> list[dict[str, float]]:
    """Return time and memory of our search as batch, beam and length grow, one at a time."""
    images = len(bench.memory)
    settings = [
        (1, 5, 20),
        (images // 4, 5, 20),
        (images, 5, 20),
        (images, 1, 20),
        (images, 10, 20),
        (images, 5, 10),
        (images, 5, 40),
    ]
    rows = []
    for batch, beam, length in settings:
        work = cast("Callable[[], object]", lambda b=batch, k=beam, t=length: bench.ours(k, b, t))
        peak = peak_memory(work).growth
        median = statistics.median(seconds(work) for _ in range(rounds))
        rows.append(
            {"batch": batch, "beam": beam, "length": length, "ms_per_image": 1000 * median / batch, "peak_mb": peak}
        )
    return rows


def random_bench(images: int) -> Bench:
    """Return a captioner of attention-gru's sizes with random weights."""
    torch.manual_seed(0)
    decoder = AttentionGRUDecoder(ModelConfig(), VOCABULARY).eval()  # the defaults are the sizes of attention-gru
    return Bench(decoder, torch.randn(images, 64, 256).relu(), None, random=True)


def trained_bench(run: Path, store: Sequence[Path], data: Path | None, images: int) -> Bench:
    """Return a trained captioner with stored features, of the test images if a data set is given."""
    from seesay.captioners.trained import TrainedCaptioner
    from seesay.data.annotations import load_dataset
    from seesay.features import FeatureStore, JoinedStores

    captioner = TrainedCaptioner.load(run, "cpu")
    joined = JoinedStores([FeatureStore(path) for path in store])
    known = (
        FeatureStore(store[0]).ids
        if data is None
        else [item.id for item in load_dataset(data, captioner.run.config.data).split("test")]
    )
    ids = [image_id for image_id in known if image_id in joined][:images]
    array, mask = joined.read(ids)
    with torch.inference_mode():
        memory = captioner.model.project(torch.from_numpy(array))
    decoder = captioner.model.decoder
    if not isinstance(decoder, AttentionGRUDecoder):
        raise SystemExit(f"{run} has another decoder; the plain search supports only attention-gru")
    return Bench(decoder, memory, None if mask is None else torch.from_numpy(mask), random=False)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    parser.add_argument("--run", type=Path, help="run folder of a trained attention-gru")
    parser.add_argument("--store", type=Path, nargs="+", help="its feature store")
    parser.add_argument("--data", type=Path, help="data set, whose test images are used")
    parser.add_argument("--images", type=int, default=0, help="images per batch; 0 = 64, or 32 with --quick")
    options = parser.parse_args()
    images = options.images or (32 if options.quick else 64)
    slow_images, rounds = (4, 2) if options.quick else (32, 7)
    bench = trained_bench(options.run, options.store, options.data, images) if options.run else random_bench(images)
    images = len(bench.memory)
    result: dict[str, object] = {
        "trained": bool(options.run),
        "images": images,
        "max_length": LENGTH,
    }
    with torch.inference_mode():
        found = bench.ours(5, images)
        result["mean_length"] = round(statistics.mean(len(h[0].tokens) for h in found), 2)
        result["cut"] = sum(not h[0].finished for h in found) / images
        result["check_beam_5"] = bench.check(5, slow_images)
        heads = ("ours/s", "plain/s", "ratio", "own step/s", "ratio", "sorted/s", "ratio")
        print(f"{'beam':6}" + "".join(f"{head:>11}" for head in heads))
        for beam in (1, 3, 5):
            row = compare(bench, beam, images, slow_images, rounds)
            result[f"beam_{beam}"] = {name: round(value, 2) for name, value in row.items()}
            shown = [row["ours_per_s"]]
            for name in ("plain", "plain_own_step", "sorted"):
                shown += [row[f"{name}_per_s"], row[f"times_{name}"]]
            print(f"{beam if beam > 1 else 'greedy':<6}" + "".join(f"{value:11.2f}" for value in shown))
        rows = growth(bench, 1 if options.quick else 3)
    print(f"\n{'batch':>6}{'beam':>6}{'length':>8}{'ms/image':>12}{'peak MB':>9}")
    for each in rows:
        print(f"{each['batch']:6}{each['beam']:6}{each['length']:8}{each['ms_per_image']:12.2f}{each['peak_mb']:9.1f}")
    result["growth"] = [{name: round(value, 2) for name, value in each.items()} for each in rows]
    print_result("decoding", **result)


if __name__ == "__main__":
    main()
